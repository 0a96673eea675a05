"""The winner of a search, a grid or a sweep as a study file of its own, which runs it on the reported seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from vdt.config.layers import format_yaml
from vdt.evaluation.records import CellRecord
from vdt.evaluation.trials import Trial
from vdt.experiments.cells import resolve_cells, resolve_study, split_finished
from vdt.experiments.results_store import digest_of
from vdt.experiments.search_trials import APART, choose_score, get_search, load_trials
from vdt.experiments.study import Study, expand
from vdt.system.files import make_file_name, write_text
from vdt.system.home import home

FOUND = Path("params", "found")  # folder below HOME
LONGEST_NAME = 40  # of a study
DIGITS = 8  # of the digest in the name of a study that would be longer


def find_found_file(study: str, task: Sequence[str] = ()) -> Path:
    """Return the place of a winner's file, below HOME.

    Args:
        study: its name.
        task: env and method, where the study has several and each has its winner.
    """
    name = "-".join([study, *(make_file_name(word).lower() for word in task)])
    if len(name) > LONGEST_NAME:
        name = f"{name[: LONGEST_NAME - DIGITS - 1]}-{digest_of({'name': name})[:DIGITS]}"
    return FOUND / f"{name}.yaml"


def make_found_file(
    facts: Mapping[str, Any],
    best: Trial,
    tried: int,
    envs: Sequence[str],
    method: str,
    records: Sequence[CellRecord] = (),
    changes: Mapping[str, Any] | None = None,
) -> str:
    """Return the study file of a winner on its reported seeds.

    Args:
        facts: of the study, with `frozen` (`Study.describe`).
        best: its winner.
        tried: number of settings that have a score.
        envs: of the winner.
        method: of the winner.
        records: the winner's finished cells, which say what data it was chosen on.
        changes: settings of the reported cells alone.
    """
    title, seeds = facts["title"] or facts["name"], ", ".join(map(str, best.scores_by_seed))
    frozen = facts["frozen"]
    content: dict[str, Any] = {
        "title": f"Winner of {title}",
        "note": f"Trial {best.number} of {tried}, chosen on tuning seeds {seeds}.",
        **{key: frozen[key] for key in ("published", "share_training", "preset", "source")},
        "envs": list(envs),
        "methods": [method],
        "seeds": frozen["seeds"],
        "data_seeds": frozen["data_seeds"],
        "set": {**frozen["set"], **_make_plain(best.settings), **(changes or {})},
    }
    lines = [
        f"Found by {facts['name']} on {date.today().isoformat()}: settings {best.patch or best.number}, the best of {tried}.",
        *sorted(
            {
                f"Data: {make_file_name(r.env)}, {r.snapshot.source}, md5 {r.snapshot.md5}, {r.preset} preset."
                for r in records
            }
        ),
        f"Score on tuning seeds {seeds}: {_format_score(best)}. It was chosen for this score, which is biased upward.",
        f"Seeds {', '.join(map(str, frozen['seeds']))} and their evaluation episodes were not used for the choice.",
    ]
    head = "".join(f"# {line}\n" for line in lines)
    return head + format_yaml({key: value for key, value in content.items() if value not in ("", [])})


def _format_score(best: Trial) -> str:
    """Return the mean score, with its standard error over seeds if there are several."""
    scores = list(best.scores_by_seed.values())
    error = f" ± {statistics.stdev(scores) / math.sqrt(len(scores)):.2g}" if len(scores) > 1 else ""
    return f"{best.score:.4g}{error}"


def _make_plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}


def describe_search(study: Study, arguments: Mapping[str, str]) -> dict[str, Any]:
    """Return the facts of a search that its report needs beside those of its cells.

    Args:
        study: of the search.
        arguments: as of `resolve_cells`.

    Returns:
        `trials`, kind of `score`, and trials of the searches `beside` it.
    """
    search, overrides, reuse = get_search(study), arguments.get("set", ""), arguments.get("reuse") or "exact"
    first = expand(study, overrides)[0].config
    facts: dict[str, Any] = {
        "trials": load_trials(study, overrides, reuse),
        "score": choose_score(first, search),
        "beside": {name: load_trials(resolve_study({**arguments, "study": name})) for name in search.beside},
    }
    return facts


def add_winners(cells: Sequence[CellRecord], study: Mapping[str, Any], reuse: str, command: str) -> Mapping[str, Any]:
    """Return the facts of a study with its winners: their study files, commands, and cells on the reported seeds.

    The file of a grid's winner is written here, once all of its cells are finished; a search has written its own.

    Args:
        cells: finished ones.
        study: its facts.
        reuse: which results are taken for the reported seeds.
        command: that starts the flow.
    """
    from vdt.reporting.search_report import is_ranked, list_rankings

    if not is_ranked(study):
        return study
    found: dict[str, dict[str, str]] = {}
    reported: list[CellRecord] = []
    rankings = list_rankings(cells, study)
    for ranking in rankings:
        best, task = ranking.best, (*ranking.envs, ranking.method) if len(rankings) > 1 else ()
        file = find_found_file(study["name"], task)
        if "trials" not in study and not study.get("missing"):
            own = [cell for cell in cells if ranking.holds(cell) and cell.patch == best.name]
            trial = Trial(best.number, best.values, best.state, best.mean, best.scores, patch=best.name)
            fresh = {"evaluation.seed": own[0].config["evaluation.seed"] + APART}
            text = make_found_file(study, trial, len(ranking.complete), ranking.envs, ranking.method, own, fresh)
            write_text(home() / file, text)
        if (home() / file).is_file():
            found[ranking.task] = {"file": str(file), "command": f"{command} run --study {file}"}
            reported += split_finished(resolve_cells({"study": str(home() / file), "reuse": reuse})[0], reuse)[1]
    return {**study, "found": found, "reported": reported}

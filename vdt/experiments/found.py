"""The winner of a search, a grid or a sweep as a study file of its own, which runs it on the reported seeds."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdt.config.errors import ConfigError
from vdt.config.layers import format_yaml
from vdt.environments.scores import compute_standard_error
from vdt.evaluation.records import CellRecord
from vdt.evaluation.trials import Trial
from vdt.experiments.cells import resolve_cells, resolve_study, split_finished
from vdt.experiments.grid import shorten_name
from vdt.experiments.results_store import digest_of
from vdt.experiments.search_trials import EPISODE_SEED_GAP, choose_score, find_search_folder, get_search, load_trials
from vdt.experiments.study import Study, expand, load_study
from vdt.system.files import make_file_name, write_text
from vdt.system.home import home, name_home

if TYPE_CHECKING:
    from vdt.reporting.ranking import Ranking

logger = logging.getLogger(__name__)

FOUND = Path("params", "found")  # folder below HOME
LONGEST_NAME = 40  # of a study


def find_winner_file(study: str, task: Sequence[str] = ()) -> Path:
    """Return the place of a winner's file, below HOME.

    Args:
        study: its name.
        task: env and method, where the study has several and each has its winner.
    """
    name = "-".join([study, *(make_file_name(word).lower() for word in task)])
    return FOUND / f"{shorten_name(name, LONGEST_NAME)}.yaml"


def make_winner_file(
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
        facts: of the study, with `frozen` (`Study.describe`), and as `found_by` what names it among those of its name.
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
        "note": f"Trial {best.number}, the best of {tried} complete ones, chosen on tuning seeds {seeds}.",
        "found_by": facts.get("found_by") or facts["name"],
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
    error = compute_standard_error(list(best.scores_by_seed.values()))
    return f"{best.score:.4g}{'' if error is None else f' ± {error:.2g}'}"


def _make_plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}


def write_winner(
    study: Study, overrides: str, folder: Path, best: Trial, tried: int, records: Sequence[CellRecord]
) -> Path:
    """Write the study file of a search's winner, which names the search by its folder; return its path.

    Args:
        study: of the search.
        overrides: `--set` text.
        folder: of its trials (`find_search_folder`).
        best: its winner.
        tried: number of settings that have a score.
        records: the winner's finished cells.
    """
    facts = {**study.describe(overrides), "found_by": folder.name}
    text = make_winner_file(facts, best, tried, study.envs, study.methods[0], records)
    return write_text(home() / find_winner_file(study.name), text)


def describe_search(study: Study, arguments: Mapping[str, str]) -> dict[str, Any]:
    """Return the facts of a search that its report needs beside those of its cells.

    Args:
        study: of the search.
        arguments: as of `resolve_cells`.

    Returns:
        `trials`, kind of `score`, trials of the searches `beside` it, and the name of its folder as `found_by`.
    """
    search, overrides, reuse = get_search(study), arguments.get("set", ""), arguments.get("reuse") or "exact"
    first = expand(study, overrides)[0].config
    facts: dict[str, Any] = {
        "trials": load_trials(study, overrides, reuse),
        "score": choose_score(first, search),
        "beside": {
            name: load_trials(resolve_study({**arguments, "study": name}), overrides, reuse) for name in search.beside
        },
        "found_by": find_search_folder(study, overrides, reuse).name,
    }
    return facts


def add_winners(cells: Sequence[CellRecord], study: Mapping[str, Any], reuse: str, command: str) -> Mapping[str, Any]:
    """Return the facts of a study with its winners: their study files, commands, and cells on the reported seeds.

    The file of a grid's winner is written here, once all of its cells are finished. A search has written its own; where the
    file is of another search of its name (other options), that is left out.

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
    rankings, init_from = list_rankings(cells, study), study["frozen"].get("init_from", "")
    for ranking in rankings:
        file = find_winner_file(study["name"], (*ranking.envs, ranking.method) if len(rankings) > 1 else ())
        if "trials" in study:
            is_there = (home() / file).is_file() and load_study(str(home() / file)).found_by == study["found_by"]
        else:
            is_there = not study.get("missing")
            if is_there:
                _write_grids_winner(home() / file, ranking, cells, study)
        if is_there:
            begin = f" --init-from {shlex.quote(init_from)}" if init_from else ""
            found[ranking.task] = {"file": str(file), "command": f"{name_home()}{command} run --study {file}{begin}"}
            reported += _find_reported({"study": str(home() / file), "init_from": init_from, "reuse": reuse})
    return {**study, "found": found, "reported": reported}


def _write_grids_winner(path: Path, ranking: Ranking, cells: Sequence[CellRecord], study: Mapping[str, Any]) -> None:
    """Write the study file of the best settings that a grid has tried on a task."""
    best = ranking.best
    own = [cell for cell in cells if ranking.holds(cell) and cell.patch == best.name]
    trial = Trial(best.number, best.values, best.state, best.mean, best.scores, patch=best.name)
    fresh = {"evaluation.seed": own[0].config["evaluation.seed"] + EPISODE_SEED_GAP}
    tried = digest_of({"cells": [[cell.key, dict(cell.config), cell.snapshot.md5] for cell in cells]})
    facts = {**study, "found_by": f"{study['name']}-{tried}"}
    write_text(path, make_winner_file(facts, trial, len(ranking.complete), ranking.envs, ranking.method, own, fresh))


def _find_reported(arguments: Mapping[str, str]) -> list[CellRecord]:
    """Return the finished cells of a winner's study; none, with a warning, where it cannot be resolved here."""
    try:
        return split_finished(resolve_cells(arguments)[0], arguments["reuse"])[1]
    except ConfigError as error:  # as where the policy that training began from is out of reach
        logger.warning(f"the winner's cells on the reported seeds are left out of the report: {error}")
        return []

"""The winner of a search as a study file of its own, which runs it on the reported seeds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vdt.config.layers import format_yaml, parse_overrides
from vdt.config.schema import flatten
from vdt.evaluation.trials import Trial
from vdt.experiments.cells import resolve_cells, resolve_study, split_finished
from vdt.experiments.search_trials import choose_score, get_search, load_trials, make_reported
from vdt.experiments.study import Study, expand
from vdt.system.home import home

FOUND = Path("params", "found")  # folder below HOME


def get_found_path(study: Study) -> Path:
    """Return the file of a search's winner."""
    return home() / FOUND / f"{study.name}.yaml"


def make_found_file(study: Study, best: Trial, trials: int, overrides: str = "") -> str:
    """Return the study file of a search's winner on its reported seeds.

    Args:
        study: of the search.
        best: its winner.
        trials: number of settings that were tried.
        overrides: `--set` text of the search.
    """
    reported = make_reported(study, best.settings)
    settings = {**flatten(reported.set), **parse_overrides(overrides), **best.settings}
    content: Mapping[str, Any] = {
        "title": f"Winner of {study.title or study.name}",
        "note": f"Trial {best.number} of {trials}, chosen on tuning seeds {', '.join(map(str, best.scores_by_seed))}.",
        "published": study.published,
        "share_training": study.share_training,
        "preset": study.preset,
        "source": study.source,
        "envs": list(reported.envs),
        "methods": list(reported.methods),
        "seeds": list(reported.seeds),
        "set": {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()},
    }
    head = f"# Found by the search {study.name}: trial {best.number}, mean score {best.score:.4g} on tuning seeds.\n"
    return head + format_yaml({key: value for key, value in content.items() if value != ""})


def describe_search(study: Study, arguments: Mapping[str, str], command: str) -> dict[str, Any]:
    """Return the facts of a search that its report needs beside those of its cells.

    Args:
        study: of the search.
        arguments: as of `resolve_cells`.
        command: that starts the flow.

    Returns:
        `trials`, kind of `score`, trials of the searches `beside` it, and once the winner is frozen `found` (its file and
        the command that runs it) and `reported`, its cells on the reported seeds.
    """
    search, overrides, reuse = get_search(study), arguments.get("set", ""), arguments.get("reuse") or "exact"
    first = expand(study, overrides)[0].config
    facts: dict[str, Any] = {
        "trials": load_trials(study, overrides, reuse),
        "score": choose_score(first, search),
        "beside": {name: load_trials(resolve_study({**arguments, "study": name})) for name in search.beside},
    }
    path = get_found_path(study)
    if path.is_file():
        cells, _ = resolve_cells({"study": str(path)})
        facts["reported"] = split_finished(cells, reuse)[1]
        facts["found"] = {"file": str(path), "command": f"{command} run --study {path}"}
    return facts

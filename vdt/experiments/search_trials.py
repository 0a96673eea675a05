"""From a search to its trials' cells and back: folders, settings, scores."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vdt.config.errors import ConfigError
from vdt.config.layers import parse_overrides
from vdt.config.schema import Config, flatten
from vdt.evaluation.records import CellRecord
from vdt.evaluation.trials import COMPLETE, Trial
from vdt.experiments.data_keys import find_data_key
from vdt.experiments.results_store import compute_code_digest, compute_identity, digest_of
from vdt.experiments.search import Search, TrialPlace, list_corners
from vdt.experiments.study import Cell, Study, expand, make_reported
from vdt.system.extras import make_install_command
from vdt.system.home import home

if TYPE_CHECKING:
    from vdt.experiments.search_store import Journal, SearchStore

SEARCHES = "searches"  # folder below HOME/.vdt
EPISODE_SEED_GAP = 10_000  # episode seeds between a search's evaluation and the reported one, at least
NO_PART = ("trials", "beside")  # fields of a search that its trials do not depend on


def make_base(study: Study) -> Study:
    """Return the study of a search's trials without their patches: tuning seeds, and evaluation seeds of its own."""
    search = get_search(study)
    measured = {**study.set, "evaluation.seed": search.evaluation_seed}
    return dataclasses.replace(study, set=measured, patches={"": {}})


def get_search(study: Study) -> Search:
    """Return the section `search` of a study.

    Raises:
        ConfigError: if it has none.
    """
    if study.search is None:
        raise ConfigError(f"{study.place or 'this run'} has no section `search`, and so no trials")
    return study.search


def check_search(study: Study, overrides: str = "") -> list[Cell]:
    """Resolve the settings at the ends of a search's space, and return the cells of one of them.

    Raises:
        ConfigError: naming the first value that is not accepted, or a score that cells like these do not have; or that
            Optuna is not installed.
    """
    _import_store()
    search, base = get_search(study), make_base(study)
    for where, given in (("set", flatten(study.set)), ("--set", parse_overrides(overrides))):
        lost = [key for key in given if key in search.space or key == "evaluation.seed"]
        if lost:
            by = "evaluation_seed" if lost[0] == "evaluation.seed" else "space"
            raise ConfigError(f"{study.place}: search: {lost[0]} is given by {by}, and by {where}; leave it out there")
    corners = {f"space-{place}": settings for place, settings in enumerate(list_corners(search.space))}
    cells = expand(dataclasses.replace(base, patches=corners), overrides)
    for cell in cells:
        _check_measure(cell.config, search, study.place)
    reported = expand(make_reported(study, {}), overrides)
    if any(abs(cell.config.evaluation.seed - search.evaluation_seed) < EPISODE_SEED_GAP for cell in reported):
        raise ConfigError(
            f"{study.place}: search: evaluation_seed {search.evaluation_seed} is that of reported episodes, or less than "
            f"{EPISODE_SEED_GAP:,} from it; episodes on which a winner is chosen are not reported"
        )
    if search.pruner != "none" and len(cells) > len(corners) * len(study.seeds):
        raise ConfigError(
            f"{study.place}: search: pruner {search.pruner} compares scores of one env and one data seed; "
            f"{len(cells) // len(corners) // len(study.seeds)} are given"
        )
    return cells[: len(study.seeds)]


def _check_measure(config: Config, search: Search, place: str) -> None:
    """Refuse what would leave trials without a score, or without the scores that a pruner compares."""
    where, evaluation = f"{place}: search: ", config.evaluation
    score = choose_score(config, search)
    if score == "return" and not config.has_environment:
        raise ConfigError(
            f"{where}score return needs an environment, which {config.env} has not; take held_out or fitted_q"
        )
    if score == "return" and evaluation.max_episode_steps:
        raise ConfigError(
            f"{where}episodes that are cut short have no score: set evaluation.max_episode_steps to 0, "
            f"not {evaluation.max_episode_steps}"
        )
    if score == "held_out" and config.data.held_out_fraction == 0:
        raise ConfigError(f"{where}score held_out needs held-out episodes: set data.held_out_fraction, e.g. to 0.1")
    if score == "fitted_q" and evaluation.fitted_q_steps == 0:
        raise ConfigError(f"{where}score fitted_q needs a fit: set evaluation.fitted_q_steps, e.g. to 10000")
    if search.pruner == "none":
        return
    if score != "return":
        raise ConfigError(f"{where}pruner {search.pruner} compares returns while a policy trains; score is {score}")
    if "actor.gradient_steps" in search.space:
        raise ConfigError(
            f"{where}pruner {search.pruner} compares trials after as many steps: leave actor.gradient_steps out"
        )
    if evaluation.curve_points == 0:
        raise ConfigError(
            f"{where}pruner {search.pruner} needs scores while a policy trains: set evaluation.curve_points"
        )


def choose_score(config: Config, search: Search) -> str:
    """Return the quantity that a search maximises on a cell."""
    return search.score or ("return" if config.has_environment else "held_out")


def find_search_folder(study: Study, overrides: str = "", reuse: str = "exact") -> Path:
    """Return the folder of a search: named by all that its trials depend on, apart from their number.

    Args:
        study: of the search.
        overrides: `--set` text.
        reuse: "exact", or "settings" for the newest search of the same settings and data with any code.

    Raises:
        ConfigError: if a value is not accepted, or the data is unavailable.
    """
    search = get_search(study)
    first = dataclasses.replace(make_base(study), seeds=search.seeds[:1])
    keys: dict[str, str] = {}
    cells = [compute_identity(c.config, find_data_key(c.config, keys)) for c in expand(first, overrides)]
    content = {name: value for name, value in dataclasses.asdict(search).items() if name not in NO_PART}
    identity = digest_of({"cells": cells, "search": repr(content)})
    root = home() / ".vdt" / SEARCHES
    folder = root / f"{study.name}-{identity}-{compute_code_digest()}"
    if reuse == "settings" and not folder.is_dir():
        others = root.glob(f"{study.name}-{identity}-*")
        return max(others, key=lambda other: other.stat().st_mtime, default=folder)
    return folder


def open_search(folder: Path, search: Search, first_rung: int = 1) -> SearchStore:
    """Open the trials of a search's folder.

    Raises:
        ConfigError: if Optuna is not installed.
    """
    store: SearchStore = _import_store().SearchStore(folder, search, first_rung)
    return store


def open_journal(place: Mapping[str, Any]) -> Journal:
    """Open the journal that `OpenedCell.search` names; raises as `open_search`."""
    journal: Journal = _import_store().Journal(Path(place["folder"]), str(place["pruner"]), int(place["first_rung"]))
    return journal


def _import_store() -> ModuleType:
    try:
        from vdt.experiments import search_store
    except ImportError as error:
        raise ConfigError(f"a search needs Optuna: {make_install_command('search')} ({error})") from None
    return search_store


def find_first_rung(config: Config) -> int:
    """Return the gradient steps before the first score while an actor trains."""
    return max(1, config.actor.gradient_steps // (config.evaluation.curve_points + 1))


def choose_trial(study: Study, word: str, seeds: Sequence[int], overrides: str, reuse: str) -> Study:
    """Return the study of one trial's cells.

    Args:
        study: of the search.
        word: the trial's number.
        seeds: of its cells, tuning seeds all.
        overrides: `--set` text.
        reuse: as of `find_search_folder`.

    Raises:
        ConfigError: if there is no such trial, or a seed is none of the tuning seeds.
    """
    search = get_search(study)
    refuse_seeds(seeds, search)
    folder = find_search_folder(study, overrides, reuse)
    store = open_search(folder, search) if word.isdigit() and folder.is_dir() else None
    trial = next((trial for trial in store.list_trials() if trial.number == int(word)), None) if store else None
    if store is None or trial is None:
        raise ConfigError(f"--trial: the search {study.name} has no trial {word} in {folder}")
    place = TrialPlace(trial.number, str(folder), store.run_id)
    return dataclasses.replace(make_base(study), seeds=tuple(seeds), patches={trial.patch: trial.settings}, trial=place)


def describe_journal(study: Study, config: Config) -> dict[str, Any]:
    """Return what a cell needs to report its scores while it trains (`OpenedCell.search`); empty where none looks at them.

    A pruner compares trials by their first tuning seed. The others are trained only for trials that it lets go on.
    """
    search, place = study.search, study.trial
    if search is None or place is None or search.pruner == "none" or config.seed != search.seeds[0]:
        return {}
    return {"folder": place.folder, "pruner": search.pruner, "first_rung": find_first_rung(config)}


def refuse_seeds(seeds: Sequence[int], search: Search) -> None:
    """Refuse seeds that are none of the tuning seeds.

    Raises:
        ConfigError: saying which are reported seeds.
    """
    for seed in seeds:
        if seed in search.report_seeds:
            raise ConfigError(f"--seeds: {seed} is a reported seed of this search, which only its winner is run on")
        if seed not in search.seeds:
            raise ConfigError(f"--seeds: {seed} is none of the search's tuning seeds {list(search.seeds)}")


def load_trials(study: Study, overrides: str = "", reuse: str = "exact") -> list[Trial]:
    """Return the trials of a study's search so far, in the order of their numbers; arguments as of `find_search_folder`.

    Raises:
        ConfigError: if the study has no search, or Optuna is not installed.
    """
    folder = find_search_folder(study, overrides, reuse)
    return open_search(folder, get_search(study)).list_trials() if folder.is_dir() else []


def add_trials(study: Study, trials: Sequence[Trial]) -> Study:
    """Return a study whose patches are the complete trials, equal settings once.

    Raises:
        ConfigError: if there is none.
    """
    seen: dict[str, Trial] = {}
    for trial in trials:
        if trial.state == COMPLETE:
            seen.setdefault(repr(sorted(trial.settings.items())), trial)
    if not seen:
        raise ConfigError(f"none of the {len(trials)} trials of {study.place} is complete; flows/vdt_flow.py runs them")
    return dataclasses.replace(make_base(study), patches={trial.patch: trial.settings for trial in seen.values()})


def score_seeds(records: Sequence[CellRecord], search: Search, configs: Sequence[Config]) -> dict[int, float]:
    """Return tuning seed -> mean score over envs.

    Raises:
        ConfigError: if a cell has no score.
    """
    scores: dict[int, list[float]] = {}
    for record, config in zip(records, configs, strict=True):
        scores.setdefault(record.seed, []).append(score_cell(record, choose_score(config, search)))
    return {seed: math.fsum(values) / len(values) for seed, values in scores.items()}


def score_cell(record: CellRecord, score: str) -> float:
    """Return the score of a finished cell, higher is better, of its last policy: tuned online where it was.

    Raises:
        ConfigError: if it was not measured.
    """
    from vdt.reporting.ranking import score_record

    value = score_record(record, score)
    if value is None:
        raise ConfigError(f"{record.key} has no score of kind {score}")
    return value

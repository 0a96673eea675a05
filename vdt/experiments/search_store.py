"""Trials of a search in Optuna's journal file, which all its workers share. Only this module imports `optuna`.

Each operation is a line that is appended and synced to disk, so a kill loses none that was done. A worker holds a lock
file per trial, which the kernel releases with the process: a running trial whose lock is free has lost its worker, and
the next worker takes it over under the same number.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from vdt.evaluation.trials import COMPLETE, FAILED, PRUNED, RUNNING, Trial
from vdt.experiments.search import Choices, Search, Space, encode_choice
from vdt.system.locks import hold_lock, try_lock

logger = logging.getLogger(__name__)

STATES = {
    TrialState.COMPLETE: COMPLETE,
    TrialState.PRUNED: PRUNED,
    TrialState.FAIL: FAILED,
    TrialState.RUNNING: RUNNING,
}
SCORES, REASON, PRUNED_AT = "scores", "reason", "pruned_at"  # attributes of a trial
WINNER, RUN_ID, REPORTS = "frozen", "mlflow_run_id", "reports"  # attributes of the search
REDUCTION = 2  # successive halving: of the trials at each rung, one in so many goes on


@dataclass(frozen=True)
class TakenTrial:
    """Trial that this worker runs.

    Attributes:
        number: of the trial.
        settings: dotted key -> value.
    """

    number: int
    settings: Mapping[str, Any]


class _KernelLock(JournalFileOpenLock):
    """Lock of the journal that ends with its process: Optuna's own stays behind after a kill, for half a minute.

    A last line that a full disk or a power failure has cut short was never acknowledged; it is removed before the next.
    """

    def __init__(self, journal: Path) -> None:
        self._journal, self._held = journal, contextlib.ExitStack()

    def acquire(self) -> bool:
        self._held.enter_context(hold_lock(self._journal.with_suffix(".lock"), "the journal of the search"))
        remove_torn_line(self._journal)
        return True

    def release(self) -> None:
        self._held.close()


def remove_torn_line(path: Path) -> None:
    """Remove the end of a file behind its last line break, if there is any."""
    with open(path, "rb+") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0 or os.pread(file.fileno(), 1, size - 1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
    logger.warning(f"{path}: its last line was cut short and is removed")


class Journal:
    """Journal of a search's folder, as far as a step of the flow needs it."""

    def __init__(self, folder: Path, pruner: str, first_rung: int) -> None:
        """Open the journal, and make it if there is none.

        Args:
            folder: of the search.
            pruner: that of the search.
            first_rung: gradient steps after which successive halving compares trials for the first time.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        path = folder / "journal.jsonl"
        backend = JournalFileBackend(str(path), lock_obj=_KernelLock(path))
        self._storage = JournalStorage(backend)
        if folder.name not in optuna.get_all_study_names(self._storage):
            optuna.create_study(
                storage=self._storage, study_name=folder.name, direction="maximize", load_if_exists=True
            )
        self._study = optuna.load_study(
            study_name=folder.name,
            storage=self._storage,
            sampler=optuna.samplers.RandomSampler(),
            pruner=_make_pruner(pruner, first_rung),
        )

    def report(self, number: int, step: int, score: float) -> bool:
        """Record an intermediate score; return whether the trial is to be stopped, which is then recorded, too."""
        trial_id = self._find_id(number)
        self._storage.set_trial_intermediate_value(trial_id, step, score)
        stop = self._study.pruner.prune(self._study, self._storage.get_trial(trial_id))
        if stop:
            self._storage.set_trial_user_attr(trial_id, PRUNED_AT, step)
        return stop

    def get_pruned_at(self, number: int) -> int | None:
        """Return the gradient step at which a trial was stopped; none if it was not."""
        step: int | None = self._storage.get_trial(self._find_id(number)).user_attrs.get(PRUNED_AT)
        return step

    def _find_id(self, number: int) -> int:
        study_id = self._storage.get_study_id_from_name(self.folder.name)
        return self._storage.get_trial_id_from_study_id_trial_number(study_id, number)

    @property
    def run_id(self) -> str:
        """Return the MLflow run of the search; empty before there is one."""
        return str(self._study.user_attrs.get(RUN_ID, ""))

    def set_run_id(self, run_id: str) -> None:
        """Record the MLflow run of the search."""
        self._study.set_user_attr(RUN_ID, run_id)


class SearchStore(Journal):
    """Trials of one search."""

    def __init__(self, folder: Path, search: Search, first_rung: int = 1) -> None:
        """Open the journal of a folder; arguments as of `Journal`, with the section of the study file."""
        super().__init__(folder, search.pruner, first_rung)
        self.search = search

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the lock under which workers take trials and enter results."""
        with hold_lock(self.folder / "trials.lock", "the list of trials"):
            yield

    @contextlib.contextmanager
    def take(self) -> Iterator[TakenTrial | None]:
        """Take a trial for this process: one that lost its worker, else a new one within the budget; none if neither.

        The trial stays this process's until the block ends.
        """
        with contextlib.ExitStack() as held:
            with self.hold():
                trial = self._take_over(held) or self._begin(held)
            yield trial

    def _take_over(self, held: contextlib.ExitStack) -> TakenTrial | None:
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self._lock_running(trial, held):
                live = optuna.trial.Trial(self._study_for(trial.number), trial._trial_id)
                settings = self._suggest(live)  # a kill may have left some open
                logger.info(f"trial {trial.number}: its worker has ended; this one goes on with it")
                return TakenTrial(trial.number, settings)
        return None

    def _lock_running(self, trial: FrozenTrial, held: contextlib.ExitStack) -> bool:
        """Take the lock of a trial if it is free and the trial still runs: its worker may have ended it meanwhile."""
        with contextlib.ExitStack() as own:
            if not own.enter_context(try_lock(self._get_lock(trial.number))):
                return False
            if self._storage.get_trial(trial._trial_id).state is not TrialState.RUNNING:
                return False
            held.push(own.pop_all())
            return True

    def _begin(self, held: contextlib.ExitStack) -> TakenTrial | None:
        count = len(self._study.get_trials(deepcopy=False))
        if count >= self.budget or self.winner is not None:
            return None
        trial = self._study_for(count).ask()
        assert trial.number == count
        held.enter_context(try_lock(self._get_lock(count)))
        return TakenTrial(count, self._suggest(trial))

    @property
    def budget(self) -> int:
        """Return the number of trials: that of the file, at most all combinations of a grid."""
        if self.search.sampler != "grid":
            return self.search.trials
        combinations = 1
        for values in _list_grid(self.search.space).values():
            combinations *= len(values)
        return min(self.search.trials, combinations)

    def is_finished(self) -> bool:
        """Return whether every trial of the budget has ended."""
        ended = [trial for trial in self._study.get_trials(deepcopy=False) if trial.state.is_finished()]
        return len(ended) >= self.budget

    def _get_lock(self, number: int) -> Path:
        return self.folder / "locks" / f"trial-{number}.lock"

    def _study_for(self, number: int) -> optuna.Study:
        """Return the study with a sampler whose random stream depends on the trial's number alone.

        A sampler that started over after a kill with the same seed would propose the first trials again.
        """
        sampler = _make_sampler(self.search, number)
        return optuna.load_study(study_name=self.folder.name, storage=self._storage, sampler=sampler)

    def _suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        for key, values in self.search.space.items():
            if isinstance(values, Choices):
                trial.suggest_categorical(key, [encode_choice(value) for value in values.values])
            elif values.whole:
                step = 1 if values.log else int(values.step or 1)
                trial.suggest_int(key, int(values.low), int(values.high), step=step, log=values.log)
            else:
                trial.suggest_float(key, values.low, values.high, step=values.step, log=values.log)
        return self._decode(trial.params)

    def _decode(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return settings of a trial's parameters, in the order of the space."""
        settings = {}
        for key, values in self.search.space.items():
            if key in params and isinstance(values, Choices):
                settings[key] = next(value for value in values.values if encode_choice(value) == params[key])
            elif key in params:
                settings[key] = params[key]
        return settings

    def complete(self, number: int, scores: Mapping[int, float]) -> None:
        """Record a trial's scores by tuning seed, and their mean as its value."""
        self._storage.set_trial_user_attr(self._find_id(number), SCORES, {str(k): v for k, v in scores.items()})
        self._study.tell(number, sum(scores.values()) / len(scores), skip_if_finished=True)

    def prune(self, number: int) -> None:
        """Record that a trial was stopped early."""
        self._study.tell(number, state=TrialState.PRUNED, skip_if_finished=True)

    def fail(self, number: int, reason: str) -> None:
        """Record that a trial failed, and why."""
        self._storage.set_trial_user_attr(self._find_id(number), REASON, reason)
        self._study.tell(number, state=TrialState.FAIL, skip_if_finished=True)

    def list_trials(self) -> list[Trial]:
        """Return all trials in the order of their numbers."""
        return [self._read(trial) for trial in self._study.get_trials(deepcopy=False)]

    def _read(self, trial: FrozenTrial) -> Trial:
        complete = trial.state is TrialState.COMPLETE
        return Trial(
            number=trial.number,
            settings=self._decode(trial.params),
            state=STATES.get(trial.state, RUNNING),
            score=trial.value if complete else None,
            scores_by_seed={int(seed): score for seed, score in trial.user_attrs.get(SCORES, {}).items()},
            intermediate=dict(trial.intermediate_values),
            seconds=trial.duration.total_seconds() if trial.duration else None,
            patch=name_trial(trial.number),
        )

    @property
    def winner(self) -> int | None:
        """Return the number of the winning trial, once it is final."""
        number: int | None = self._study.user_attrs.get(WINNER)
        return number

    def set_winner(self, number: int) -> None:
        """Make a trial the winner: no trial begins afterwards."""
        self._study.set_user_attr(WINNER, number)

    @property
    def reports(self) -> int:
        """Return how many times the winner was reported."""
        return int(self._study.user_attrs.get(REPORTS, 0))

    def count_report(self) -> None:
        """Record that the winner was reported once more."""
        self._study.set_user_attr(REPORTS, self.reports + 1)


def name_trial(number: int) -> str:
    """Return the name of the patch that a trial's cells carry."""
    return f"t{number:03}"


def _make_sampler(search: Search, number: int) -> optuna.samplers.BaseSampler:
    """Return the sampler that proposes trial `number`."""
    seed = (search.sampler_seed * 1_000_003 + number) % 2**32
    match search.sampler:
        case "random":
            return optuna.samplers.RandomSampler(seed=seed)
        case "cmaes":
            return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
        case "grid":
            # it keeps what was tried by places in its shuffled list, so the seed of that must stay
            return optuna.samplers.GridSampler(_list_grid(search.space), seed=search.sampler_seed)
    return optuna.samplers.TPESampler(seed=seed, constant_liar=True)


def _make_pruner(name: str, first_rung: int) -> optuna.pruners.BasePruner:
    match name:
        case "median":
            return optuna.pruners.MedianPruner()
        case "halving":
            return optuna.pruners.SuccessiveHalvingPruner(min_resource=first_rung, reduction_factor=REDUCTION)
    return optuna.pruners.NopPruner()


def _list_grid(space: Space) -> dict[str, list[Any]]:
    """Return the values of each key of a grid, as Optuna has them."""
    grid: dict[str, list[Any]] = {}
    for key, values in space.items():
        if isinstance(values, Choices):
            grid[key] = [encode_choice(value) for value in values.values]
            continue
        step = values.step or 1
        count = int((values.high - values.low) / step + 1e-9) + 1
        numbers = [min(values.high, round(values.low + place * step, 12)) for place in range(count)]
        grid[key] = [int(number) for number in numbers] if values.whole else numbers
    return grid

"""Setup that every step of the flow needs around its one library call."""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaflow import current

from flows.cards import enter_cards_folder
from flows.errors import clear_errors
from flows.initial import fetch_initial
from flows.lineage import get_unfinished_ancestors, walk_origins, was_completed
from flows.live_card import LiveTracker, make_live_card
from flows.options import get_options
from flows.transfer import FIELDS, describe_file, fetch_file, keeps_files_here
from vdt.config.errors import ConfigError
from vdt.config.layers import config_from_mapping, parse_overrides
from vdt.config.schema import CheckpointConfig, Config
from vdt.experiments.cells import describe_cell, keep_result
from vdt.experiments.results_store import began_with_this_code
from vdt.system.gpus import claim_gpu
from vdt.system.home import home
from vdt.system.locks import hold_lock
from vdt.system.log import configure_logging
from vdt.system.machine import count_cells_in_parallel, measure_peak_memory, set_threads
from vdt.system.processes import Terminated, terminate_cleanly
from vdt.tracking import (
    MLflowTracker,
    NullTracker,
    Tracker,
    finish_runs,
    make_continue_record,
    make_dataset_record,
    name_dataset,
    tell_of_undelivered,
)

if TYPE_CHECKING:
    from vdt.checkpoint.store import CheckpointStore
    from vdt.data.trajectory import TrajectoryDataset
    from vdt.evaluation.records import CellRecord
    from vdt.experiments.sharing import Sharing
    from vdt.training.score_curve import Watch

logger = logging.getLogger(__name__)

PHASES = {"pretrain_critic": "critic", "train_actor": "actor", "tune_online": "online"}  # as metrics name them
EVALUATION = "evaluate"  # the step in whose folder a run's policies are entered


class Stage:
    """Running step of one cell: its configuration, its inputs and its output folder."""

    def __init__(self, flow: Any, tracker: Tracker, config: Config) -> None:
        self.flow = flow
        self.tracker = tracker
        self.config = config

    @property
    def folder(self) -> Path:
        """Return the folder that this step of this cell writes to."""
        return _get_folder(str(current.run_id), self.flow.cell["key"])

    @functools.cached_property
    def checkpoints(self) -> CheckpointStore:
        """Return this step's checkpoints, with those of the runs that it continues."""
        return open_checkpoints(self.flow.cell["key"], self.config.checkpoint, self._describe_data())

    @property
    def seconds_before(self) -> float:
        """Return what the step had taken until the checkpoint that it continues."""
        return self.checkpoints.clock.before if "checkpoints" in vars(self) else 0.0

    def _describe_data(self) -> dict[str, Any]:
        """Return the facts of the data that a checkpoint holds."""
        snapshot = self.flow.snapshot
        name = name_dataset(self.config, snapshot["source"])
        return {"data": {"name": name, **{key: snapshot[key] for key in ("source", "label", "md5")}}}

    def fetch_snapshot(self) -> dict[str, Any]:
        """Make or find the cell's snapshot and record it in MLflow."""
        from vdt.data.errors import DataError
        from vdt.datasets.snapshot import make_snapshot

        with clear_errors(DataError, OSError):
            snapshot = asdict(make_snapshot(self.config, home(), parse_overrides(get_options(self.flow)["set"])))
        self.tracker.put(
            make_dataset_record(self.config, snapshot, self.flow.cell.get("shown") or self.flow.cell["patch"])
        )
        return {**snapshot, **describe_file(self.flow, Path(snapshot["path"]), "md5")}

    def pretrain_critic(self) -> tuple[Path, str]:
        """Train the critic, or share one within a study; return its file, and the MLflow run that it was taken from."""
        from vdt.experiments.sharing import share_critic

        dataset, initial = self.load_dataset(), self._fetch_initial()
        sharing = self._get_sharing("critic")
        return share_critic(self.config, dataset, self.tracker, self.checkpoints, sharing, initial)

    def train_actor(self) -> tuple[Path | None, str]:
        """Train the actor on the critic, or share one within a study; return as `pretrain_critic`.

        There is no file where a search has stopped the training early.
        """
        from vdt.experiments.sharing import share_actor
        from vdt.training.score_curve import TrainingStopped

        critic, dataset, initial = self.check(self.flow.critic), self.load_dataset(), self._fetch_initial()
        sharing = self._get_sharing("actor")
        try:
            watch = watch_scores(self.flow.cell)
            return share_actor(self.config, dataset, critic, self.tracker, self.checkpoints, sharing, watch, initial)
        except TrainingStopped as stopped:
            logger.info(f"actor: {stopped}, as the scores of trial {self.flow.cell['trial']} promise too little")
            return None, ""

    def _fetch_initial(self) -> Path | None:
        """Return the file of the policy that training begins from; none where it begins from random networks."""
        with clear_errors():
            return fetch_initial(self.flow, self.config)

    def tune_online(self) -> Path:
        """Tune the offline agent with interaction; return its file."""
        from vdt.training.online import tune_online

        agent, buffer = self.check(self.flow.offline_agent), self.check(self.flow.buffer)
        return tune_online(self.config, agent, buffer, self.load_dataset(), self.tracker, self.checkpoints)

    def _get_sharing(self, part: str) -> Sharing | None:
        """Return the place where cells with the same training find each other; none if this cell trains alone."""
        from vdt.experiments.sharing import Sharing

        if not (self.flow.cell["shares_training"] and began_with_this_code(self.flow.cell)):
            return None
        if not keeps_files_here(self.flow):
            logger.info(f"{part}: shared with cells that see the same VDT_HOME; on other machines each trains its own")
        return Sharing(home(), str(self.flow.mlflow_run_id), str(self.flow.snapshot["md5"]))

    def keep_result(self) -> None:
        """Store the result of the cell that has just been evaluated, and enter its policies."""
        self.tracker.flush()  # a result counts as finished, so its metrics must be delivered or in the backlog
        record = describe_cell(self.flow, self.config)
        keep_result(record, self.config, Path(self.flow.snapshot["path"]), self.flow.cell)
        enter_policies(self.flow, record, self.config)

    def load_dataset(self) -> TrajectoryDataset:
        """Return the episodes to train on; raises as `load_episodes`."""
        return self.load_episodes()[0]

    def load_episodes(self) -> tuple[TrajectoryDataset, TrajectoryDataset | None]:
        """Return the episodes to train on and the held-out ones, after checking that the snapshot is unchanged.

        Raises:
            ConfigError: if the file changed since.
        """
        from vdt.data.residence import Residence
        from vdt.data.storage import load_snapshot
        from vdt.datasets.choose import choose_episodes

        described = {key: self.flow.snapshot[key] for key in FIELDS if key in self.flow.snapshot}
        try:
            path = self.check(described)
        except ConfigError:
            raise ConfigError(
                f"{described['path']} is no longer the data set that this run began with; start a new run"
            ) from None
        return choose_episodes(load_snapshot(path, Residence(self.config.data.residence)), self.config)

    def describe(self, path: Path) -> dict[str, str]:
        """Return a file as an artifact, for `check` in a later step, which may run on another machine."""
        return describe_file(self.flow, path)

    def check(self, file: dict[str, str]) -> Path:
        """Return the path of a described file, if its content is still the same.

        Raises:
            ConfigError: if it is gone or changed.
        """
        return fetch_file(self.flow, file, home() / ".vdt" / "fetched")


def watch_scores(cell: Mapping[str, Any]) -> Watch | None:
    """Return the watcher that reports a cell's scores to its search and stops what promises too little; none outside one.

    Raises:
        TrainingStopped: if the training was stopped before it was interrupted.
    """
    place = cell.get("search")
    if not place:
        return None
    from vdt.experiments.search_trials import open_journal
    from vdt.training.score_curve import TrainingStopped

    journal, trial = open_journal(place), int(cell["trial"])
    stopped_at = journal.get_pruned_at(trial)
    if stopped_at is not None:
        raise TrainingStopped(stopped_at)

    def watch(step: int, score: float) -> None:
        if journal.report(trial, step, score):
            raise TrainingStopped(step)

    return watch


def _get_folder(run_id: str, key: str, step: str = "") -> Path:
    return Path(home(), ".vdt", "checkpoints", str(current.flow_name), run_id, step or str(current.step_name), key)


def enter_policies(branch: Any, record: CellRecord, config: Config) -> None:
    """Write a cell's policies under this run's id, unless that was done: a resumed run may not evaluate them again."""
    from vdt.agent.policy_files import INDEX, write_origins
    from vdt.experiments.policies import keep_policies

    folder = _get_folder(str(current.run_id), record.key, EVALUATION)
    write_origins(folder.parents[1], walk_origins(current.flow_name, current.origin_run_id))
    if not (folder / INDEX).is_file():
        keep_policies(branch, record, config, folder, home())


def open_checkpoints(key: str, settings: CheckpointConfig, facts: Mapping[str, Any] | None = None) -> CheckpointStore:
    """Open the running step's checkpoints for the cell `key`, with those of the runs that it continues."""
    from vdt.checkpoint.store import CheckpointStore

    ancestors = get_unfinished_ancestors(current.flow_name, current.origin_run_id, current.step_name, key)
    return CheckpointStore(
        _get_folder(str(current.run_id), key),
        [_get_folder(run_id, key) for run_id in ancestors],
        interval_seconds=settings.interval_seconds,
        interval_steps=settings.interval_steps,
        keep=settings.keep,
        continue_finished=True,  # an ancestor that left its last checkpoint was killed before its step was complete
        facts=facts,
    )


@contextlib.contextmanager
def open_stage(flow: Any, *, track: bool = True) -> Iterator[Stage]:
    """Set up process, tracker and checkpoints for a step of one cell; record its duration; close the tracker.

    Args:
        flow: the running flow, with artifacts `cell`, `cells`, `mlflow_run_id`. A step that is run again
            after its run was finished gets a new MLflow run, and `mlflow_run_id` changes. `seconds` (with those before the
            checkpoint that it continues) and `memory` (MB, the process's peak) get an entry for the step.
        track: False for a step that logs nothing, which saves it the seconds that opening MLflow takes.
    """
    began, step = time.monotonic(), str(current.step_name)
    configure_logging(flow.cell.get("label", ""))
    with clear_errors():
        config = config_from_mapping(flow.cell.get("config", {}))
    set_threads(count_cells_in_parallel(len(flow.cells)), config.runtime.threads)
    lock = home() / ".vdt" / "locks" / f"cell-{flow.mlflow_run_id}.lock"
    runs = [] if _repeats(flow) else [str(flow.mlflow_run_id)]
    with clear_errors(), hold_lock(lock, f"this step of {flow.cell['key']}"), _stop_when_told(runs) as stack:
        if config.runtime.device != "cpu" and step in (*PHASES, EVALUATION):
            claim_gpu(flow.cell["number"], lock.parent, stack)
        tracker: Tracker = NullTracker()
        if track:
            tracker = stack.enter_context(_follow_tracker(open_tracker(flow, config), runs))
        stage = Stage(flow, tracker, config)
        yield stage
        seconds = stage.seconds_before + time.monotonic() - began
        tracker.log(0, _measure_cost(step, seconds))
    if track:
        (flow.mlflow_run_id,) = runs
    flow.seconds = {**getattr(flow, "seconds", {}), step: round(seconds, 1)}
    flow.memory = {**getattr(flow, "memory", {}), step: measure_peak_memory()}
    gc.freeze()  # the process is about to end: no garbage collection is needed


@contextlib.contextmanager
def _follow_tracker(tracker: MLflowTracker, runs: list[str]) -> Iterator[MLflowTracker]:
    """Keep a tracker open, then close it and put its run into `runs` instead of what is there; the run is final only then."""
    try:
        with contextlib.closing(tracker):
            yield tracker
    finally:
        runs[:] = [tracker.run_id]


def _measure_cost(step: str, seconds: float) -> dict[str, float]:
    """Return the cost of a step so far, as metrics."""
    phase = PHASES.get(step, step)
    memory = {f"peak_memory_megabytes/{phase}_{where}": value for where, value in measure_peak_memory().items()}
    return {f"seconds/{phase}": seconds, **memory}


@contextlib.contextmanager
def _stop_when_told(runs: list[str]) -> Iterator[contextlib.ExitStack]:
    """Handle SIGTERM (the flow was killed or stopped): close the stack's contents, mark the MLflow runs as failed, and end."""
    try:
        with terminate_cleanly(), contextlib.ExitStack() as stack:
            yield stack
    except Terminated:
        finish_runs(home(), runs, "FAILED")
        os._exit(128 + 15)


def open_tracker(flow: Any, config: Config | None = None) -> MLflowTracker:
    """Open the tracker of a running step's MLflow run; a finished step that is run again on purpose gets a new run.

    A step that trains a cell of configuration `config` shows its curves on its card, too.
    """
    step, opening = str(current.step_name), make_continue_record(str(current.run_id), repeats=_repeats(flow))
    if config is not None and step in PHASES:
        enter_cards_folder()
        shown = make_live_card(PHASES[step], config, flow.cell["key"])
        return LiveTracker(home(), flow.mlflow_run_id, opening=opening, card=shown)
    return MLflowTracker(home(), flow.mlflow_run_id, opening=opening)


def _repeats(flow: Any) -> bool:
    """Return whether the running step was finished in the run that is resumed, so that its MLflow run stays as it is."""
    origin, step = current.origin_run_id, str(current.step_name)
    return bool(origin) and was_completed(current.flow_name, origin, step, flow.cell["key"])


def finish_cells(mlflow_run_ids: Sequence[str]) -> None:
    """Mark the MLflow runs as finished again after a resume, whose failed origin had marked them as failed."""
    if current.origin_run_id:
        finish_runs(home(), mlflow_run_ids, "FINISHED")
    tell_of_undelivered(home())

"""What every step of the flow needs around its one library call."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaflow import current
from metaflow.exception import MetaflowException

from flows.lineage import get_unfinished_ancestors
from vdt import runtime
from vdt.config import Config, ConfigError, config_from_yaml
from vdt.files import compute_file_digest
from vdt.schema import CheckpointConfig
from vdt.tracking import MLflowTracker, NullTracker, Tracker, continue_run, finish_runs, log_dataset

if TYPE_CHECKING:
    from vdt.data.trajectory import TrajectoryDataset
    from vdt.training.checkpoint import CheckpointStore


class UserError(MetaflowException):
    """Something that the user can put right; shown without a traceback."""

    headline = "error"


@contextlib.contextmanager
def clear_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turn errors of the given kinds (and configuration errors) into one line without a traceback."""
    expected: tuple[type[Exception], ...] = (ConfigError, runtime.FolderError, *kinds)
    try:
        yield
    except expected as error:
        print(f"error: {error}", flush=True)
        raise UserError(str(error)) from None


class Stage:
    """A running step of one cell: its configuration, its inputs and where its results go."""

    def __init__(self, flow: Any, tracker: Tracker) -> None:
        self.flow = flow
        self.tracker = tracker
        self.config = get_config(flow)

    @property
    def folder(self) -> Path:
        """Where this step of this cell writes."""
        return _get_folder(str(current.run_id), self.flow.cell["key"])

    @property
    def checkpoints(self) -> CheckpointStore:
        """This step's checkpoints, with those of the runs that it continues."""
        return open_checkpoints(self.flow.cell["key"], self.config.checkpoint)

    def fetch_snapshot(self) -> dict[str, Any]:
        """Make or find the cell's snapshot and enter it in MLflow."""
        from vdt.data.snapshot import make_snapshot
        from vdt.data.sources.recording import DataError

        with clear_errors(DataError, OSError):
            snapshot = asdict(make_snapshot(self.config, runtime.home()))
        log_dataset(runtime.home(), self.flow.mlflow_run_id, self.config, snapshot)
        return snapshot

    def load_dataset(self) -> TrajectoryDataset:
        """The episodes to train on; raises as `load_episodes`."""
        return self.load_episodes()[0]

    def load_episodes(self) -> tuple[TrajectoryDataset, TrajectoryDataset | None]:
        """The episodes to train on and those held out, having checked that the snapshot is what was fetched.

        Raises:
            ConfigError: if the file changed since.
        """
        from vdt.data.snapshot import load_snapshot

        path = Path(self.flow.snapshot["path"])
        if not path.is_file() or compute_file_digest(path, "md5") != self.flow.snapshot["md5"]:
            raise ConfigError(f"{path} is no longer the data set that this run began with; start a new run")
        data = self.config.data
        return load_snapshot(path).split(data.held_out_fraction, data.seed)

    def describe(self, path: Path) -> dict[str, str]:
        """A file as an artifact: where it is and what is in it."""
        return {"path": str(path), "sha256": compute_file_digest(path, "sha256")}

    def check(self, file: dict[str, str]) -> Path:
        """The path of a described file, if its content is still the same.

        Raises:
            ConfigError: if it is gone or changed.
        """
        path = Path(file["path"])
        if not path.is_file() or compute_file_digest(path, "sha256") != file["sha256"]:
            raise ConfigError(
                f"{path}, made by an earlier step, is gone or changed; resume from the step that makes it"
            )
        return path


def _get_folder(run_id: str, key: str) -> Path:
    return Path(runtime.home(), ".vdt", "checkpoints", str(current.flow_name), run_id, str(current.step_name), key)


def open_checkpoints(key: str, settings: CheckpointConfig) -> CheckpointStore:
    """The running step's checkpoints for the cell `key`, with those of the runs that it continues."""
    from vdt.training.checkpoint import CheckpointStore

    ancestors = get_unfinished_ancestors(current.flow_name, current.origin_run_id, current.step_name, key)
    return CheckpointStore(
        _get_folder(str(current.run_id), key),
        [_get_folder(run_id, key) for run_id in ancestors],
        interval_seconds=settings.interval_seconds,
        interval_steps=settings.interval_steps,
        keep=settings.keep,
        continue_finished=True,  # an ancestor that left its last checkpoint died before its step was complete
    )


def get_config(flow: Any) -> Config:
    """The resolved configuration of a running step's cell."""
    return config_from_yaml(flow.cell["config_yaml"])


@contextlib.contextmanager
def open_stage(flow: Any, *, track: bool = True) -> Iterator[Stage]:
    """Set up process, tracker and checkpoints for a step of one cell; keep its duration; close the tracker.

    Args:
        flow: the running flow, with artifacts `cell`, `cells`, `mlflow_run_id`. A step that is run again
            after its run was finished gets a new MLflow run, and `mlflow_run_id` changes.
        track: False for a step that logs nothing, which saves it the seconds that opening MLflow takes.
    """
    began, step = time.monotonic(), str(current.step_name)
    runtime.die_with_parent()
    runtime.claim_gpu(flow.cell["number"])
    runtime.set_threads(runtime.count_cells_in_parallel(len(flow.cells)), get_config(flow).runtime.threads)
    with clear_errors():
        tracker = open_tracker(flow) if track else NullTracker()
        with contextlib.closing(tracker):
            yield Stage(flow, tracker)
    flow.seconds = {**getattr(flow, "seconds", {}), step: round(time.monotonic() - began, 1)}
    gc.freeze()  # the process is about to end; nothing need be searched for


def open_tracker(flow: Any) -> Tracker:
    """The tracker of a running step's MLflow run; a step that is run again after its run was finished gets a new one."""
    with runtime.quick_imports():
        flow.mlflow_run_id = continue_run(runtime.home(), flow.mlflow_run_id, str(current.run_id))
        return MLflowTracker(runtime.home(), flow.mlflow_run_id)


def finish_cells(mlflow_run_ids: Sequence[str]) -> None:
    """After a resume, whose failed origin left its mark on the MLflow runs, mark them as finished once more."""
    if current.origin_run_id:
        finish_runs(runtime.home(), mlflow_run_ids, "FINISHED")

"""Trackers that training calls: a protocol, one that does nothing, and one that writes to an MLflow run."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vdt.checkpoint.names import DONE
from vdt.system.files import compute_file_digest
from vdt.system.processes import defer_termination
from vdt.tracking.mlflow_run import RunSender
from vdt.tracking.outbox import DELIVERY_SECONDS, Delivery, Outbox
from vdt.tracking.records import Checkpoint, Metrics, ModelFiles, Record, to_mapping
from vdt.tracking.waiting import backlog_of, delivers_later

logger = logging.getLogger(__name__)

METRIC_NAME = re.compile(r"[A-Za-z0-9_.\- /]{1,250}")
MODEL_NAME_REFUSED = re.compile(r"[/:.%\"']")


@dataclass(frozen=True)
class LoadableModel:
    """Model that MLflow can load.

    Attributes:
        name: within its run.
        describe: returns its files; called only where it is kept.
    """

    name: str
    describe: Callable[[], ModelFiles]


class Tracker(Protocol):
    """Receiver of metrics and checkpoints. No method waits for a store, save `flush` and `close`."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record metrics under their full names ("critic/q_loss") at a gradient or environment step."""

    def log_checkpoint(
        self, name: str, path: Path, step: int, metrics: Mapping[str, float], model: LoadableModel | None = None
    ) -> None:
        """Record a checkpoint file and the metrics that belong to it; the last one of a training step is kept.

        Then it becomes the given model, which MLflow can load.
        """

    def log_evaluation(
        self,
        name: str,
        path: Path,
        step: int,
        metrics: Mapping[str, float],
        model: LoadableModel | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Record metrics measured with a checkpoint, and keep that checkpoint as a model, with tags."""

    def log_rate(self, phase: str, step: int, steps: int, seconds: float) -> None:
        """Record the speed of a training phase, at its last step."""

    def put(self, record: Record) -> None:
        """Record any other record of `vdt.tracking.runs`."""

    def flush(self) -> None:
        """Make everything logged so far survive a kill."""

    def close(self) -> None:
        """Deliver the rest; nothing may be logged afterwards."""


class NullTracker:
    """Tracker that does nothing."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Do nothing."""

    def log_checkpoint(
        self, name: str, path: Path, step: int, metrics: Mapping[str, float], model: LoadableModel | None = None
    ) -> None:
        """Do nothing."""

    def log_evaluation(
        self,
        name: str,
        path: Path,
        step: int,
        metrics: Mapping[str, float],
        model: LoadableModel | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Do nothing."""

    def log_rate(self, phase: str, step: int, steps: int, seconds: float) -> None:
        """Do nothing."""

    def put(self, record: Record) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class MLflowTracker:
    """Tracker that writes to one MLflow run from a background thread, which also opens the store: no method waits for it.

    Where records are delivered later (`delivers_later`), they go to a file, and MLflow is not imported.
    """

    def __init__(
        self, base: Path, run_id: str, *, opening: Record | None = None, interval: float = DELIVERY_SECONDS
    ) -> None:
        """Bind to a run.

        Args:
            base: the home folder (`vdt.system.home.home`).
            run_id: MLflow's, or a local one.
            opening: a first record (`make_continue_record`).
            interval: seconds between two deliveries.
        """
        self._sender = RunSender(base, run_id)
        if delivers_later():
            self._delivery = Outbox(backlog_of(base, run_id))
        else:
            # before the thread starts: modules that import each other fail when two threads import them at once
            with defer_termination():
                import mlflow  # noqa: F401
                import sqlalchemy.orm  # noqa: F401

            self._delivery = Delivery(self._sender, backlog_of(base, run_id), interval=interval)
        if opening:
            self.put(opening)

    @property
    def run_id(self) -> str:
        """Return the run that records go to; final after `close`."""
        return self._sender.run_id

    def put(self, record: Record) -> None:
        """Queue a record of any kind."""
        self._delivery.put(to_mapping(record))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record metrics; see `Tracker`.

        Raises:
            ValueError: if a name is empty or has characters that MLflow refuses.
        """
        if metrics:
            self.put(Metrics(step=int(step), time=_now(), metrics=_check_metrics(metrics)))

    def log_checkpoint(
        self, name: str, path: Path, step: int, metrics: Mapping[str, float], model: LoadableModel | None = None
    ) -> None:
        """Keep the last checkpoint of a training step as a model; the others are removed later and are not logged.

        The metrics are in the curves already.
        """
        if is_final(path):
            self._keep(name, path, step, {}, model, {})

    def log_evaluation(
        self,
        name: str,
        path: Path,
        step: int,
        metrics: Mapping[str, float],
        model: LoadableModel | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Record metrics that are linked to a model with the checkpoint's file; see `Tracker`."""
        self._keep(name, path, step, metrics, model, tags or {})

    def log_rate(self, phase: str, step: int, steps: int, seconds: float) -> None:
        """Record `steps_per_second/<phase>`, unless all of it was done before; see `Tracker`."""
        if steps > 0:
            self.log(step, {f"steps_per_second/{phase}": steps / max(seconds, 1e-9)})

    def _keep(
        self,
        name: str,
        path: Path,
        step: int,
        metrics: Mapping[str, float],
        model: LoadableModel | None,
        tags: Mapping[str, str],
    ) -> None:
        """Queue a logged model with tags path, sha256 and step: one for each file of a run.

        Where the file is gone when the store takes the record, there is no model.
        """
        files = model.describe() if model else ModelFiles({}, "")
        self.put(
            Checkpoint(
                name=MODEL_NAME_REFUSED.sub("-", model.name if model else name),
                path=str(path),
                sha256=compute_file_digest(path, "sha256"),
                step=int(step),
                time=_now(),
                metrics=_check_metrics(metrics),
                texts=files.texts,
                place=files.place,
                tags=tags,
            )
        )

    def flush(self) -> None:
        """Make everything logged so far survive a kill; see `Tracker`."""
        self._delivery.flush()

    def close(self) -> None:
        """Deliver the rest; see `Tracker`."""
        self._delivery.close()
        if self._sender.left_out:  # harmless: `flush` also keeps what is on its way to a slow store, and it comes twice
            logger.debug(f"tracking: {self._sender.left_out} points were in the store already")


def _check_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics as numbers, having checked their names."""
    for key in metrics:
        if not METRIC_NAME.fullmatch(key):
            raise ValueError(f"{key!r} is no metric name: letters, digits and _.-/ only, 1 to 250 of them")
    return {key: float(value) for key, value in metrics.items()}


def _now() -> int:
    return int(time.time() * 1000)


def is_final(path: Path) -> bool:
    """Return whether a checkpoint is the last of a finished training step (named by the file `DONE` beside it)."""
    marker = path.parent / DONE
    return path.exists() and marker.exists() and marker.read_text().strip() == path.name

"""What training calls: a protocol, a tracker that does nothing, and one that writes to an MLflow run."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from vdt.files import compute_file_digest
from vdt.tracking.delivery import Delivery, deliver_backlog
from vdt.tracking.runs import backlog_of, open_store
from vdt.tracking.sender import RunSender

METRIC_NAME = re.compile(r"[A-Za-z0-9_.\- /]{1,250}")
MODEL_NAME_REFUSED = re.compile(r"[/:.%\"']")


class Tracker(Protocol):
    """Takes metrics and checkpoints. No method waits for a store, save `flush` and `close`."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record metrics under their full names ("critic/q_loss") at a gradient or environment step."""

    def log_checkpoint(self, name: str, path: Path, step: int, metrics: Mapping[str, float]) -> None:
        """Record a checkpoint file and the metrics that belong to it."""

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Keep a copy of a file with the run."""

    def flush(self) -> None:
        """Make everything logged so far survive a kill."""

    def close(self) -> None:
        """Deliver the rest; nothing may be logged afterwards."""


class NullTracker:
    """Forgets everything."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Do nothing."""

    def log_checkpoint(self, name: str, path: Path, step: int, metrics: Mapping[str, float]) -> None:
        """Do nothing."""

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class MLflowTracker:
    """Writes to one MLflow run from a background thread.

    Points at or below a metric's last step at the time of opening are already in the run: a step that goes on from its
    last checkpoint computes them a second time, and they are not logged twice. Steps of one metric must therefore not
    start over within a run.
    """

    def __init__(self, base: Path, run_id: str, *, interval: float = 2.0) -> None:
        """Open a run that exists.

        Args:
            base: the home folder (`vdt.runtime.home`).
            run_id: MLflow's.
            interval: seconds between two deliveries.
        """
        self.run_id = run_id
        client = open_store(base)
        sender = RunSender(client, run_id)
        deliver_backlog(backlog_of(base, run_id), sender)
        self._logged = {m.key: m.step for m in client.get_run(run_id).data.to_proto().metrics}
        self._left_out = 0
        self._delivery = Delivery(sender, backlog_of(base, run_id), interval=interval)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record metrics; see `Tracker`.

        Raises:
            ValueError: if a name is empty or has characters that MLflow refuses.
        """
        fresh = {}
        for key, value in metrics.items():
            if not METRIC_NAME.fullmatch(key):
                raise ValueError(f"{key!r} is no metric name: letters, digits and _.-/ only, 1 to 250 of them")
            if step > self._logged.get(key, -1):
                fresh[key] = float(value)
        self._left_out += len(metrics) - len(fresh)
        if fresh:
            self._delivery.put({"kind": "metrics", "step": int(step), "time": _now(), "metrics": fresh})

    def log_checkpoint(self, name: str, path: Path, step: int, metrics: Mapping[str, float]) -> None:
        """Record a logged model with tags path, sha256 and step, and its metrics as `checkpoint/<name>`.

        The final checkpoint of a training step is copied into the model's artifacts; others are only pointed at, since
        the checkpoint store removes them in time.
        """
        self._delivery.put(
            {
                "kind": "checkpoint",
                "name": MODEL_NAME_REFUSED.sub("-", name),
                "path": str(path),
                "sha256": compute_file_digest(path, "sha256"),
                "step": int(step),
                "time": _now(),
                "metrics": {key: float(value) for key, value in metrics.items()},
            }
        )

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Keep a copy of a file with the run; see `Tracker`."""
        self._delivery.put({"kind": "artifact", "path": str(path), "folder": folder})

    def flush(self) -> None:
        """Make everything logged so far survive a kill; see `Tracker`."""
        self._delivery.flush()

    def close(self) -> None:
        """Deliver the rest; see `Tracker`."""
        self._delivery.close()
        if self._left_out:
            print(
                f"tracking: {self._left_out} points were in the run before a resume and are not logged again",
                flush=True,
            )


def _now() -> int:
    return int(time.time() * 1000)

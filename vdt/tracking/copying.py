"""Tracker that keeps a copy of one part's curves in a file, for other runs that take the trained part."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vdt.tracking.outbox import Mapped, append_records, read_records
from vdt.tracking.records import Record
from vdt.tracking.tracker import LoadableModel, Tracker


class CopyingTracker:
    """Tracker that hands everything to another one, and writes the metrics "<part>/…" to a file at each `flush`."""

    def __init__(self, tracker: Tracker, part: str, file: Path) -> None:
        """Bind to a tracker, the name of a part, and a JSONL file that only one process at a time adds to."""
        self._tracker, self._part, self._file = tracker, f"{part}/", file
        self._points: list[Mapped] = []

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record metrics; see `Tracker`."""
        self._tracker.log(step, metrics)
        copied = {key: float(value) for key, value in metrics.items() if key.startswith(self._part)}
        if copied:
            self._points.append({"step": int(step), "metrics": copied})

    def log_checkpoint(
        self, name: str, path: Path, step: int, metrics: Mapping[str, float], model: LoadableModel | None = None
    ) -> None:
        """Record a checkpoint; see `Tracker`."""
        self._tracker.log_checkpoint(name, path, step, metrics, model)

    def log_evaluation(
        self,
        name: str,
        path: Path,
        step: int,
        metrics: Mapping[str, float],
        model: LoadableModel | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Record an evaluation; see `Tracker`."""
        self._tracker.log_evaluation(name, path, step, metrics, model, tags)

    def log_rate(self, phase: str, step: int, steps: int, seconds: float) -> None:
        """Record a speed; see `Tracker`."""
        self._tracker.log_rate(phase, step, steps, seconds)

    def put(self, record: Record) -> None:
        """Record any other record; see `Tracker`."""
        self._tracker.put(record)

    def flush(self) -> None:
        """Make everything logged so far survive a kill; see `Tracker`."""
        if self._points:
            append_records(self._file, self._points)
            self._points = []
        self._tracker.flush()

    def close(self) -> None:
        """Deliver the rest; see `Tracker`."""
        self.flush()
        self._tracker.close()


def read_copy(file: Path) -> dict[int, dict[str, float]]:
    """Read the metrics of a copy by step; a point that a resumed training computed again counts once."""
    steps: dict[int, dict[str, float]] = {}
    for point in read_records(file) if file.is_file() else []:
        steps[point["step"]] = {**point["metrics"], **steps.get(point["step"], {})}
    return dict(sorted(steps.items()))

"""Drives gradient steps: progress lines, metrics, checkpoints, and a stop when a number goes wrong."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from torch import Tensor

from vdt.tracking import Tracker
from vdt.training.checkpoint import CheckpointStore, State

METRIC_POINTS = 400  # points of a curve, whatever the number of steps
REPORT_EVERY_SECONDS = 10.0


class DivergenceError(FloatingPointError):
    """A loss or gradient is not a finite number."""


class Progress:
    """Prints step, rate, time left and key numbers at most every 10 s, and at the end."""

    def __init__(self, name: str, start: int, total: int, unit: str = "step") -> None:
        """Count from `start` to `total`."""
        self.name, self.start, self.total, self.unit = name, start, total, unit
        self.began = self.reported = time.monotonic()

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Print if it is time."""
        now = time.monotonic()
        if now - self.reported < REPORT_EVERY_SECONDS and step < self.total:
            return
        self.reported = now
        rate = (step - self.start) / max(now - self.began, 1e-9)
        left = (self.total - step) / max(rate, 1e-9)
        numbers = "  ".join(f"{key} {value:.4g}" for key, value in metrics.items())
        print(
            f"{self.name}: {self.unit} {step:,}/{self.total:,}  {rate:.1f}/s  {left:.0f} s left  {numbers}", flush=True
        )


def read_metrics(name: str, step: int, metrics: Mapping[str, Tensor]) -> dict[str, float]:
    """Bring metrics to the host as `name/key`.

    Raises:
        DivergenceError: naming metric and step, if one is not finite.
    """
    values = {f"{name}/{key}": float(value) for key, value in metrics.items()}
    for key, value in values.items():
        if not math.isfinite(value):
            raise DivergenceError(f"{key} is {value} at {name} gradient step {step}; the last good checkpoint is kept")
    return values


def run_gradient_steps(
    name: str,
    total: int,
    start: int,
    update: Callable[[int], Mapping[str, Tensor]],
    get_state: Callable[[int], State],
    tracker: Tracker,
    checkpoints: CheckpointStore,
) -> dict[str, float]:
    """Run steps start+1 … total.

    Args:
        name: prefix of metrics and progress lines ("critic", "actor").
        total: gradient steps of the whole stage.
        start: gradient steps already taken (after a resume).
        update: one gradient step, given its number from 1; returns scalars.
        get_state: everything needed to go on after a given step.
        tracker: takes the metrics.
        checkpoints: takes the states.

    Returns:
        The last metrics.
    """
    progress = Progress(name, start, total)
    every = max(1, total // METRIC_POINTS)
    values: dict[str, float] = {}
    for step in range(start + 1, total + 1):
        metrics = update(step)
        due = checkpoints.due(step)
        if step % every == 0 or step == total or due:
            values = read_metrics(name, step, metrics)
        if step % every == 0 or step == total:
            tracker.log(step, values)
        if due and step < total:
            tracker.flush()
            path = checkpoints.save(step, get_state(step))
            tracker.log_checkpoint(f"{name}-{step}", path, step, values)
        progress.report(step, {k.split("/")[1]: v for k, v in values.items() if "loss" in k or "std" in k})
    return values

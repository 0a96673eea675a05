"""Loop of gradient steps: progress lines, metrics, checkpoints, and a stop when a number is not finite."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from vdt.checkpoint.store import CheckpointStore, DivergenceError, State
from vdt.system.progress import Progress
from vdt.tracking import LoadableModel, Tracker

METRIC_POINTS = 400  # of a curve, at most


def read_metrics(
    name: str, step: int, metrics: Mapping[str, Tensor], checkpoints: CheckpointStore, unit: str = "gradient step"
) -> dict[str, float]:
    """Copy metrics to the host as `name/key`; the only place where training waits for a GPU.

    Raises:
        DivergenceError: naming metric, step and last good checkpoint, if one is not finite.
    """
    values = {f"{name}/{key}": float(value) for key, value in metrics.items()}
    for key, value in values.items():
        if not math.isfinite(value):
            raise DivergenceError(f"{key} is {value} at {name} {unit} {step:,}; {checkpoints.describe_last()}")
    return values


def save_checkpoint(
    name: str,
    step: int,
    state: State,
    values: Mapping[str, float],
    tracker: Tracker,
    checkpoints: CheckpointStore,
    *,
    final: bool = False,
    score: float | None = None,
    model: LoadableModel | None = None,
) -> Path:
    """Save metrics, then the state with its metrics: no curve lacks a point that a checkpoint covers.

    Args:
        name: of the stage ("critic", "actor", "online").
        step: of the stage's axis.
        state: complete state to continue from.
        values: metrics at this step; they come back as `state["metrics"]`.
        tracker: takes the checkpoint.
        checkpoints: takes the state.
        final: whether the stage is done.
        score: a measured quantity, higher is better, by which the best checkpoint is kept; none offline.
        model: that the final checkpoint becomes; none if it cannot act.
    """
    tracker.flush()
    save = checkpoints.finish if final else checkpoints.save
    path = save(step, {**state, "metrics": dict(values)}, score)
    tracker.log_checkpoint(f"{name}-{step}", path, step, values, model)
    return path


def run_gradient_steps(
    name: str,
    total: int,
    state: State | None,
    update: Callable[[int], Mapping[str, Tensor]],
    get_state: Callable[[int], State],
    tracker: Tracker,
    checkpoints: CheckpointStore,
    model: LoadableModel | None = None,
    is_done: Callable[[], bool] = lambda: True,
) -> Path:
    """Run the steps after those of `state`, up to `total`.

    Args:
        name: prefix of metrics and progress lines ("critic", "actor").
        total: gradient steps of the whole stage.
        state: the checkpoint that is continued, or none.
        update: one gradient step, given its number from 1; returns scalars.
        get_state: returns the complete state after a given step.
        tracker: takes the metrics.
        checkpoints: takes the states.
        model: that the final checkpoint becomes; none if it cannot act.
        is_done: asked after the last step; if not, the stage goes on with other steps and the checkpoint is not its final one.

    Returns:
        The last checkpoint.
    """
    start: int = state["step"] if state else 0
    values: dict[str, float] = state["metrics"] if state else {}
    progress, began = Progress(name, start, total), time.monotonic()
    every = max(1, -(-total // METRIC_POINTS))
    for step in range(start + 1, total + 1):
        metrics = update(step)
        due = checkpoints.is_due(step)
        if step % every == 0 or step == total or due:
            values = read_metrics(name, step, metrics, checkpoints)
        if step % every == 0 or step == total:
            tracker.log(step, values)
        if due and step < total:
            save_checkpoint(name, step, get_state(step), values, tracker, checkpoints)
        progress.report(step, {k.split("/")[1]: v for k, v in values.items() if "loss" in k or "std" in k})
    tracker.log_rate(name, total, total - start, time.monotonic() - began)
    return save_checkpoint(name, total, get_state(total), values, tracker, checkpoints, final=is_done(), model=model)

"""Reads learning curves back, for reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vdt.tracking.delivery import get_first_line
from vdt.tracking.store import StoreError, get_store_errors, open_store

CURVES = (
    *("critic/q_loss", "actor/behavior_loss", "online/normalized_score"),
    *("online/buffer_return", "online/buffer_return_low", "online/buffer_return_middle", "online/buffer_return_high"),
)
POINTS = 100  # of a curve that a report keeps

Curve = list[tuple[int, float]]  # step, value


def read_curves(base: Path, run_ids: Sequence[str]) -> dict[str, dict[str, Curve]]:
    """Some metrics of runs, by run and name, thinned to `POINTS`; empty if the store is away, which is said."""
    expected: tuple[type[Exception], ...] = (StoreError, *get_store_errors())
    curves: dict[str, dict[str, Curve]] = {}
    try:
        client = open_store(base)
        for run_id in run_ids:
            known = client.get_run(run_id).data.metrics
            histories = {key: client.get_metric_history(run_id, key) for key in CURVES if key in known}
            curves[run_id] = {
                key: thin(sorted((point.step, point.value) for point in points)) for key, points in histories.items()
            }
    except expected as error:
        print(
            f"WARNING: tracking: the store does not answer ({get_first_line(error)}); the report has not all learning curves",
            flush=True,
        )
    return curves


def read_part(base: Path, run_id: str, part: str) -> dict[int, dict[str, float]]:
    """All metrics "<part>/…" of a run by step, as far as they were delivered; none if the store is away, which is said."""
    expected: tuple[type[Exception], ...] = (StoreError, *get_store_errors())
    steps: dict[int, dict[str, float]] = {}
    try:
        client = open_store(base)
        for key in client.get_run(run_id).data.metrics:
            if key.startswith(f"{part}/"):
                for point in client.get_metric_history(run_id, key):
                    steps.setdefault(point.step, {})[key] = point.value
    except expected as error:
        print(f"WARNING: tracking: the curves of {run_id} are not copied ({get_first_line(error)})", flush=True)
        return {}
    return dict(sorted(steps.items()))


def thin(curve: Curve) -> Curve:
    """At most `POINTS` points, evenly over the curve, the last one among them."""
    count = len(curve)
    if count <= POINTS:
        return curve
    return [curve[((i + 1) * count) // POINTS - 1] for i in range(POINTS)]

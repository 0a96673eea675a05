"""Reads learning curves back, for reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from vdt.tracking.errors import StoreError, get_first_line, get_store_errors
from vdt.tracking.store import open_store

CURVES = (
    *("critic/q_loss", "actor/behavior_loss", "online/normalized_score"),
    *("online/buffer_return", "online/buffer_return_low", "online/buffer_return_middle", "online/buffer_return_high"),
)
POINTS = 100  # of a curve that a report keeps

Curve = list[tuple[int, float]]  # step, value


def read_curves(base: Path, run_ids: Sequence[str]) -> dict[str, dict[str, Curve]]:
    """Some metrics of runs, by run and name, thinned to `POINTS`; empty if the store is away, which is said."""
    histories = _read_histories(base, run_ids, CURVES.__contains__, "the report has not all learning curves")
    return {run: {key: thin(curve) for key, curve in curves.items()} for run, curves in histories.items()}


def read_part(base: Path, run_id: str, part: str) -> dict[int, dict[str, float]]:
    """All metrics "<part>/…" of a run by step, as far as they were delivered; none if the store is away, which is said."""
    missing = f"the curves of {run_id} are not copied"
    histories = _read_histories(base, [run_id], lambda key: key.startswith(f"{part}/"), missing)
    steps: dict[int, dict[str, float]] = {}
    for key, curve in histories.get(run_id, {}).items():
        for step, value in curve:
            steps.setdefault(step, {})[key] = value
    return dict(sorted(steps.items()))


def _read_histories(
    base: Path, run_ids: Sequence[str], wanted: Callable[[str], bool], missing: str
) -> dict[str, dict[str, Curve]]:
    """The wanted metrics of runs, by run and name; of the runs before the store went away, if it does: `missing` is said."""
    expected: tuple[type[Exception], ...] = (StoreError, *get_store_errors())
    histories: dict[str, dict[str, Curve]] = {}
    try:
        client = open_store(base)
        for run_id in run_ids:
            known = filter(wanted, client.get_run(run_id).data.metrics)
            points = {key: client.get_metric_history(run_id, key) for key in known}
            histories[run_id] = {key: sorted((point.step, point.value) for point in points[key]) for key in points}
    except expected as error:
        print(
            f"WARNING: tracking: the store does not answer ({get_first_line(error)}); {missing}",
            flush=True,
        )
    return histories


def thin(curve: Curve) -> Curve:
    """At most `POINTS` points, evenly over the curve, the last one among them."""
    count = len(curve)
    if count <= POINTS:
        return curve
    return [curve[((i + 1) * count) // POINTS - 1] for i in range(POINTS)]

"""Reading of learning curves, for reports."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from vdt.tracking.errors import StoreError, describe_failure, get_store_errors, is_refusal
from vdt.tracking.mlflow_run import RunSender
from vdt.tracking.outbox import read_waiting
from vdt.tracking.records import Checkpoint, Metrics, from_mapping
from vdt.tracking.waiting import LOCAL, backlog_of, delivers_later

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

CURVES = (
    *("critic/q_loss", "actor/behavior_loss", "actor/score", "online/normalized_score"),
    *("online/buffer_return", "online/buffer_return_low", "online/buffer_return_middle", "online/buffer_return_high"),
)
POINTS = 100  # of a curve that a report keeps

Curve = list[tuple[int, float]]  # step, value
Answer = TypeVar("Answer")


def resolve_run_ids(base: Path, run_ids: Sequence[str]) -> dict[str, str]:
    """Return MLflow's ids of runs by the ids that they had while the store was unreachable.

    Args:
        base: the home folder.
        run_ids: local ids, or MLflow's. Those that the store has not seen yet stay as they are, and all that are local
            where records are delivered later.
    """
    local = [] if delivers_later() else [run_id for run_id in run_ids if run_id.startswith(LOCAL)]
    return {run_id: run_id for run_id in run_ids} | _ask(base, local, lambda _, known: known)


def read_curves(base: Path, run_ids: Sequence[str]) -> dict[str, dict[str, Curve]]:
    """Return some metrics of runs, by run and name, thinned to `POINTS`; a run that cannot be read is named and left out.

    Where records are delivered later (`delivers_later`), those that wait are read, and no store.
    """
    if delivers_later():
        histories = {run_id: _read_waiting(base, run_id) for run_id in run_ids}
    else:
        histories = _ask(base, run_ids, _read_stored)
    return {run: {key: thin(curve) for key, curve in curves.items()} for run, curves in histories.items() if curves}


def _read_stored(client: MlflowClient, run_id: str) -> dict[str, Curve]:
    known = [key for key in CURVES if key in client.get_run(run_id).data.metrics]
    histories = {key: client.get_metric_history(run_id, key) for key in known}
    return {key: sorted((point.step, point.value) for point in points) for key, points in histories.items()}


def _read_waiting(base: Path, run_id: str) -> dict[str, Curve]:
    """Read a run's curves from the records that wait; a repeated point counts once."""
    curves: dict[str, dict[int, float]] = {}
    for record in map(from_mapping, read_waiting(backlog_of(base, run_id))):
        if isinstance(record, Metrics | Checkpoint):
            for key, value in record.metrics.items():
                curves.setdefault(key, {}).setdefault(record.step, value)
    return {key: sorted(curves[key].items()) for key in CURVES if key in curves}


def _ask(base: Path, run_ids: Sequence[str], read: Callable[[MlflowClient, str], Answer]) -> dict[str, Answer]:
    """Return the result of `read` for each run, given MLflow's own id of it.

    Runs that the store refuses are named and left out; so are the others once it does not answer.
    """
    expected: tuple[type[Exception], ...] = (StoreError, *get_store_errors()) if run_ids else ()
    found: dict[str, Answer] = {}
    client: MlflowClient | None = None  # opened once
    for run_id in run_ids:
        try:
            sender = RunSender(base, run_id, client)
            client = sender.client
            found[run_id] = read(client, sender.find_run())
        except expected as error:
            logger.warning(f"tracking: {describe_failure(error)}; the curves of {run_id} are left out")
            if not is_refusal(error):
                break
    return found


def thin(curve: Curve) -> Curve:
    """Return at most `POINTS` points, evenly over the curve, the last one among them."""
    count = len(curve)
    if count <= POINTS:
        return curve
    return [curve[((i + 1) * count) // POINTS - 1] for i in range(POINTS)]

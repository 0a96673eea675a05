"""Delivery of waiting records, and settlement of runs that a kill left behind: `vdt replay`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from vdt.tracking.errors import StoreError, describe_failure, get_store_errors, is_refusal
from vdt.tracking.mlflow_run import RunSender
from vdt.tracking.outbox import deliver_backlog, is_waiting
from vdt.tracking.runs import find_undelivered, settle_abandoned

logger = logging.getLogger(__name__)


def replay(base: Path, files: Sequence[Path]) -> int:
    """Deliver each file; return how many could not be delivered."""
    failed = 0
    expected: tuple[type[Exception], ...] = (StoreError, *get_store_errors())
    for path in files:
        run_id = path.name.split(".")[0]
        try:
            sender = RunSender(base, run_id)
            deliver_backlog(path.with_name(f"{run_id}.jsonl"), sender)
            logger.info(f"{path}: delivered to MLflow run {sender.run_id}")
        except expected as error:
            failed += 1
            advice = f"; remove {path} to forget them" if is_refusal(error) else ""
            logger.info(f"{path}: kept, {describe_failure(error)}{advice}")
    return failed


def deliver(base: Path, files: Sequence[Path] = ()) -> int:
    """Deliver files, or all that wait, and settle abandoned runs if none waits any more.

    Returns:
        how many files could not be delivered.

    Raises:
        ValueError: if one of the files is not there.
    """
    missing = [path for path in files if not is_waiting(path)]
    if missing:
        raise ValueError(f"there is no file {missing[0]}")
    failed = replay(base, files or find_undelivered(base))
    if not failed:
        settle_abandoned(base)
    return failed

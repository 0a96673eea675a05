"""Delivery of waiting records, and settlement of runs that a kill left behind: `vdt deliver`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vdt.tracking.errors import StoreError, describe_failure, get_store_errors, is_refusal
from vdt.tracking.mlflow_run import LOCAL_ID, RUN_TAGS, RunSender
from vdt.tracking.outbox import deliver_backlog, is_waiting, sending_file_of
from vdt.tracking.runs import settle_abandoned
from vdt.tracking.store import open_store, search_runs
from vdt.tracking.waiting import LOCAL, backlog_of, find_undelivered

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)


def deliver(base: Path, files: Sequence[Path] = ()) -> int:
    """Deliver files, or all that wait; if none waits any more, settle abandoned runs and replace local ids in tags.

    It may be killed and repeated, and two may run at once: nothing is entered twice. `VDT_TRACKING` has no effect.

    Returns:
        how many files could not be delivered.

    Raises:
        ValueError: if one of the files is not there, or is none of those that wait.
    """
    missing = [path for path in files if not is_waiting(path)]
    if missing:
        raise ValueError(f"there is no file {missing[0]}")
    for path in files:
        own = backlog_of(base, _read_run_id(path))
        if path.resolve() not in (own.resolve(), sending_file_of(own).resolve()):
            raise ValueError(
                f"{path} is no file of waiting records: they lie in {own.parent}, as .jsonl files; VDT_HOME says in which "
                "home folder"
            )
    failed = _deliver_files(base, files or find_undelivered(base))
    if not find_undelivered(base):
        settle_abandoned(base)
        _replace_local_tags(base)
    return failed


def _deliver_files(base: Path, files: Sequence[Path]) -> int:
    """Deliver each file; return how many could not be delivered."""
    failed = 0
    expected: tuple[type[Exception], ...] = (StoreError, *get_store_errors())
    client: MlflowClient | None = None  # opened once
    for path in files:
        run_id = _read_run_id(path)
        try:
            sender = RunSender(base, run_id, client)
            client = sender.client
            if deliver_backlog(backlog_of(base, run_id), sender):
                logger.info(f"{path}: delivered to MLflow run {sender.run_id}")
        except expected as error:
            failed += 1
            advice = f"; remove {path} to forget them" if is_refusal(error) else ""
            logger.info(f"{path}: kept, {describe_failure(error)}{advice}")
    return failed


def _read_run_id(path: Path) -> str:
    """Return the id of the run whose records a file has, which is the first part of its name."""
    return path.name.split(".")[0]


def find_local_ids(base: Path) -> dict[str, str]:
    """Return MLflow's ids of all runs in the store by their local ones."""
    found = search_runs(open_store(base), _holds_local_id(LOCAL_ID))
    return {run.data.tags[LOCAL_ID]: str(run.info.run_id) for run in found}


def _replace_local_tags(base: Path) -> None:
    """Replace the local ids of other runs in tags: a run may have reached the store before the one that it names."""
    client = open_store(base)
    late = [(run, tag) for tag in RUN_TAGS for run in search_runs(client, _holds_local_id(tag))]
    known = find_local_ids(base) if late else {}
    for run, tag in late:
        if run.data.tags[tag] in known:
            client.set_tag(run.info.run_id, tag, known[run.data.tags[tag]])


def _holds_local_id(tag: str) -> str:
    """Return the condition that a run's tag holds a local id."""
    return f"tags.`{tag}` LIKE '{LOCAL}%'"

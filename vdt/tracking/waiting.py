"""Records that wait in files of the home folder, and the choice that all of them do."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from vdt.system.home import make_vdt_command
from vdt.tracking.errors import StoreError

logger = logging.getLogger(__name__)

MODE = "VDT_TRACKING"  # environment variable: when records are delivered
NOW, LATER = "now", "later"
LOCAL = "local-"  # how the id of a run begins until it is in the store
DELIVER = "deliver"  # command that delivers


def delivers_later() -> bool:
    """Return whether `VDT_TRACKING` is "later": records are kept in files, and no store is contacted.

    Raises:
        StoreError: if it is neither that nor "now", its default.
    """
    mode = os.environ.get(MODE) or NOW
    if mode not in (NOW, LATER):
        raise StoreError(f"{MODE}={mode} is not accepted; accepted are {NOW} (the default) and {LATER}")
    return mode == LATER


def backlog_of(base: Path, run_id: str) -> Path:
    """Return the file of a run's records that are not in the store."""
    return base / ".vdt" / "undelivered" / f"{run_id}.jsonl"


def find_undelivered(base: Path) -> list[Path]:
    """Find the backlogs that still wait."""
    names = {path.name.split(".")[0] for path in (base / ".vdt" / "undelivered").glob("*.jsonl")}
    return [backlog_of(base, name) for name in sorted(names)]


def tell_of_undelivered(base: Path) -> None:
    """Log at a flow's end that records wait, with the command that delivers them; warn where the store did not take them."""
    waiting = find_undelivered(base)
    if not waiting:
        return
    command, folder = make_vdt_command(DELIVER), waiting[0].parent
    if delivers_later():
        logger.info(
            f"tracking: records of {len(waiting)} run(s) wait in {folder} ({MODE}={LATER}); to deliver: {command}"
        )
        return
    logger.warning(
        f"tracking: the store has not taken {len(waiting)} file(s) of records in {folder}; `{command}` tries again and says why"
    )

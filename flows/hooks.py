"""Exit hooks: Metaflow calls them in a process of their own when a run has ended, also after a task was killed."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from flows.command_line import MEMORY_KILLS, get_command
from flows.errors import SAVE_MEMORY
from flows.unfinished import UNFINISHED
from vdt.system.home import home, make_resume_command
from vdt.system.log import configure_logging
from vdt.system.processes import STOPPED, count_memory_kills

logger = logging.getLogger(__name__)


def on_error(run: Any) -> None:
    """Print the known reason and the command that continues; mark the MLflow runs as failed until they are resumed."""
    from vdt.tracking import (
        BY_USER,
        StoreError,
        delivers_later,
        describe_failure,
        find_runs,
        finish_runs,
        get_store_errors,
        tell_of_undelivered,
    )

    configure_logging()
    say_how_to_go_on(run.id)
    ended = BY_USER if STOPPED in os.environ else ""
    if delivers_later():
        finish_runs(home(), _list_begun(run), "FAILED", ended=ended)
        tell_of_undelivered(home())
        return
    expected: tuple[type[Exception], ...] = (StoreError, *get_store_errors())
    try:
        finish_runs(home(), find_runs(home(), run.id), "FAILED", ended=ended)
    except expected as error:
        logger.warning(f"tracking: {describe_failure(error)}; the runs stay open until they are resumed")


def _list_begun(run: Any) -> list[str]:
    """Return the ids of the MLflow runs of a flow's cells, from its own records; none if it had not begun any."""
    cells = getattr(run["start"].task.data, "cells", None) if "start" in run else None
    return [str(cell["mlflow_run_id"]) for cell in cells or ()]


def say_how_to_go_on(run_id: str) -> None:
    """Print whether the run was stopped, ran out of memory or failed otherwise, and the command that continues it."""
    stopped = STOPPED in os.environ
    if not stopped and count_memory_kills() > int(os.environ.get(MEMORY_KILLS, sys.maxsize)):
        logger.error(f"the kernel ended a process, for memory had run out. {SAVE_MEMORY}")
    what = "was stopped" if stopped else "failed"
    if UNFINISHED in os.environ:
        logger.info(f"The run {what}. What is done is kept; the same command, by any process, continues it.\n")
        return
    logger.info(
        f"The run {what}. Its completed steps are kept, and checkpoints of the others. To continue:\n\n"
        f"    {make_resume_command(get_command(), run_id)}\n"
    )


def on_success(run: Any) -> None:
    """Print scores, and all output paths, without the prefixes that lines of a step carry."""
    configure_logging()
    logger.info(f"\n{run['end'].task.data.summary}\n")

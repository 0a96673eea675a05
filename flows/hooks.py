"""Called by Metaflow in a process of its own when a run has failed, also after a task was killed."""

from __future__ import annotations

import logging
from typing import Any

from flows.command_line import make_resume_command
from vdt.system.home import home
from vdt.system.log import configure_logging

logger = logging.getLogger(__name__)


def on_error(run: Any) -> None:
    """Print how to go on, and mark the MLflow runs as failed; the report step marks them as finished."""
    from vdt.tracking import StoreError, describe_failure, find_runs, finish_runs, get_store_errors

    configure_logging()
    logger.info(f"The run failed. Its completed steps are kept. To continue:\n\n    {make_resume_command(run.id)}\n")
    expected: tuple[type[Exception], ...] = (StoreError, *get_store_errors())
    try:
        finish_runs(home(), find_runs(home(), run.id), "FAILED")
    except expected as error:
        logger.warning(f"tracking: {describe_failure(error)}; the runs stay open until they are resumed")

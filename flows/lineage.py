"""Earlier runs that a resumed run continues. Metaflow names only the direct origin; the chain is followed here."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from metaflow import Run, Task
from metaflow.exception import MetaflowNotFound

from vdt.system.home import FolderError


def get_unfinished_ancestors(flow: str, origin: str | None, step: str, cell_key: str) -> list[str]:
    """Return the runs whose checkpoints of a step may be continued, nearest first.

    Args:
        flow: name of the flow.
        origin: `current.origin_run_id`, none for a run that is no resume.
        step: name of the step to be run.
        cell_key: key of its cell.

    Returns:
        Ids of origin, origin's origin, … as far as the step was never completed for this cell. Where it was, it is
        being run again on purpose and must not find its own result.
    """
    ancestors = []
    for run_id in walk_origins(flow, origin):
        if was_completed(flow, run_id, step, cell_key):
            break
        ancestors.append(run_id)
    return ancestors


def walk_origins(flow: str, origin: str | None) -> Iterator[str]:
    """Yield the runs that a run continues, nearest first: its origin, the origin's origin, …; none where it continues none."""
    seen: set[str] = set()
    while origin and origin not in seen:
        yield origin
        seen.add(origin)
        origin = _get_origin(flow, origin)


def _get_origin(flow: str, run_id: str) -> str | None:
    """Return the run that a run continues; each of its tasks says it, so that the first one is enough."""
    for step in _open_run(flow, run_id) or ():
        for task in step:
            origin = task.metadata_dict.get("origin-run-id")
            if origin:
                return None if origin == "None" else str(origin)
    return None


@functools.cache  # a run that is continued has ended; each of its tasks takes a millisecond or two to read
def was_completed(flow: str, run_id: str, step: str, cell_key: str) -> bool:
    """Return whether a run has a finished task of a step for a cell, its own or cloned."""
    run = _open_run(flow, run_id)
    if run is None or step not in run:
        return False
    return any(_completed(task, cell_key) for task in run[step])


def count_completed(flow: str, run_id: str) -> int:
    """Return how many tasks of a run are finished, its own or cloned; 0 of one that is not known."""
    run = _open_run(flow, run_id)
    return sum(bool(task.successful) for step in run for task in step) if run is not None else 0


def _completed(task: Task, cell_key: str) -> bool:
    """Return whether a task is finished and ran for a cell.

    Raises:
        FolderError: if the file is no longer where Metaflow's records, which hold absolute paths, place it.
    """
    try:
        return bool(task.successful and task["cell"].data["key"] == cell_key)
    except (TypeError, FileNotFoundError):  # raised by its client where the file is gone
        raise FolderError(
            f"the results of {task.pathspec} are no longer where they were written: the folder VDT_HOME was moved since, "
            "and Metaflow keeps absolute paths. Move it back to resume, or start a new run"
        ) from None


def _open_run(flow: str, run_id: str) -> Run | None:
    try:
        return Run(f"{flow}/{run_id}", _namespace_check=False)
    except MetaflowNotFound:
        return None

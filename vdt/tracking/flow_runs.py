"""Runs of flows, as the store knows them by their cells: what goes on, what can be resumed, what is finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vdt.system.processes import is_gone
from vdt.tracking.mlflow_run import BY_USER, CONTINUES, ENDED, FIRST_FLOW_RUN, FLOW_RUN, PROCESS, REPORT_OF
from vdt.tracking.store import open_store, search_runs

if TYPE_CHECKING:
    from mlflow.entities import Run

COMMAND = "mlflow.source.name"  # tag: how the flow was called
NO_PROCESS = "::"

RunState = Literal["running", "failed", "stopped", "finished"]


@dataclass(frozen=True)
class FlowRun:
    """Run of a flow.

    Attributes:
        run_id: Metaflow's; of a run that was resumed, that of the last try.
        command: how the flow was called, without the options.
        line: the whole line that continues a search; empty of other runs, which are resumed.
        started: milliseconds since 1970.
        cells: names of its runs in MLflow.
        finished: how many of them are finished.
        state: failed where a cell failed or its process is gone, stopped where someone ended it, and no other cell goes on.
    """

    run_id: str
    command: str
    line: str
    started: int
    cells: Sequence[str]
    finished: int
    state: RunState


def list_flow_runs(base: Path) -> list[FlowRun]:
    """Return the runs of all flows that have begun a cell, newest first.

    Raises:
        StoreError: if there is no store, or it cannot be used.
    """
    flows: dict[str, dict[str, Run]] = {}  # by the run that began the cells, which those that resumed it go on with
    for run in search_runs(open_store(base, make=False)):
        tags = run.data.tags
        if FLOW_RUN in tags and REPORT_OF not in tags:
            cells = flows.setdefault(tags.get(FIRST_FLOW_RUN, tags[FLOW_RUN]), {})
            other = cells.setdefault(run.info.run_name, run)
            if run.info.start_time > other.info.start_time:  # a finished step was repeated
                cells[run.info.run_name] = run
    described = [_describe([cell for _, cell in sorted(cells.items())]) for cells in flows.values()]
    return sorted(described, key=lambda run: run.started, reverse=True)


def _describe(cells: Sequence[Run]) -> FlowRun:
    run_id = max((cell.data.tags[FLOW_RUN] for cell in cells), key=lambda text: (len(text), text))
    states = [_get_state(cell) for cell in cells]
    state: RunState = next((name for name in ("running", "failed", "stopped") if name in states), "finished")
    command = cells[0].data.tags.get(COMMAND, "python flows/vdt_flow.py")
    started = max(cell.info.start_time for cell in cells)
    line = cells[0].data.tags.get(CONTINUES, "")
    return FlowRun(run_id, command, line, started, [c.info.run_name for c in cells], states.count("finished"), state)


def _get_state(cell: Run) -> RunState:
    if cell.info.status in ("FINISHED", "KILLED"):  # the latter by its search alone, which goes on without it
        return "finished"
    if cell.info.status == "RUNNING" and not is_gone(cell.data.tags.get(PROCESS, NO_PROCESS)):
        return "running"
    return "stopped" if cell.data.tags.get(ENDED) == BY_USER else "failed"

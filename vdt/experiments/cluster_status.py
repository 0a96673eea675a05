"""How far a study's cells are on a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vdt.evaluation.records import CellRecord
from vdt.experiments.study import Study
from vdt.experiments.submissions import REPORT_FOLDER
from vdt.system.slurm import Job


@dataclass(frozen=True)
class CellState:
    """How far a cell of a study is.

    Attributes:
        key: of the cell.
        state: finished, running, pending, failed or missing (never submitted).
        job: that runs it or is to run it, if there is one.
        note: of a failed one, what its log says.
    """

    key: str
    state: str
    job: Job | None = None
    note: str = ""


def describe_states(
    names: Sequence[str], finished: Iterable[str], jobs: Mapping[str, Job], ended: Mapping[str, str]
) -> list[CellState]:
    """Return the state of each cell.

    Args:
        names: of all cells of the study (`name_cell`), which end with their keys.
        finished: names of those with a result.
        jobs: cell's name -> its job in the queue.
        ended: cell's name -> last words of its newest log, of those that were submitted once.
    """
    done, states = set(finished), []
    for name in names:
        job, key = jobs.get(name), name.rpartition(" ")[2]
        if name in done and (job is None or job.state == "PENDING"):
            states.append(CellState(key, "finished"))
        elif job is not None:
            states.append(CellState(key, "pending" if job.state == "PENDING" else "running", job))
        elif name in ended:
            states.append(CellState(key, "failed", note=ended[name]))
        else:
            states.append(CellState(key, "missing"))
    return states


def estimate_minutes(states: Sequence[CellState], finished: Sequence[CellRecord]) -> float | None:
    """Return the minutes until all submitted cells have ended; none before one has finished or while none runs.

    Each cell counts as the mean of the finished ones, those that run as half of it.
    """
    running = sum(state.state == "running" for state in states)
    if not finished or not running:
        return None
    mean = sum(sum(record.seconds.values()) for record in finished) / len(finished) / 60
    return mean * (sum(state.state == "pending" for state in states) + running / 2) / running


def describe_status(
    study: Study, states: Sequence[CellState], finished: Sequence[CellRecord], jobs: Sequence[Job]
) -> list[str]:
    """Return the lines of a study's status: counts, then what runs, waits and has failed, then the time left.

    Args:
        study: its name is given.
        states: of its cells.
        finished: those with a result.
        jobs: of these cells, among them reports.
    """
    names = ("finished", "running", "pending", "failed", "missing")
    counts = {name: sum(state.state == name for state in states) for name in names}
    lines = [f"study {study.name}: {len(states)} cells: " + ", ".join(f"{n} {name}" for name, n in counts.items())]
    for state in states:
        if state.job is not None:
            lines.append(describe_job(state.job, state.key))
        elif state.state == "failed":
            lines.append(f"failed   {state.key}: {state.note}")
    lines += [describe_job(job, REPORT_FOLDER) for job in jobs if Path(job.comment).name == REPORT_FOLDER]
    minutes = estimate_minutes(states, finished)
    if minutes is not None:
        lines.append(f"about {max(1, round(minutes))} min left, as long as {counts['running']} run at once")
    if counts["failed"] or counts["missing"]:
        lines.append("`submit` with the same options submits what is failed or missing")
    return lines


def describe_job(job: Job, what: str) -> str:
    """Return a line on a job of the queue."""
    if job.state == "PENDING":
        return f"pending  {what}: job {job.job_id} ({job.reason})"
    return f"{job.state.lower():<8} {what}: job {job.job_id} on {job.node}, {job.time_left} to its limit"

"""How far a study's cells are on a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vdt.config.schema import Config
from vdt.evaluation.records import CellRecord
from vdt.evaluation.trials import Trial
from vdt.experiments.cells import compute_identities
from vdt.experiments.results_store import list_identities
from vdt.experiments.search_trials import find_first_rung, get_search, open_search
from vdt.experiments.study import Cell, Study
from vdt.experiments.submissions import REPORT_FOLDER, WORKERS, ended_well, find_ends, list_own, name_cell
from vdt.system.home import home
from vdt.system.slurm import Job

MOST_LINES = 10  # of cells that wait in one array for one reason
STUCK = (  # reasons of Slurm for which a job waits until someone acts
    *("PartitionTimeLimit", "PartitionNodeLimit", "BadConstraints", "InvalidAccount", "InvalidQOS"),
    *("DependencyNeverSatisfied", "JobHeldUser", "JobHeldAdmin", "launch failed requeued held"),
)


@dataclass(frozen=True)
class CellState:
    """How far a cell of a study is.

    Attributes:
        key: of the cell.
        state: finished, running, pending, failed or missing (never submitted).
        job: that runs it or is to run it, if there is one; of a finished one, again.
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
            states.append(CellState(key, "finished", job))  # which `--reuse none` has submitted again
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
    waiting = _group_waiting(states)
    for state in states:
        if state.job is not None:
            group = waiting.pop(_name_wait(state.job), []) if state.job.state == "PENDING" else [state]
            lines += _describe_group(group)
        elif state.state == "failed":
            lines.append(f"failed   {state.key}: {state.note}")
    reports = [job for job in jobs if Path(job.comment).name == REPORT_FOLDER]
    lines += [describe_job(job, REPORT_FOLDER) for job in reports]
    lines += describe_stuck([*(state.job for state in states if state.job), *reports])
    minutes = estimate_minutes(states, finished)
    if minutes is not None:
        lines.append(f"about {max(1, round(minutes))} min left, as long as {counts['running']} run at once")
    if counts["failed"] or counts["missing"]:
        lines.append("`submit` with the same options submits what is failed or missing")
    return lines


def _name_wait(job: Job) -> tuple[str, str]:
    """Return array and reason of a job that waits."""
    return job.array, job.reason


def _group_waiting(states: Sequence[CellState]) -> dict[tuple[str, str], list[CellState]]:
    groups: dict[tuple[str, str], list[CellState]] = {}
    for state in states:
        if state.job is not None and state.job.state == "PENDING":
            groups.setdefault(_name_wait(state.job), []).append(state)
    return groups


def _describe_group(group: Sequence[CellState]) -> list[str]:
    """Return a line per cell, or one for many that wait alike."""
    if len(group) <= MOST_LINES:
        return [describe_job(state.job, state.key) for state in group if state.job is not None]
    assert group[0].job is not None
    array, reason = _name_wait(group[0].job)
    return [f"pending  {len(group)} cells, first {group[0].key}: job {array} ({reason})"]


def describe_stuck(jobs: Iterable[Job]) -> list[str]:
    """Return a line on jobs that wait until someone acts, if there are any."""
    reasons = {job.reason: None for job in jobs if job.state == "PENDING" and _is_stuck(job.reason)}
    if not reasons:
        return []
    return [
        f"these reasons do not pass by themselves: {', '.join(reasons)}. `scontrol release JOB` frees a held job; "
        "`scancel JOB` ends another one, and `submit` with other --sbatch submits it again"
    ]


def _is_stuck(reason: str) -> bool:
    """Return whether a reason does not pass; limits of an account on one job, and wrong partitions have many names."""
    return reason in STUCK or "PerJob" in reason or reason.startswith("Job's ")


def list_ends(study: Study, missing: Sequence[Cell], reuse: str) -> dict[str, str]:
    """Return how the jobs of cells have ended (`find_ends`), without those that have a result of other code.

    Those have not failed, unless a later job of theirs has.

    Args:
        study: of the cells.
        missing: cells without a result that counts.
        reuse: which results count.
    """
    ends, known = find_ends(study), list_identities(home()) if reuse == "exact" else set()
    identities = compute_identities(missing) if known else []
    for cell, identity in zip(missing, identities, strict=False):
        if identity in known and ended_well(ends.get(name_cell(cell), "")):
            del ends[name_cell(cell)]
    return ends


def is_reported(study: Study, config: Config, folder: Path) -> bool:
    """Return whether all trials of a search have ended, and its winner is reported.

    Args:
        study: the search.
        config: of one of its cells (`check_search`).
        folder: of its trials.
    """
    if not folder.is_dir():
        return False
    store = open_search(folder, get_search(study), find_first_rung(config))
    return store.is_finished() and bool(store.reports)


def describe_search(
    study: Study, trials: Sequence[Trial], name: str, jobs: Sequence[Job], *, reported: bool
) -> list[str]:
    """Return the lines of a search's status: its trials by state, its jobs, and whether any works on it.

    Args:
        study: the search.
        trials: those that have begun.
        name: of the folder of its trials.
        jobs: of all searches of this name.
        reported: whether nothing is left to do.
    """
    counts = {state: sum(trial.state == state for trial in trials) for state in sorted({t.state for t in trials})}
    said = ", ".join(f"{count} {state}" for state, count in counts.items()) or "none begun"
    own, lines = list_own(jobs, [name]), [f"search {study.name}: {get_search(study).trials} trials: {said}"]
    lines += [describe_job(job, Path(job.comment).name) for job in own]
    lines += [*describe_stuck(own), *describe_others(study, {*jobs} - {*own})]
    if not reported and not any(Path(job.comment).name == WORKERS for job in own):
        end = find_ends(study).get(name)
        lines.append(f"no worker is in the queue{f'; the last one {end}' if end else ''}")
        lines.append("`submit` with the same options submits workers")
    return lines


def describe_others(study: Study, jobs: Iterable[Job]) -> list[str]:
    """Return a line on jobs of a study that are none of the cells asked for, if there are any."""
    count = len({*jobs})
    words = "jobs of {} are" if count > 1 else "job of {} is"
    where = f"{words.format(study.name)} in the queue with other options, or with the file as it was before"
    return [f"{count} {where}"] if count else []


def describe_job(job: Job, what: str) -> str:
    """Return a line on a job of the queue."""
    if job.state == "PENDING":
        return f"pending  {what}: job {job.job_id} ({job.reason})"
    return f"{job.state.lower():<8} {what}: job {job.job_id} on {job.node}, {job.time_left} to its limit"

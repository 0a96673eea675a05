"""Submissions of a study to a cluster: folders that say which element of which array runs which cell.

`HOME/.vdt/slurm/STUDY/<time>-<process>/` holds a copy of the study's file, so that a later change does not reach jobs that
wait, and a folder per array: `cells.txt` (line n: number and name of the cell of element n, or of the search that it works
on) and the logs. Each array names its folder as its comment, so that Slurm's queue alone says what runs: a submission that
was cut short is found there too.

One study with other options (`--set`) has other cells of the same keys, so a cell's name has a digest of its settings, too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from vdt.experiments.results_store import compute_identity
from vdt.experiments.study import Cell, Study, find_study_file
from vdt.system.files import write_text
from vdt.system.home import FolderError, home
from vdt.system.slurm import Job, SlurmError, list_jobs

CELLS = "cells.txt"
REPORT_FOLDER, WORKERS = "report", "workers"  # folders of what is no array of cells
NO_RESULT = ", without a result that counts now: code, data or an installed package has changed"


def find_submissions_folder(study: Study) -> Path:
    """Return the folder of a study's submissions."""
    return home() / ".vdt" / "slurm" / study.name


def name_jobs(study: Study) -> str:
    """Return the name that all jobs of a study have."""
    return f"vdt-{study.name}"


def list_study_jobs(study: Study) -> list[Job]:
    """Return the jobs of a study that were submitted from this home folder: those of other people have the same name."""
    folder = find_submissions_folder(study)
    return [job for job in list_jobs(name_jobs(study)) if Path(job.comment).is_relative_to(folder)]


def make_submission(
    study: Study, options: Mapping[str, str], earlier: Path | None = None
) -> tuple[Path, dict[str, str]]:
    """Make a submission's folder; return it, and the options with the study's copy.

    Args:
        study: to be submitted.
        options: of a run.
        earlier: folder of a submission, to which something is added; its copy stays.

    Raises:
        FolderError: if the folder or the copy cannot be written.
    """
    folder = earlier or find_submissions_folder(study) / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    copy = folder / f"{study.name}.yaml"
    with _name_refusal(folder):
        folder.mkdir(parents=True, exist_ok=folder == earlier)
        if "study" in options and not copy.exists():
            shutil.copyfile(find_study_file(options["study"]), copy)
    return folder, {**options, "study": str(copy)} if "study" in options else dict(options)


def discard_refused(study: Study, folder: Path) -> None:
    """Remove the folder of an array that Slurm has refused, so that its cells do not count as submitted.

    Slurm may have taken the array and answered too late: what is in the queue stays.
    """
    with contextlib.suppress(SlurmError):  # it does not answer, so nothing is known
        if any(job.comment == str(folder) for job in list_study_jobs(study)):
            return
        shutil.rmtree(folder, ignore_errors=True)
        if not any(folder.parent.glob(f"*/{CELLS}")):
            shutil.rmtree(folder.parent, ignore_errors=True)


def name_cell(cell: Cell) -> str:
    """Return a digest of a cell's settings, and its key; without its data, which may change while a job waits."""
    return f"{compute_identity(cell.config, cell.config.data.source)} {cell.key}"


def write_cells(folder: Path, cells: Sequence[tuple[int, str]]) -> Path:
    """Write the cells of an array, by number and name; return the file.

    Raises:
        FolderError: if it cannot be written.
    """
    with _name_refusal(folder):
        return write_text(folder / CELLS, "".join(f"{number} {name}\n" for number, name in cells))


@contextlib.contextmanager
def _name_refusal(folder: Path) -> Iterator[None]:
    """Turn the system's refusal to write into an error that names the folder."""
    try:
        yield
    except OSError as error:
        raise FolderError(
            f"cannot write to {folder} ({error.strerror or error}); nothing is submitted for it"
        ) from None


def list_own(jobs: Iterable[Job], names: Iterable[str]) -> list[Job]:
    """Return the jobs of submissions that have no other cells than the named ones, or no other search."""
    wanted, lists, own = set(names), dict[Path, set[str]](), []
    for job in jobs:
        folder = Path(job.comment).parent
        if folder not in lists:
            lists[folder] = {name for file in folder.glob(f"*/{CELLS}") for name in _read_names(file.parent)}
        if lists[folder] <= wanted:
            own.append(job)
    return own


def find_without_report(busy: Sequence[Job], own: Sequence[Job], jobs: Iterable[Job]) -> Path | None:
    """Return the folder of a submission in the queue whose report is not in it; none if it waits there.

    Args:
        busy: jobs that run or are to run what is missing.
        own: those of submissions that have nothing else (`list_own`); without one among the busy ones a report is another
            call's.
        jobs: all of the study.
    """
    folders = {Path(job.comment).parent for job in (*busy, *own)}
    waiting = {Path(job.comment) for job in jobs if job.state == "PENDING"}
    mine = [job for job in busy if job in own]
    if not mine or any(folder / REPORT_FOLDER in waiting for folder in folders):
        return None
    return Path(mine[-1].comment).parent


def find_busy(jobs: Sequence[Job], names: Iterable[str]) -> dict[str, Job]:
    """Return those of the named cells that jobs of the queue run or are to run, by name."""
    wanted, lists = set(names), dict[str, list[str]]()
    busy = {}
    for job in jobs:
        if job.comment not in lists:
            lists[job.comment] = _read_names(Path(job.comment))
        if job.index is not None and 0 < job.index <= len(lists[job.comment]):
            busy[lists[job.comment][job.index - 1]] = job
    return {name: job for name, job in busy.items() if name in wanted}


def find_ends(study: Study) -> dict[str, str]:
    """Return the last words of the newest log of each cell that was ever submitted, by name."""
    places: dict[str, tuple[Path, int]] = {}
    for file in sorted(find_submissions_folder(study).glob(f"*/*/{CELLS}")):
        places |= {name: (file.parent, index) for index, name in enumerate(_read_names(file.parent), start=1)}
    return {name: _read_end(folder, index) for name, (folder, index) in places.items()}


def _read_names(folder: Path) -> list[str]:
    file = folder / CELLS
    return [line.split(" ", 1)[1] for line in file.read_text().splitlines()] if file.is_file() else []


def _read_end(folder: Path, index: int) -> str:
    """Return how the log of an array's element ends."""
    logs = sorted(folder.glob(f"*_{index}.log"), key=lambda path: path.stat().st_mtime)
    if not logs:
        return "has no log: cancelled before it began, or the log could not be written"
    lines = [
        line for line in logs[-1].read_text(errors="replace").splitlines() if line.startswith(("start ", "ended "))
    ]
    end = lines[-1] if lines and lines[-1].startswith("ended ") else "cancelled, or its node was lost"
    return f"{end}{NO_RESULT if ended_well(end) else ''}; {logs[-1]}"


def ended_well(end: str) -> bool:
    """Return whether a job has ended as one does that has kept a result."""
    return end.startswith("ended with 0 ")

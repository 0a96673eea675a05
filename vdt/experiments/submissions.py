"""Submissions of a study to a cluster: folders that say which element of which array runs which cell.

`HOME/.vdt/slurm/STUDY/<time>-<process>/` holds a copy of the study's file, so that a later change does not reach jobs that
wait, and a folder per array: `cells.txt` (line n: number and key of the cell of element n) and the logs. Each array names
its folder as its comment, so that Slurm's queue alone says what runs: a submission that was cut short is found there too.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from vdt.experiments.study import Study, find_study_file
from vdt.system.files import write_text
from vdt.system.home import home
from vdt.system.slurm import Job

CELLS = "cells.txt"
REPORT, WORKERS = "report", "workers"  # folders of what is no array of cells


def find_folder(study: Study) -> Path:
    """Return the folder of a study's submissions."""
    return home() / ".vdt" / "slurm" / study.name


def name_jobs(study: Study) -> str:
    """Return the name that all jobs of a study have."""
    return f"vdt-{study.name}"


def make_submission(study: Study, options: Mapping[str, str]) -> tuple[Path, dict[str, str]]:
    """Make a submission's folder; return it, and the options with the study's copy."""
    folder = find_folder(study) / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    folder.mkdir(parents=True)
    if "study" not in options:  # a sweep
        return folder, dict(options)
    copy = folder / f"{study.name}.yaml"
    shutil.copyfile(find_study_file(options["study"]), copy)
    return folder, {**options, "study": str(copy)}


def write_cells(folder: Path, cells: Sequence[tuple[int, str]]) -> Path:
    """Write the cells of an array, by number and key; return the file."""
    return write_text(folder / CELLS, "".join(f"{number} {key}\n" for number, key in cells))


def find_busy(jobs: Sequence[Job]) -> dict[str, Job]:
    """Return the cells that jobs of the queue run or are to run, by key."""
    lists: dict[str, list[str]] = {}
    busy = {}
    for job in jobs:
        if job.comment not in lists:
            lists[job.comment] = _read_keys(Path(job.comment))
        if job.index is not None and 0 < job.index <= len(lists[job.comment]):
            busy[lists[job.comment][job.index - 1]] = job
    return busy


def find_ends(study: Study) -> dict[str, str]:
    """Return the last words of the newest log of each cell that was ever submitted, by key."""
    places: dict[str, tuple[Path, int]] = {}
    for file in sorted(find_folder(study).glob(f"*/*/{CELLS}")):
        places |= {key: (file.parent, index) for index, key in enumerate(_read_keys(file.parent), start=1)}
    return {key: _read_end(folder, index) for key, (folder, index) in places.items()}


def _read_keys(folder: Path) -> list[str]:
    file = folder / CELLS
    return [line.split(" ", 1)[1] for line in file.read_text().splitlines()] if file.is_file() else []


def _read_end(folder: Path, index: int) -> str:
    """Return how the log of an array's element ends."""
    logs = sorted(folder.glob(f"*_{index}.log"), key=lambda path: path.stat().st_mtime)
    if not logs:
        return "cancelled before it began, or never submitted"
    lines = [
        line for line in logs[-1].read_text(errors="replace").splitlines() if line.startswith(("start ", "ended "))
    ]
    end = lines[-1] if lines and lines[-1].startswith("ended ") else "cancelled, or its node was lost"
    return f"{end}; {logs[-1]}"

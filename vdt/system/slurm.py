"""Slurm's commands: jobs are submitted by `sbatch` and listed by `squeue`. Nothing else is needed of a cluster."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

FIELDS = "%i|%K|%T|%N|%L|%r|%k"
LIMIT_SECONDS = 120.0
SMALLEST_ARRAY = 1001  # Slurm's default MaxArraySize
SHELLS = ("SQUEUE_", "SCANCEL_")  # variables of a user's shell that change which jobs a command lists or asks about


class SlurmError(ValueError):
    """Refusal of Slurm, or its absence."""


@dataclass(frozen=True)
class Job:
    """Job, or element of an array, that Slurm knows as pending or running.

    Attributes:
        job_id: e.g. "12" or "12_3".
        index: in its array; none for a job that is no array.
        state: Slurm's word, e.g. "PENDING", "RUNNING".
        node: on which it runs; empty while it waits.
        time_left: until its limit, as Slurm prints it.
        reason: for which it waits.
        comment: given with it.
    """

    job_id: str
    index: int | None
    state: str
    node: str
    time_left: str
    reason: str
    comment: str

    @property
    def array(self) -> str:
        """Return the number of its array, or its own where it is none."""
        return self.job_id.split("_")[0]


def list_arrays(jobs: Iterable[Job]) -> list[str]:
    """Return the numbers of the jobs' arrays, once each, in the jobs' order."""
    return [*{job.array: None for job in jobs}]


def check_slurm() -> None:
    """Raise SlurmError if this machine has no Slurm commands."""
    missing = [name for name in ("sbatch", "squeue", "scontrol", "scancel") if shutil.which(name) is None]
    if missing:
        raise SlurmError(
            f"there is no {missing[0]} on PATH: jobs are submitted on a cluster's login node, where Slurm is installed (or "
            "its module is loaded)"
        )


def escape_path(path: Path) -> str:
    """Return a path for `--output`, where Slurm puts names and numbers in place of `%x`, `%j` and others."""
    return str(path).replace("%", "%%")


def submit_job(words: Sequence[str]) -> str:
    """Submit a job by `sbatch`; return its number.

    Raises:
        SlurmError: with Slurm's own words, if it refuses, or submits nothing (`--test-only`).
    """
    answer = _ask("sbatch", "--parsable", *words)
    number = "".join(answer.stdout.split()[-1:]).split(";")[0]
    if not number.isdigit():
        said = " ".join(f"{answer.stdout} {answer.stderr}".split())
        raise SlurmError(f"sbatch has submitted nothing, and says: {said or 'nothing'}")
    return number


def list_jobs(name: str) -> list[Job]:
    """Return the jobs of a name that wait or run, elements of arrays apart."""
    lines = _call("squeue", "--noheader", "--array", f"--name={name}", f"--format={FIELDS}").splitlines()
    jobs = []
    for line in lines:
        job_id, index, state, node, left, reason, comment = line.strip().split("|", 6)
        jobs.append(Job(job_id, int(index) if index.isdigit() else None, state, node, left, reason, comment))
    return jobs


def cancel_job(job_id: str) -> None:
    """Cancel a job; one that has ended meanwhile is left alone.

    Raises:
        SlurmError: if Slurm refuses.
    """
    _call("scancel", "--state=PENDING", job_id)


def find_largest_array() -> int:
    """Return how many elements an array may have: its indices are below Slurm's MaxArraySize."""
    for line in _call("scontrol", "show", "config").splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "MaxArraySize" and value.strip().isdigit():
            return max(1, int(value) - 1)
    return SMALLEST_ARRAY - 1


def _call(*words: str) -> str:
    """Return a command's output."""
    return _ask(*words).stdout


def _ask(*words: str) -> subprocess.CompletedProcess[str]:
    """Return what a command has answered."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(SHELLS)}
    try:
        answer = subprocess.run(
            words, env=variables, capture_output=True, text=True, check=False, timeout=LIMIT_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{words[0]} has not answered within {LIMIT_SECONDS:.0f} s") from None
    if answer.returncode != 0:
        said = " ".join((answer.stderr or answer.stdout).split())
        raise SlurmError(f"{words[0]} refuses: {said}")
    return answer

"""A study on a cluster of a test (`support.slurm`): submitted, watched and waited for."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from support.flow import make_variables
from support.slurm import Cluster
from vdt.system.home import ROOT

LIMIT = 1800.0  # seconds of one wait, on a busy machine


class SlurmStudy:
    """The study in a folder of its own, and what is known of its jobs."""

    def __init__(self, folder: Path, cluster: Cluster, name: str, text: str) -> None:
        self.folder, self.home, self.cluster = folder, folder / "home", cluster
        self.file, self.jobs = folder / f"{name}.yaml", folder / "home" / ".vdt" / "slurm" / name
        self.file.write_text(text)
        self.variables = {
            **make_variables(folder),
            "SLURM_CONF": cluster.variables["SLURM_CONF"],
            "VDT_SAVING_SECONDS": "2",
        }

    def call(self, *words: str) -> str:
        """Call `flows/slurm.py` for the study."""
        command = [sys.executable, str(ROOT / "flows" / "slurm.py"), *words, "--study", self.file.name]
        answer = subprocess.run(
            command, cwd=self.folder, env=self.variables, capture_output=True, text=True, check=False
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr
        return answer.stdout

    def find_job(self, cell: str, state: str) -> str | None:
        """The job of a cell, if it is in this state."""
        for job, (found, _, comment) in self.cluster.list_queue().items():
            file = Path(comment, "cells.txt")
            index = int(job.partition("_")[2] or 0)
            if found == state and file.is_file() and index and file.read_text().splitlines()[index - 1].endswith(cell):
                return job
        return None

    def has_checkpoint(self, cell: str) -> bool:
        """Whether any training of the cell has one."""
        return any(self.home.glob(f".vdt/checkpoints/VDTFlow/*/*/{cell}/0*.pt"))

    def read_log(self, cell: str) -> str:
        """All logs of a cell's jobs."""
        texts = []
        for file in sorted(self.jobs.glob("*/*/cells.txt")):
            for number, line in enumerate(file.read_text().splitlines(), start=1):
                logs = sorted(file.parent.glob(f"*_{number}.log")) if line.endswith(cell) else []
                texts += [log.read_text() for log in logs]
        return "\n".join(texts)

    def wait_for(self, what: str, condition: Callable[[], object]) -> None:
        """Wait until something is the case; show all logs if it never is."""
        deadline = time.monotonic() + LIMIT
        while not condition():
            logs = "\n".join(path.read_text() for path in self.jobs.glob("*/*/*.log"))
            assert time.monotonic() < deadline, f"{what}: {self.cluster.list_queue()}\n{logs[-6000:]}"
            time.sleep(0.1)

    def wait_for_training(self, cell: str) -> str:
        """Wait until a cell's job has a checkpoint; return the job."""
        self.wait_for(f"{cell} trains", lambda: self.find_job(cell, "RUNNING") and self.has_checkpoint(cell))
        job = self.find_job(cell, "RUNNING")
        assert job is not None
        return job

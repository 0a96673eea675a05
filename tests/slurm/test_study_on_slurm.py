"""A study on a real Slurm of two nodes: stopped, cancelled and lost cells end as those of an undisturbed run."""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.faults import assert_same_outcome
from support.flow import ENV, make_variables, run_flow
from support.slurm import Cluster, run_cluster
from vdt.system.home import ROOT
from vdt.tracking import open_store

STUDY = f"""
preset: smoke
source: collected
share_training: false
envs: [{ENV}]
methods: [vdt, bc]
seeds: [0, 1]
set:
  data: {{steps: 1000}}
  critic: {{gradient_steps: 1500}}
  actor: {{gradient_steps: 300}}
  online: {{environment_steps: 0}}
  evaluation: {{episodes: 1, lookahead_horizon: 0, requested_episodes: 0, max_episode_steps: 20}}
  checkpoint: {{interval_seconds: 0.2, interval_steps: 50}}
"""
LIMIT = 600.0  # seconds of one wait, on a busy machine
CELLS = [f"{ENV}-{method}-s{seed}" for method in ("vdt", "bc") for seed in (0, 1)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with run_cluster(tmp_path_factory.mktemp("cluster") / "slurm") as cluster:
        yield cluster


class Study:
    """The study in a folder of its own, and what is known of its jobs."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.folder, self.home, self.cluster = folder, folder / "home", cluster
        (folder / "four.yaml").write_text(STUDY)
        self.variables = {**make_variables(folder), "SLURM_CONF": cluster.variables["SLURM_CONF"]}

    def call(self, *words: str) -> str:
        """Call `flows/slurm.py` for the study."""
        command = [sys.executable, str(ROOT / "flows" / "slurm.py"), *words, "--study", "four.yaml"]
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
        for file in sorted(self.home.glob(".vdt/slurm/four/*/*/cells.txt")):
            for number, line in enumerate(file.read_text().splitlines(), start=1):
                logs = sorted(file.parent.glob(f"*_{number}.log")) if line.endswith(cell) else []
                texts += [log.read_text() for log in logs]
        return "\n".join(texts)

    def wait_for(self, what: str, condition: Callable[[], object]) -> None:
        """Wait until something is the case; show all logs if it never is."""
        deadline = time.monotonic() + LIMIT
        while not condition():
            logs = "\n".join(path.read_text() for path in self.home.glob(".vdt/slurm/four/*/*/*.log"))
            assert time.monotonic() < deadline, f"{what}: {self.cluster.list_queue()}\n{logs[-6000:]}"
            time.sleep(0.1)

    def wait_for_training(self, cell: str) -> str:
        """Wait until a cell's job has a checkpoint; return the job."""
        self.wait_for(f"{cell} trains", lambda: self.find_job(cell, "RUNNING") and self.has_checkpoint(cell))
        job = self.find_job(cell, "RUNNING")
        assert job is not None
        return job


def test_stopped_cancelled_and_lost_cells_end_as_undisturbed_ones(cluster: Cluster, tmp_path: Path) -> None:
    quiet = tmp_path / "quiet"
    quiet.mkdir()
    study = Study(tmp_path, cluster)
    said = study.call("submit")
    assert "4 cells, 0 finished, 0 in the queue, 4 to submit" in said
    (array,) = re.findall(r"^job (\d+): 4 cells$", said, re.MULTILINE)
    check_what_a_job_asks_for(cluster, array)
    stopped, lost = (study.wait_for_training(cell) for cell in CELLS[:2])
    node = cluster.list_queue()[lost][1]
    cluster.lose_node(node)
    stop_for_lack_of_time(study, CELLS[0], stopped)
    cancel(study, CELLS[2])
    bring_back(study, CELLS[1], lost, node)
    submit_again(study, CELLS[2])
    (quiet / "four.yaml").write_text(STUDY)
    study.wait_for("all have ended", lambda: not cluster.list_queue())
    status = study.call("status")
    assert "study four: 4 cells: 4 finished, 0 running, 0 pending, 0 failed, 0 missing" in status
    assert "all cells of four are finished; nothing is submitted" in study.call("submit")
    code, output = run_flow(quiet, "run", "--study", "four.yaml")
    assert code == 0, output
    print(assert_same_outcome(study.home, quiet / "home"))
    check_that_each_cell_has_one_run(study)


def check_what_a_job_asks_for(cluster: Cluster, array: str) -> None:
    """A GPU from the DAG, time and memory from the preset's needs; and the report waits for all."""
    job = cluster.describe_job(array)
    assert "TresPerNode=gres:gpu:1" in job, job
    assert "TimeLimit=00:15:00" in job, job
    assert "MinMemoryNode=5000M" in job, job
    assert "Requeue=1" in job, job
    (report,) = (name for name, (_, _, comment) in cluster.list_queue().items() if comment.endswith("report"))
    described = cluster.describe_job(report)
    assert f"Dependency=afterany:{array}" in described, described
    assert "gpu" not in described, described


def stop_for_lack_of_time(study: Study, cell: str, job: str) -> None:
    """USR1 is what Slurm sends ahead of a time limit: the job is queued again."""
    study.cluster.cancel("--signal=USR1", "--batch", job)
    study.wait_for("queued again", lambda: "queued again" in study.read_log(cell))


def cancel(study: Study, cell: str) -> None:
    """A cancelled cell stays away."""
    job = study.wait_for_training(cell)
    study.cluster.cancel(job)
    study.wait_for("cancelled", lambda: job not in study.cluster.list_queue())
    assert f"failed   {cell}: ended with" in study.call("status")


def bring_back(study: Study, cell: str, job: str, node: str) -> None:
    """The cell of a lost node waits in the queue when that is noticed."""
    study.wait_for("noticed", lambda: study.cluster.list_queue()[job][1] != node)
    study.cluster.start_node(node)


def submit_again(study: Study, cell: str) -> None:
    """The same line submits the cancelled cell, and it alone."""
    said = study.call("submit")
    assert re.search(r"[0-3] finished, [0-3] in the queue, 1 to submit", said), said


def check_that_each_cell_has_one_run(study: Study) -> None:
    client = open_store(study.home)
    experiment = client.get_experiment_by_name("vdt")
    assert experiment is not None
    names = sorted(run.info.run_name for run in client.search_runs([experiment.experiment_id], "tags.env != ''"))
    assert names == sorted(f"{method}-s{seed}-{ENV}-collected" for method in ("vdt", "bc") for seed in (0, 1))
    for cell in CELLS[:3]:
        assert "going on with run" in study.read_log(cell), study.read_log(cell)
    assert not list((study.home / ".vdt").glob("unfinished/*"))
    assert not list((study.home / ".vdt").glob("undelivered/*.jsonl"))

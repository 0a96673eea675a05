"""A study on a real Slurm of two nodes: stopped, cancelled and lost cells end as those of an undisturbed run."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.faults import assert_same_outcome
from support.flow import ENV, run_flow
from support.slurm import Cluster, run_cluster
from support.slurm_study import SlurmStudy
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
CELLS = [f"{ENV}-{method}-s{seed}" for method in ("vdt", "bc") for seed in (0, 1)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with run_cluster(tmp_path_factory.mktemp("cluster") / "slurm") as cluster:
        yield cluster


def test_stopped_cancelled_and_lost_cells_end_as_undisturbed_ones(cluster: Cluster, tmp_path: Path) -> None:
    quiet = tmp_path / "quiet"
    quiet.mkdir()
    study = SlurmStudy(tmp_path, cluster, "four", STUDY)
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


def stop_for_lack_of_time(study: SlurmStudy, cell: str, job: str) -> None:
    """USR1 is what Slurm sends ahead of a time limit: the job is queued again."""
    study.cluster.cancel("--signal=USR1", "--batch", job)
    study.wait_for("queued again", lambda: "queued again" in study.read_log(cell))


def cancel(study: SlurmStudy, cell: str) -> None:
    """A cancelled cell stays away."""
    job = study.wait_for_training(cell)
    study.cluster.cancel(job)
    study.wait_for("cancelled", lambda: job not in study.cluster.list_queue())
    assert f"failed   {cell}: ended with" in study.call("status")


def bring_back(study: SlurmStudy, cell: str, job: str, node: str) -> None:
    """The cell of a lost node waits in the queue when that is noticed."""
    study.wait_for("noticed", lambda: study.cluster.list_queue()[job][1] != node)
    study.cluster.start_node(node)


def submit_again(study: SlurmStudy, cell: str) -> None:
    """The same line submits the cancelled cell, and it alone."""
    said = study.call("submit")
    assert re.search(r"[0-3] finished, [0-3] in the queue, 1 to submit", said), said


def check_that_each_cell_has_one_run(study: SlurmStudy) -> None:
    client = open_store(study.home)
    experiment = client.get_experiment_by_name("vdt")
    assert experiment is not None
    names = sorted(run.info.run_name for run in client.search_runs([experiment.experiment_id], "tags.env != ''"))
    assert names == sorted(f"{method}-s{seed}-{ENV}-collected" for method in ("vdt", "bc") for seed in (0, 1))
    for cell in CELLS[:3]:
        assert "going on with run" in study.read_log(cell), study.read_log(cell)
    assert not list((study.home / ".vdt").glob("unfinished/*"))
    assert not list((study.home / ".vdt").glob("undelivered/*.jsonl"))

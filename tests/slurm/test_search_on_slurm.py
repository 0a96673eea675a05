"""A search on a real Slurm of two nodes, one of which is lost: no trial is lost, and none is counted twice."""

import json
from pathlib import Path

import pytest

from support.flow import ENV
from support.slurm import run_cluster
from support.slurm_study import SlurmStudy
from vdt.evaluation.trials import COMPLETE
from vdt.experiments.cells import resolve_study
from vdt.experiments.search_trials import load_trials
from vdt.tracking import open_store

STUDY = f"""
preset: smoke
source: collected
envs: [{ENV}]
methods: [bc]
set:
  data: {{steps: 1000}}
  actor: {{gradient_steps: 200}}
  online: {{environment_steps: 0}}
  planner: {{planning_horizon: 1, env_model: none}}
  evaluation: {{lookahead_horizon: 0, requested_episodes: 0, max_episode_steps: 0, episodes: 1}}
  checkpoint: {{interval_seconds: 0.2, interval_steps: 20}}
search:
  space:
    actor.learning_rate: [0.0003, 0.001, 0.003, 0.01]
  trials: 4
  sampler: grid
  seeds: [100]
  report: {{seeds: [0]}}
"""


@pytest.mark.faults
def test_a_search_whose_node_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with run_cluster(tmp_path / "slurm") as cluster:
        study = SlurmStudy(tmp_path, cluster, "rates", STUDY)
        said = study.call("submit", "--at-once", "2")
        assert ", 2 workers" in said, said
        assert "2 workers are in the queue already; nothing is submitted" in study.call("submit", "--at-once", "2")
        study.wait_for("both train", lambda: len(list(study.home.glob(".vdt/shared/actor-*/0*.pt"))) > 0)
        (job, node) = next((job, node) for job, (_, node, _) in cluster.list_queue().items() if node == "n2")
        cluster.lose_node(node)
        study.wait_for("noticed", lambda: cluster.list_queue().get(job, ("", "", ""))[1] != node)
        cluster.start_node(node)
        study.wait_for("all have ended", lambda: not cluster.list_queue())
        print(study.call("status"))
        assert "all trials have ended, and its winner is reported; nothing is submitted" in study.call("submit")
    for name, value in study.variables.items():
        monkeypatch.setenv(name, value)
    trials = load_trials(resolve_study({"study": str(study.file)}))
    assert [trial.state for trial in trials] == [COMPLETE] * 4, trials
    assert len({repr(trial.settings) for trial in trials}) == 4
    report = json.loads((study.home / "reports" / "search-rates" / "report.json").read_text())
    assert len(report["cells"]) == 4
    client = open_store(study.home)
    experiment = client.get_experiment_by_name("vdt")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.env != ''")
    states = [(run.info.run_name, run.data.tags.get("trial"), run.info.status) for run in runs]
    print(sorted(states, key=str))
    assert sorted(tag for _, tag, status in states if tag and status == "FINISHED") == ["0", "1", "2", "3"]

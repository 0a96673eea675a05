"""A search with two workers, one of them killed and started again: no trial is lost, none is run twice."""

import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.search import Command
from support.flow import ENV, LIMIT, make_variables, start_flow
from vdt.evaluation.trials import COMPLETE
from vdt.experiments.cells import resolve_study
from vdt.experiments.search_trials import load_trials
from vdt.tracking import open_store

TRIALS = 3
STUDY = f"""
title: Two settings
preset: smoke
source: collected
envs: [{ENV}]
set:
  online: {{environment_steps: 0}}
  planner: {{planning_horizon: 1, env_model: none}}
  evaluation: {{lookahead_horizon: 0, requested_episodes: 0, max_episode_steps: 0, episodes: 1}}
search:
  space:
    actor.q_coefficient: {{low: 0.03, high: 1, log: true}}
    actor.inverse_temperature: [0.3, 1, 3]
  trials: {TRIALS}
  sampler: random
  seeds: [100]
  report: {{seeds: [0]}}
"""
WORDS = ("run", "--study", "two.yaml", "--max-workers", "1")


def test_commands_of_a_searchs_flows_keep_its_options(tmp_path: Path) -> None:
    given = ["flow.py", "--no-pylint", "run", "--study", "two", "--init-from", "p.pt", "--with", "retry"]
    command = Command.parse([*given, "--max-workers", "1"])
    kept, file = ["--with", "retry", "--max-workers", "1"], tmp_path / "id.txt"
    run = command.make_run(file, trial="3", seeds="100")
    options = ["--seeds", "100", "--init-from", "p.pt", "--study", "two", "--trial", "3"]
    assert run[1:] == ["flow.py", "--no-pylint", "run", *options, *kept, "--run-id-file", str(file)]
    resume = command.make_resume(file, "77")
    assert resume[1:] == [
        *("flow.py", "--no-pylint", "resume", "--origin-run-id", "77"),
        *(*kept, "--run-id-file", str(file)),
    ]


def test_two_workers_one_of_them_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "two.yaml").write_text(STUDY)
    killed = start_flow(tmp_path, *WORDS)
    number = wait_for_training(killed)
    other = start_flow(tmp_path, *WORDS)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=LIMIT)  # its flow ends with it
    again = start_flow(tmp_path, *WORDS)
    outputs = [worker.communicate(timeout=LIMIT)[0] for worker in (other, again)]
    assert [worker.wait() for worker in (other, again)] == [0, 0], "\n".join(outputs)
    taken = re.findall(r"trial (\d+): its worker has ended; this one goes on with it", "".join(outputs))
    assert taken == [number]
    for name, value in make_variables(tmp_path).items():
        monkeypatch.setenv(name, value)
    check_trials(tmp_path)
    check_runs(tmp_path, int(number))
    check_the_winner(tmp_path)


def wait_for_training(worker: subprocess.Popen[str]) -> str:
    """Return the number of the trial whose actor a worker has begun to train."""
    assert worker.stdout is not None
    number = ""
    for line in worker.stdout:
        number = (re.match(r"trial (\d+): actor", line) or [number, number])[1]
        if re.search(r"train_actor/\d+ .*Task is starting", line):
            return number
    raise AssertionError("no actor was trained")


def check_trials(folder: Path) -> None:
    """Each trial has ended once, with a score of the tuning seed."""
    trials = load_trials(resolve_study({"study": str(folder / "two.yaml")}))
    assert [(trial.number, trial.state, list(trial.scores_by_seed)) for trial in trials] == [
        (number, COMPLETE, [100]) for number in range(TRIALS)
    ]
    assert len({repr(trial.settings) for trial in trials}) == TRIALS


def check_runs(folder: Path, taken: int) -> None:
    """One finished MLflow run a trial, below the search's; the taken trial's goes on in the run that it had."""
    client = open_store(folder / "home")
    experiment = client.get_experiment_by_name("vdt")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    (parent,) = (run for run in found if run.info.run_name == "search-two")
    trials: dict[int, Any] = {int(run.data.tags["trial"]): run for run in found if "trial" in run.data.tags}
    assert len([run for run in found if "trial" in run.data.tags]) == len(trials) == TRIALS, "none is run twice"
    for number, run in trials.items():
        tags = run.data.tags
        assert (run.info.status, tags["trial_state"], tags["study"]) == ("FINISHED", "complete", "two")
        assert tags["mlflow.parentRunId"] == parent.info.run_id
        assert (tags["metaflow.first_run_id"] != tags["metaflow.run_id"]) == (number == taken)
    assert parent.info.status == "FINISHED" and parent.data.metrics["search/complete"] == TRIALS
    points = client.get_metric_history(parent.info.run_id, "search/best_score")
    values = [point.value for point in points]
    assert [point.step for point in points] == list(range(1, TRIALS + 1)) and values == sorted(values)


def check_the_winner(folder: Path) -> None:
    """The best trial is a study of its own, run once on the reported seed."""
    best = max(load_trials(resolve_study({"study": str(folder / "two.yaml")})), key=lambda trial: trial.score or 0.0)
    found = yaml.safe_load((folder / "home" / "params" / "found" / "two.yaml").read_text())
    assert found["seeds"] == [0] and {key: found["set"][key] for key in best.settings} == best.settings
    winner = json.loads((folder / "home" / "reports" / "winner-two" / "report.json").read_text())
    assert [cell["config"]["seed"] for cell in winner["cells"]] == [0]
    report = json.loads((folder / "home" / "reports" / "search-two" / "report.json").read_text())
    assert [cell["patch"] for cell in report["cells"]] == [f"t00{number}" for number in range(TRIALS)]
    assert len(report["rankings"]) == 1, "the trials' ranking, heat map and winner stand in the report"

"""A store that answers and refuses: what was deleted, what came late. Waiting helps with neither, so words must."""

from pathlib import Path

import pytest

from vdt.experiments.resolve import resolve_config
from vdt.tracking import (
    MLflowTracker,
    StoreError,
    create_run,
    finish_runs,
    open_store,
    read_curves,
    resolve_run_ids,
)
from vdt.tracking.deliver import deliver
from vdt.tracking.waiting import backlog_of, find_undelivered

CONFIG = resolve_config("walker2d-medium-v2", preset="smoke")


def test_a_deleted_experiment_is_named_with_what_brings_it_back(home: Path) -> None:
    client = open_store(home)
    experiment = client.get_experiment_by_name("vdt")
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    with pytest.raises(StoreError, match=r"experiment vdt was deleted; .*mlflow experiments restore --experiment-id 1"):
        create_run(home, CONFIG, "1", "run")
    assert find_undelivered(home) == []
    client.restore_experiment(experiment.experiment_id)
    assert not create_run(home, CONFIG, "1", "run").startswith("local-")


def test_a_deleted_run_is_not_waited_for_in_vain(
    home: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = create_run(home, CONFIG, "1", "run")
    client = open_store(home)
    client.delete_run(run_id)
    tracker = MLflowTracker(home, run_id, interval=60)
    tracker.log(1, {"critic/q_loss": 1.0})
    tracker.close()
    finish_runs(home, [run_id], "FINISHED")
    assert "the store refuses" in caplog.text and "does not answer" not in caplog.text
    assert "must be in the 'active' state" in caplog.text
    backlog = backlog_of(home, run_id)
    assert deliver(home) == 1
    output = capsys.readouterr().out
    assert f"{backlog}: kept, the store refuses" in output and f"remove {backlog} to forget them" in output
    client.restore_run(run_id)
    assert deliver(home) == 0
    assert client.get_run(run_id).data.metrics == {"critic/q_loss": 1.0}


def test_curves_of_a_run_that_came_to_the_store_late_are_found(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Results keep the local id that the run had while the store was away."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody is there
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    local = create_run(home, CONFIG, "1", "run")
    tracker = MLflowTracker(home, local, interval=60)
    tracker.log(1, {"critic/q_loss": 1.5})
    tracker.close()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert resolve_run_ids(home, [local]) == {local: local}
    assert f"run {local} is not in the store" in caplog.text
    assert deliver(home) == 0
    caplog.clear()
    unknown = "0" * 32
    known = create_run(home, CONFIG.with_seed(1), "1", "run")
    real = resolve_run_ids(home, [local, known])
    assert real[known] == known and open_store(home).get_run(real[local]).data.params["seed"] == "0"
    assert read_curves(home, [unknown, local]) == {local: {"critic/q_loss": [(1, 1.5)]}}
    assert f"the store refuses (Run with id={unknown} not found); the curves of {unknown} are left out" in caplog.text

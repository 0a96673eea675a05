import json
import math
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from vdt.checkpoint.store import CheckpointStore
from vdt.config.schema import Config
from vdt.experiments.resolve import resolve_config
from vdt.system.files import compute_file_digest
from vdt.tracking import (
    MLflowTracker,
    NullTracker,
    create_run,
    find_runs,
    finish_runs,
    make_artifact_records,
    make_continue_record,
    make_dataset_record,
    open_store,
    send_now,
)
from vdt.tracking.outbox import read_records
from vdt.tracking.waiting import backlog_of

CONFIG = resolve_config("walker2d-medium-v2", preset="smoke", seed=3, overrides="critic.expectile=0.8")
SNAPSHOT: dict[str, Any] = {
    "env": "walker2d-medium-v2",
    "source": "collected",
    "label": "collected (not D4RL)",
    "reason": "for this test",
    "path": "/data/trajectories.hdf5",
    "md5": "0123456789abcdef0123456789abcdef",
    "size": 12,
    "card": {"episodes": 4, "quantiles": [1.0, 2.0]},
}


def make_run(store: Path, config: Config = CONFIG, flow_run: str = "101") -> str:
    return create_run(store, config, flow_run, "python flows/vdt_flow.py run")


def continue_run(store: Path, run_id: str, flow_run: str, *, fork: bool = True) -> str:
    return send_now(store, run_id, [make_continue_record(flow_run, fork=fork)])


def log_dataset(store: Path, run_id: str, snapshot: dict[str, Any] = SNAPSHOT) -> None:
    send_now(store, run_id, [make_dataset_record(CONFIG, snapshot)])


def get_points(client: MlflowClient, run_id: str, key: str) -> list[tuple[int, float]]:
    return sorted((m.step, m.value) for m in client.get_metric_history(run_id, key))


def test_null_tracker_does_nothing(tmp_path: Path) -> None:
    tracker = NullTracker()
    tracker.log(1, {"a/b": 1.0})
    tracker.log_checkpoint("a", tmp_path / "absent", 1, {})
    tracker.put(*make_artifact_records([tmp_path / "absent"], ""))
    tracker.flush()
    tracker.close()


def test_store_is_in_write_ahead_mode_with_its_artifacts_beside(store: Path, client: MlflowClient) -> None:
    with sqlite3.connect(store / ".vdt" / "mlflow.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    experiment = client.get_experiment_by_name("vdt")
    assert experiment is not None
    assert experiment.artifact_location == (store / ".vdt" / "mlartifacts").as_uri()
    assert not [p for p in (store / ".vdt").iterdir() if p.name.startswith(".mlflow-")]


def test_tracking_uri_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store / '.vdt' / 'mlflow.db'}")
    run_id = make_run(tmp_path / "other")
    assert not (tmp_path / "other" / ".vdt" / "mlflow.db").exists()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert open_store(store).get_run(run_id).data.tags["env"] == CONFIG.env


def test_a_run_starts_with_flat_params_tags_and_the_configuration(store: Path, client: MlflowClient) -> None:
    run = client.get_run(make_run(store))
    assert run.info.run_name == "vdt-s3-walker2d-medium-v2"
    assert run.data.params == {key: str(value) for key, value in CONFIG.flatten().items()}
    assert run.data.params["critic.expectile"] == "0.8"
    expected = {"env": CONFIG.env, "method": "vdt", "preset": "smoke", "seed": "3", "source": "auto"}
    assert {key: run.data.tags[key] for key in expected} == expected
    assert run.data.tags["metaflow.run_id"] == "101"
    gap = math.exp(-60 * 0.005 * (1 - 0.99**5))  # of the smoke preset's critic
    assert float(run.data.tags["critic.expected_gap"]) == pytest.approx(gap, rel=1e-2)
    text = Path(client.download_artifacts(run.info.run_id, "config.yaml")).read_text()
    assert text == CONFIG.to_yaml()


def test_a_dataset_has_dvcs_digest_and_names_its_source(store: Path, client: MlflowClient) -> None:
    run_id = make_run(store)
    log_dataset(store, run_id)
    run = client.get_run(run_id)
    (entry,) = run.inputs.dataset_inputs
    assert entry.dataset.name == "walker2d-medium-v2-collected"
    assert run.data.tags["data_label"] == "collected (not D4RL)"
    assert entry.dataset.digest == SNAPSHOT["md5"] == run.data.tags["data_md5"]
    assert entry.dataset.source_type == "dvc"
    assert json.loads(entry.dataset.source)["reason"] == "for this test"
    assert json.loads(entry.dataset.profile) == SNAPSHOT["card"]
    assert run.info.run_name == "vdt-s3-walker2d-medium-v2-collected"
    card = Path(client.download_artifacts(run_id, "dataset_card.json")).read_text()
    assert json.loads(card)["card"]["episodes"] == 4
    found = client.search_runs([run.info.experiment_id], f"dataset.digest = '{SNAPSHOT['md5']}'")
    assert run_id in {r.info.run_id for r in found}


def test_metrics_arrive_under_their_names_and_steps(store: Path, client: MlflowClient) -> None:
    run_id = make_run(store)
    tracker = MLflowTracker(store, run_id, interval=60)
    tracker.log(1, {"critic/q_loss": 0.5, "critic/v_loss": float("nan")})
    tracker.log(2, {"critic/q_loss": 0.25})
    assert get_points(client, run_id, "critic/q_loss") == [], "nothing is written by the calling thread"
    assert tracker._delivery.flush(timeout=30)
    assert get_points(client, run_id, "critic/q_loss") == [(1, 0.5), (2, 0.25)]
    with pytest.raises(ValueError, match="no metric name"):
        tracker.log(3, {"critic:q": 1.0})
    tracker.close()


def test_a_resumed_step_leaves_no_hole_and_no_duplicate(
    store: Path, client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    """Checkpoint at 30, delivered up to 35 (one metric) and 33 (another), killed, continued from 30."""
    run_id = make_run(store)
    first = MLflowTracker(store, run_id, interval=60)
    for step in range(1, 36):
        first.log(step, {"actor/a": float(step)})
        if step <= 33:
            first.log(step, {"actor/b": -float(step)})
    assert first._delivery.flush(timeout=30)
    for step in (36, 37):
        first.log(
            step, {"actor/a": float(step)}
        )  # the process is killed here: delivered or not, as the thread was quick
    second = MLflowTracker(store, run_id, interval=60)
    for step in range(31, 61):
        second.log(step, {"actor/a": float(step), "actor/b": -float(step)})
    second.close()
    assert get_points(client, run_id, "actor/a") == [(s, float(s)) for s in range(1, 61)]
    assert get_points(client, run_id, "actor/b") == [(s, -float(s)) for s in range(1, 61)]
    assert second._sender.left_out in (8, 10)  # 31..35 (or 37) and 31..33
    assert "in the store already" not in capsys.readouterr().out


def test_a_store_that_is_slower_than_a_flush_alarms_nobody(
    store: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is on its way when `flush` gives up waiting goes to the backlog as well, and arrives twice."""
    run_id = make_run(store)
    tracker, sending, going = MLflowTracker(store, run_id, interval=60), threading.Event(), threading.Event()
    send = tracker._delivery._send

    def send_slowly(records: Sequence[Mapping[str, Any]]) -> None:
        sending.set()
        assert going.wait(30)
        send(records)

    monkeypatch.setattr(tracker._delivery, "_send", send_slowly)
    for step in range(1, 6):
        tracker.log(step, {"actor/a": float(step)})
    assert not tracker._delivery.flush(timeout=0.2) and sending.is_set()
    going.set()
    tracker.close()
    assert tracker._sender.left_out == 5 and capsys.readouterr().out == ""
    assert get_points(client, run_id, "actor/a") == [(step, float(step)) for step in range(1, 6)]


def test_a_locked_database_costs_no_point_and_no_time(store: Path, client: MlflowClient) -> None:
    run_id = make_run(store)
    tracker = MLflowTracker(store, run_id, interval=0.05)
    lock = sqlite3.connect(store / ".vdt" / "mlflow.db")
    lock.execute("BEGIN IMMEDIATE")  # another process writes and does not end
    began = time.monotonic()
    for step in range(1, 11):
        tracker.log(step, {"critic/q_loss": float(step)})
    assert time.monotonic() - began < 1
    assert not tracker._delivery.flush(timeout=0.3)
    assert len(read_records(backlog_of(store, run_id))) == 10
    lock.rollback()
    lock.close()
    tracker.close()
    assert get_points(client, run_id, "critic/q_loss") == [(s, float(s)) for s in range(1, 11)]
    assert not backlog_of(store, run_id).exists()


def test_an_undelivered_backlog_is_sent_before_a_run_goes_on(store: Path, client: MlflowClient) -> None:
    run_id = make_run(store)
    backlog = backlog_of(store, run_id)
    backlog.parent.mkdir(exist_ok=True)
    record = {"kind": "metrics", "step": 1, "time": 1_700_000_000_000, "metrics": {"critic/q_loss": 1.0}}
    backlog.write_text(json.dumps(record) + "\n" + json.dumps(record) + "\n")
    tracker = MLflowTracker(store, run_id)
    tracker.log(1, {"critic/q_loss": 1.0})
    tracker.log(2, {"critic/q_loss": 2.0})
    tracker.close()
    assert get_points(client, run_id, "critic/q_loss") == [(1, 1.0), (2, 2.0)]
    backlog.write_text(json.dumps({**record, "step": 3}) + "\n")
    finish_runs(store, [run_id], "FINISHED")
    assert [step for step, _ in get_points(client, run_id, "critic/q_loss")] == [1, 2, 3]
    assert not backlog.exists()


def test_what_is_ready_has_its_file_and_is_linked_to_its_run(store: Path, client: MlflowClient, tmp_path: Path) -> None:
    run_id = make_run(store)
    checkpoints = CheckpointStore(tmp_path, interval_seconds=1e9, interval_steps=1, keep=2)
    experiment = client.get_run(run_id).info.experiment_id
    tracker = MLflowTracker(store, run_id, interval=60)
    tracker.log(20, {"actor/loss": 0.5})
    tracker.log_checkpoint("actor/20", checkpoints.save(20, {"step": 20}), 20, {"actor/loss": 0.5})
    best = checkpoints.save(30, {"step": 30}, score=1.0)
    tracker.log_checkpoint("actor-30", best, 30, {"actor/loss": 0.375})
    final = checkpoints.finish(40, {"step": 40}, score=0.5)
    digest = compute_file_digest(final, "sha256")
    tags = {"sha256": digest}
    client.create_logged_model(experiment, "actor-40", run_id, tags=tags)  # a process was killed at this point
    tracker.log_checkpoint("actor/40", final, 40, {"actor/loss": 0.25})
    for _ in range(2):
        tracker.log_evaluation("online_best", best, 30, {"eval/score": 3.0})
        tracker.log_evaluation("online", final, 40, {"eval/score": 2.0, "score": 2.0})
        time.sleep(0.01)  # another timestamp
    gone = tmp_path / "gone.pt"
    gone.write_bytes(b"replaced before the store answered")
    tracker.log_evaluation("gone", gone, 41, {"eval/gone_score": 1.0})
    gone.unlink()
    tracker.close()
    found = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    models = {model.name: model for model in found}
    assert len(found) == 2 and set(models) == {"actor-40", "online_best"}
    assert {str(m.status) for m in found} == {"READY"}
    for name, path in (("actor-40", final), ("online_best", best)):
        assert [f.path for f in client.list_logged_model_artifacts(models[name].model_id)] == [path.name]
    assert models["actor-40"].tags["sha256"] == digest
    assert (models["online_best"].tags["path"], models["online_best"].tags["step"]) == (str(best), "30")
    outputs = client.get_run(run_id).outputs.model_outputs
    assert {(output.model_id, output.step) for output in outputs} == {
        (models["actor-40"].model_id, 40),
        (models["online_best"].model_id, 30),
    }
    assert len(outputs) == 2
    linked = {name: {(m.key, m.value, m.step) for m in model.metrics} for name, model in models.items()}
    assert linked == {
        "actor-40": {("eval/score", 2.0, 40), ("score", 2.0, 40)},
        "online_best": {("eval/score", 3.0, 30)},
    }
    assert get_points(client, run_id, "actor/loss") == [(20, 0.5)], "a checkpoint adds no point to a curve"
    assert get_points(client, run_id, "eval/score") == [(30, 3.0), (40, 2.0)]
    assert get_points(client, run_id, "eval/gone_score") == [(41, 1.0)], "measured, though there is no model"
    assert not [key for key in client.get_run(run_id).data.metrics if key.startswith("checkpoint/")]


def test_artifacts_are_copied(store: Path, client: MlflowClient, tmp_path: Path) -> None:
    run_id = make_run(store)
    file = tmp_path / "table.md"
    file.write_text("| a |")
    tracker = MLflowTracker(store, run_id)
    for folder in ("", "folder"):
        tracker.put(*make_artifact_records([file], folder))
    tracker.close()
    send_now(store, run_id, make_artifact_records([file], "report"))
    for path in ("table.md", "folder/table.md", "report/table.md"):
        assert Path(client.download_artifacts(run_id, path)).read_text() == "| a |"


def test_one_run_from_start_over_a_failure_to_the_end(store: Path, client: MlflowClient) -> None:
    run_id = make_run(store, flow_run="201")
    assert continue_run(store, run_id, "201") == run_id
    finish_runs(store, find_runs(store, "201"), "FAILED")
    assert client.get_run(run_id).info.status == "FAILED"
    assert continue_run(store, run_id, "202") == run_id
    assert client.get_run(run_id).info.status == "RUNNING"
    assert find_runs(store, "201") == [] and find_runs(store, "202") == [run_id]
    finish_runs(store, [run_id], "FINISHED")
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_finished_run_is_kept_and_a_deliberate_repeat_gets_its_own(store: Path, client: MlflowClient) -> None:
    run_id = make_run(store, flow_run="301")
    log_dataset(store, run_id)
    finish_runs(store, [run_id], "FINISHED")
    assert continue_run(store, run_id, "302", fork=False) == run_id
    assert client.get_run(run_id).info.status == "FINISHED"
    repeat = continue_run(store, run_id, "302")
    assert repeat != run_id
    original, forked = client.get_run(run_id), client.get_run(repeat)
    assert (original.info.status, forked.info.status) == ("FINISHED", "RUNNING")
    assert forked.data.tags["vdt.forked_from"] == run_id
    assert forked.data.params == original.data.params
    assert forked.info.run_name == original.info.run_name
    assert [i.dataset.digest for i in forked.inputs.dataset_inputs] == [SNAPSHOT["md5"]]
    assert continue_run(store, repeat, "302") == repeat, "the repeat's later steps stay with it"
    assert find_runs(store, "302") == [repeat]


def test_cells_enter_the_same_data_set_at_the_same_moment(store: Path, client: MlflowClient) -> None:
    errors: list[BaseException] = []
    runs = [make_run(store, CONFIG.with_seed(seed), "501") for seed in range(4)]
    digests = [f"{number:032x}" for number in range(5)]
    together = threading.Barrier(len(runs))

    def enter(run_id: str) -> None:
        for digest in digests:
            together.wait()
            try:
                log_dataset(store, run_id, {**SNAPSHOT, "md5": digest})
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=enter, args=(run_id,)) for run_id in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for run_id in runs:
        entries = client.get_run(run_id).inputs.dataset_inputs
        assert sorted(entry.dataset.digest for entry in entries) == digests


def test_those_who_race_for_a_fresh_store_share_it(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def start(seed: int) -> None:
        try:
            make_run(tmp_path, CONFIG.with_seed(seed), "401")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=start, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(find_runs(tmp_path, "401")) == 3

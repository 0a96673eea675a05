"""A policy's checkpoint becomes a model that MLflow loads, once, whole, and linked to what it came from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import LoggedModel

from support.builders import make_config, make_lively_actor_critic
from vdt import EpisodeHistory, load_policy
from vdt.serving.model_files import looks_ahead, make_model
from vdt.serving.requests import COLUMNS
from vdt.system.files import compute_file_digest
from vdt.tracking import (
    LoadableModel,
    MLflowTracker,
    ModelFiles,
    create_run,
    get_tracking_uri,
    make_dataset_record,
    open_store,
    send_now,
)
from vdt.tracking.deliver import deliver
from vdt.tracking.outbox import is_waiting
from vdt.tracking.waiting import backlog_of

ACTOR_CRITIC = make_lively_actor_critic({"planner.forget_steps": 2})
CONFIG = ACTOR_CRITIC.config
SCORES = {"eval/offline_lookahead_normalized_score": 30.0, "score": 30.0}
SNAPSHOT: dict[str, Any] = {"path": "", "md5": "0" * 32, "size": 1, "source": "collected", "label": "", "reason": ""}
ROWS = [
    {"observations": [[0.5, 1.0]], "actions": [], "rewards": [], "target_return": None},
    {"observations": [[0.5, 1], [2, 3]], "actions": [[0.25]], "rewards": [1], "target_return": None},
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("store")
    open_store(folder)
    mlflow.set_tracking_uri(get_tracking_uri(folder))
    yield folder
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def client(store: Path) -> MlflowClient:
    return open_store(store)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("policy") / "000000030.pt"
    torch.save({"actor_critic": ACTOR_CRITIC.state_dict(), "versions": {}}, file)
    return file


def find_models(client: MlflowClient, run_id: str) -> list[LoggedModel]:
    experiment = client.get_run(run_id).info.experiment_id
    return list(client.search_logged_models([experiment], f"source_run_id = '{run_id}'"))


def start(store: Path) -> str:
    run_id = create_run(store, CONFIG, "1", "command")
    send_now(store, run_id, [make_dataset_record(CONFIG, {**SNAPSHOT, "card": {}})])
    return run_id


def log(store: Path, run_id: str, path: Path, times: int = 1) -> None:
    tracker = MLflowTracker(store, run_id, interval=60)
    for _ in range(times):
        tracker.log_evaluation("offline", path, 30, SCORES, make_model(CONFIG, "offline"), {"acts": "lookahead"})
    tracker.close()


@pytest.fixture(scope="module")
def model(store: Path, client: MlflowClient, path: Path) -> LoggedModel:
    """Logged twice, the first time after a process was killed while it made the model."""
    run_id = start(store)
    known = {"env": CONFIG.env, "method": "vdt", "seed": "0", "data_md5": SNAPSHOT["md5"]}
    tags = {**known, "sha256": compute_file_digest(path, "sha256")}
    client.create_logged_model(client.get_run(run_id).info.experiment_id, "policy-offline", run_id, tags=tags)
    log(store, run_id, path, times=2)
    (found,) = find_models(client, run_id)
    return found


def test_a_model_is_ready_and_linked_to_run_data_and_metrics(client: MlflowClient, model: LoggedModel) -> None:
    assert (model.name, str(model.status)) == ("policy-offline", "READY")
    assert {metric.key: metric.value for metric in model.metrics} == SCORES
    assert {metric.dataset_digest for metric in model.metrics} == {SNAPSHOT["md5"]}
    wanted = {"env": CONFIG.env, "method": "vdt", "seed": "0", "data_md5": SNAPSHOT["md5"], "acts": "lookahead"}
    assert wanted.items() <= client.get_logged_model(model.model_id).tags.items()
    outputs = client.get_run(model.source_run_id).outputs.model_outputs
    assert [(output.model_id, output.step) for output in outputs] == [(model.model_id, 30)]


@pytest.mark.parametrize("address", ["runs:/{}/policy-offline", "models:/{}"])
def test_it_acts_as_the_checkpoint_does(model: LoggedModel, path: Path, address: str) -> None:
    loaded = mlflow.pyfunc.load_model(address.format(model.source_run_id if "runs" in address else model.model_id))
    assert (loaded.metadata.run_id, loaded.metadata.model_id) == (model.source_run_id, model.model_id)
    policy = load_policy(path, lookahead=True)
    histories = [EpisodeHistory([[0.5, 1.0]]), EpisodeHistory([[0.5, 1.0], [2.0, 3.0]], [[0.25]], [1.0])]
    assert (loaded.predict(pd.DataFrame(ROWS)) == policy.act_after(histories)).all()
    plain = mlflow.pyfunc.load_model(f"models:/{model.model_id}", model_config={"lookahead": False})
    assert (plain.predict(pd.DataFrame(ROWS)) == load_policy(path).act_after(histories)).all()
    arrays = [{name: np.array(value) for name, value in ROWS[1].items() if value is not None}]
    assert (plain.predict(pd.DataFrame(arrays)) == plain.predict(pd.DataFrame(ROWS))[1]).all()


def test_its_files_are_text_and_name_no_place_of_this_machine(model: LoggedModel, path: Path) -> None:
    folder = Path(model.artifact_location.removeprefix("file://"))
    files = {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}
    assert compute_file_digest(files.pop("artifacts/policy.pt"), "sha256") == compute_file_digest(path, "sha256")
    assert {"MLmodel", "code_model.py", "requirements.txt", "input_example.json"} <= set(files)
    texts = [file.read_text().replace("artifacts/policy.pt", "") for file in files.values()]
    places = (str(folder.parents[2]), "/code_model.py", "/policy.pt", str(path.parent))
    assert not [place for place in places for text in texts if place in text]
    needed = files["requirements.txt"].read_text()
    assert "torch==" in needed and "metaflow" not in needed and "dvc" not in needed and "+cpu" not in needed
    assert "# vdt " in needed, "no requirement that an index might answer with a stranger's package"


def test_signature_and_example_are_those_of_requests(model: LoggedModel) -> None:
    loaded = mlflow.pyfunc.load_model(f"models:/{model.model_id}")
    assert tuple(loaded.metadata.get_input_schema().input_names()) == COLUMNS
    assert list(loaded.metadata.signature.inputs.required_input_names()) == ["observations"]
    example = loaded.input_example
    assert [len(seen) for seen in example["observations"]] == [1, 2] and loaded.predict(example).shape == (2, 1)


def test_a_model_of_an_earlier_release_gets_a_loadable_one_beside_it(
    store: Path, client: MlflowClient, path: Path
) -> None:
    run_id = start(store)
    tracker = MLflowTracker(store, run_id, interval=60)
    tracker.log_evaluation("actor-30", path, 30, {})
    tracker.close()
    log(store, run_id, path)
    tags = {model.name: model.tags for model in find_models(client, run_id)}
    assert set(tags) == {"actor-30", "policy-offline"}
    assert {"env": CONFIG.env, "data_md5": SNAPSHOT["md5"], "step": "30"}.items() <= tags["policy-offline"].items()


def test_what_waits_for_the_store_becomes_a_model_later(
    store: Path, client: MlflowClient, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = start(store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # no server listens there
    log(store, run_id, path)
    assert is_waiting(backlog_of(store, run_id)) and find_models(client, run_id) == []
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert deliver(store) == 0
    (found,) = find_models(client, run_id)
    assert mlflow.pyfunc.load_model(f"models:/{found.model_id}").predict(pd.DataFrame(ROWS)).shape == (2, 1)


def test_checkpoints_before_the_last_are_no_models(store: Path, client: MlflowClient, path: Path) -> None:
    def describe() -> ModelFiles:
        raise AssertionError("it takes its time, and nobody needs it")

    run_id = start(store)
    tracker = MLflowTracker(store, run_id, interval=60)
    tracker.log_checkpoint("actor-30", path, 30, {}, LoadableModel("policy-offline", describe))
    tracker.close()
    assert find_models(client, run_id) == []


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, True),
        ({"planner.env_model": "simulator"}, False),
        ({"planner.select": "per_episode"}, False),
        ({"planner.candidates": 1, "planner.planning_horizon": 1, "planner.env_model": "none"}, False),
    ],
    ids=str,
)
def test_a_model_acts_as_its_policy_was_tuned(settings: dict[str, Any], expected: bool) -> None:
    assert looks_ahead(make_config(settings)) is expected

"""Registered policies: versions with the facts of their runs; the champion changes only by a fair comparison."""

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow import MlflowClient

from support.builders import make_lively_actor_critic
from vdt import load_policy
from vdt.serving.model_files import make_model
from vdt.system.files import compute_file_digest
from vdt.tracking import (
    SCORE_METRIC,
    MLflowTracker,
    Register,
    StoreError,
    check_model_name,
    create_run,
    get_tracking_uri,
    make_dataset_record,
    register_policy,
    send_now,
)
from vdt.tracking.deliver import deliver

ACTOR_CRITIC = make_lively_actor_critic()
KEY = "eval/online_lookahead_normalized_score"
SNAPSHOT: dict[str, Any] = {"path": "", "size": 1, "source": "collected", "label": "", "reason": "", "card": {}}
OTHER_ENV = "hopper-medium-v2"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("policy") / "000000030.pt"
    torch.save({"actor_critic": ACTOR_CRITIC.state_dict(), "versions": {}}, file)
    return file


@pytest.fixture(scope="module")
def digest(path: Path) -> str:
    return compute_file_digest(path, "sha256")


@pytest.fixture
def train(store: Path, path: Path) -> Callable[..., str]:
    """Make a run whose policy has a score, and return its id."""

    def make(score: float | None, env: str = ACTOR_CRITIC.config.env, md5: str = "a" * 32, **task: str | float) -> str:
        config = dataclasses.replace(ACTOR_CRITIC.config, env=env)
        config = dataclasses.replace(config, task=dataclasses.replace(config.task, **task))
        run_id = create_run(store, config, "1", "command")
        tracker = MLflowTracker(store, run_id, interval=60)
        tracker.put(make_dataset_record(config, {**SNAPSHOT, "md5": md5}))
        metrics = {} if score is None else {KEY: score}
        tags = {} if score is None else {SCORE_METRIC: KEY}
        tracker.log_evaluation("online", path, 30, metrics, make_model(config, "online"), tags)
        tracker.close()
        return run_id

    return make


def test_the_better_one_is_the_champion(
    store: Path,
    client: MlflowClient,
    train: Callable[..., str],
    digest: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = [train(score) for score in (20.0, 10.0, 30.0, 30.0)]
    with caplog.at_level(logging.INFO):
        done = [register_policy(store, run_id, digest, "walker") for run_id in runs]
    assert [one.version for one in done] == ["1", "2", "3", "4"]
    assert [one.is_champion for one in done] == [True, False, True, False], "an equal score does not win"
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("register: ")]
    assert len(said) == 4
    assert "is the first champion" in said[0] and "with 20.00, which stays champion" in said[1]
    assert "score 30.00" in said[2] and "beats the champion, version 1, with 20.00; it is the champion now" in said[2]
    version = client.get_model_version_by_alias("walker", "champion")
    assert (str(version.version), version.run_id) == ("3", runs[2])
    wanted = {"env": "walker2d-medium-v2", "data_md5": "a" * 32, "method": "vdt", "seed": "0", "score": "30.0"}
    assert wanted.items() <= version.tags.items()
    mlflow.set_tracking_uri(get_tracking_uri(store))
    loaded = mlflow.pyfunc.load_model("models:/walker@champion")
    assert loaded.metadata.run_id == runs[2] and loaded.predict(loaded.input_example).shape == (2, 1)
    monkeypatch.setenv("VDT_HOME", str(store))
    known = load_policy("models:/walker@champion").metadata
    assert (known["policy"], known["mlflow_run_id"], known["sha256"]) == ("online", runs[2], digest)


def test_registering_again_makes_no_second_version(
    store: Path, client: MlflowClient, train: Callable[..., str], digest: str
) -> None:
    run_id = train(5.0)
    first, again = (register_policy(store, run_id, digest, "again") for _ in range(2))
    assert (first.version, again.version, again.is_champion) == ("1", "1", True)
    assert "it is the champion already" in again.message
    assert len(client.search_model_versions("name = 'again'")) == 1
    (model,) = client.search_logged_models(["1"], f"source_run_id = '{run_id}'")
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "again", "version": "1"}]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"env": OTHER_ENV}, "another env"),
        ({"environment_kwargs": '{"g": 0.0}'}, "another environment or another scale"),
        ({"reference_return_min": -1e5}, "another environment or another scale"),
        ({"md5": "b" * 32}, "other data"),
        ({"score": None}, "has no score"),
    ],
    ids=str,
)
def test_what_cannot_be_compared_leaves_the_champion(
    store: Path, client: MlflowClient, train: Callable[..., str], digest: str, other: dict[str, Any], reason: str
) -> None:
    name = f"fair-{next(iter(other))}"
    first = train(1.0)
    register_policy(store, first, digest, name)
    done = register_policy(store, train(**{"score": 99.0, **other}), digest, name)
    assert not done.is_champion and reason in done.message
    assert client.get_model_version_by_alias(name, "champion").run_id == first


def test_the_first_version_needs_a_score_to_be_champion(
    store: Path, client: MlflowClient, train: Callable[..., str], digest: str
) -> None:
    assert not register_policy(store, train(None), digest, "unscored").is_champion
    assert client.get_registered_model("unscored").aliases == {}
    assert register_policy(store, train(-3.0), digest, "unscored").is_champion


def test_a_record_registers_when_the_store_is_back(
    store: Path, client: MlflowClient, train: Callable[..., str], digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = train(7.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # no server listens there
    send_now(store, run_id, [Register(name="late", sha256=digest)])
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert not client.search_registered_models("name = 'late'")
    assert deliver(store) == 0
    assert client.get_model_version_by_alias("late", "champion").run_id == run_id


def test_a_model_that_is_not_there_is_named(
    store: Path, train: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    run_id = train(1.0)
    with pytest.raises(StoreError, match=f"MLflow run {run_id} has no model of this policy"):
        register_policy(store, run_id, "0" * 64, "absent")
    send_now(store, run_id, [Register(name="absent", sha256="0" * 64)])
    assert "has no model of this policy" in caplog.text, "said, and not kept for a later try"
    assert deliver(store) == 0


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "a@b", " a", "a" * 201])
def test_names_that_an_address_cannot_hold_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no name for a registered model"):
        check_model_name(name)
    assert check_model_name("walker2d medium-v2_1.0")

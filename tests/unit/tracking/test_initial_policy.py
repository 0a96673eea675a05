"""A run that began from a trained policy names it, and the run and the logged model that it comes from."""

import dataclasses
from pathlib import Path

from mlflow import MlflowClient

from vdt.checkpoint.store import CheckpointStore
from vdt.config.schema import Config
from vdt.experiments.resolve import resolve_config
from vdt.system.files import compute_file_digest
from vdt.tracking import MLflowTracker, create_run, make_continue_record, send_now
from vdt.tracking.records import InitialPolicyEntry

CONFIG = resolve_config("walker2d-medium-v2", preset="smoke")


def make_run(store: Path, config: Config = CONFIG) -> str:
    return create_run(store, config, "101", "python flows/vdt_flow.py run")


def begin(path: Path) -> Config:
    init = dataclasses.replace(CONFIG.init, policy=str(path), sha256=compute_file_digest(path, "sha256"))
    return dataclasses.replace(CONFIG, init=init)


def log_policy(store: Path, run_id: str, path: Path) -> None:
    tracker = MLflowTracker(store, run_id)
    tracker.log_checkpoint("actor-20", path, 20, {"actor/loss": 0.5})
    tracker.close()


def save(folder: Path, step: int) -> Path:
    return CheckpointStore(folder, interval_seconds=1e9, interval_steps=9, keep=3).finish(step, {"step": step})


def get_inputs(client: MlflowClient, run_id: str) -> list[str]:
    return [entry.model_id for entry in client.get_run(run_id).inputs.model_inputs]


def test_the_parents_run_and_model_are_named(store: Path, client: MlflowClient, tmp_path: Path) -> None:
    parent, path = make_run(store), save(tmp_path, 20)
    log_policy(store, parent, path)
    log_policy(store, make_run(store), path)  # a cell that shares the actor: it was trained in the first
    config = begin(path)
    child = make_run(store, config)
    tags = client.get_run(child).data.tags
    assert (tags["init_policy"], tags["init_sha256"]) == (str(path), config.init.sha256)
    assert tags["init_run_id"] == parent
    (model,) = get_inputs(client, child)
    assert client.get_logged_model(model).source_run_id == parent
    assert client.get_run(child).data.params["init.sha256"] == config.init.sha256

    send_now(store, child, [InitialPolicyEntry(address=config.init.policy, sha256=config.init.sha256)])
    assert get_inputs(client, child) == [model], "a repeated record changes nothing"

    client.set_terminated(child, "FINISHED")
    again = send_now(store, child, [make_continue_record("102")])
    assert again != child and get_inputs(client, again) == [model], "a repeat of a finished step has the same beginning"
    assert client.get_run(again).data.tags["init_run_id"] == parent


def test_a_policy_of_another_store_is_named_by_its_digest(store: Path, client: MlflowClient, tmp_path: Path) -> None:
    config = begin(save(tmp_path, 21))
    run = client.get_run(make_run(store, config))
    assert run.data.tags["init_sha256"] == config.init.sha256 and "init_run_id" not in run.data.tags
    assert not run.inputs or not run.inputs.model_inputs


def test_a_run_from_scratch_names_none(store: Path, client: MlflowClient) -> None:
    assert not [key for key in client.get_run(make_run(store)).data.tags if key.startswith("init")]

"""Policies are found by MLflow's addresses, in the real store; asking makes and changes nothing there."""

import tempfile
from pathlib import Path

import pytest

import vdt
from support.builders import make_config
from support.policies import DATA, RUN, load, make_run
from support.server import find_free_port, serve
from vdt.checkpoint.names import CheckpointError
from vdt.tracking import MLflowTracker, create_run, open_store


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Home and id of a run with three policies, in the real MLflow store."""
    home = tmp_path_factory.mktemp("mlflow") / "home"
    config = make_config({"planner.candidates": 2})  # another than the files': of the cell, whose actor was shared
    run_id = create_run(home, config, RUN, "command")
    made, tracker = make_run(home), MLflowTracker(home, run_id)
    tracker.log_checkpoint("actor-10", made["offline"], 10, {})
    tracker.log_checkpoint("online-12", made["online"], 12, {})
    for number, (name, path) in enumerate(made.items()):
        metrics = {f"eval/{name}_single_normalized_score": float(number), f"eval/{name}_held_out_action_rmse": 0.5}
        tracker.log_evaluation(name, path, number + 1, metrics)
    tracker.close()
    return home, tracker.run_id


@pytest.fixture
def run_id(stored: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("VDT_HOME", str(stored[0]))
    return stored[1]


def test_a_run_of_mlflow_has_policies_scores_and_the_cells_settings(run_id: str) -> None:
    policy = vdt.load_policy(run_id)
    known = policy.metadata
    assert (known["policy"], known["gradient_steps"], known["environment_steps"]) == ("online", 12, 84)
    assert known["scores"] == {"held_out": {"action_rmse": 0.5}, "single": {"normalized_score": 2.0}}
    assert known["mlflow_run_id"] == run_id and known["data"] == DATA
    assert policy.config.planner.candidates == 2
    assert load(run_id, name="offline") == load(f"runs:/{run_id}/policy-offline") == ("offline", 10)
    assert load(f"runs:/{run_id}") == load(f"runs:/{run_id}/online-12") == ("online", 12)
    assert load(f"runs:/{run_id}/policy-online-best") == load(run_id, name="online-best") == ("online_best", 11)


def test_models_are_found_by_id_version_and_alias(run_id: str, stored: tuple[Path, str]) -> None:
    client = open_store(stored[0])
    experiment = client.get_run(run_id).info.experiment_id
    models = {model.name: model for model in client.search_logged_models([experiment])}
    client.create_registered_model("walker")
    for name in ("actor-10", "online-12"):
        made = models[name]
        client.create_model_version("walker", made.artifact_location, run_id, model_id=made.model_id)
    client.set_registered_model_alias("walker", "champion", "1")
    assert load(f"models:/{models['online-12'].model_id}") == load("models:/walker/2") == ("online", 12)
    assert load("models:/walker/1") == load("models:/walker@champion") == ("offline", 10)
    champion = vdt.load_policy("models:/walker@champion").metadata
    assert champion["scores"]["single"] == {"normalized_score": 0.0}, champion
    assert champion["mlflow_run_id"] == run_id


UNKNOWN = [
    ("f" * 32, "no policy at 'f{32}': the store refuses .*not found"),
    ("runs:/RUN/walker", "MLflow run RUN has no model 'walker'; it has "),
    ("models:/nobody/1", "no policy at 'models:/nobody/1': the store refuses .*not found"),
    ("models:/nobody@champion", "no policy at 'models:/nobody@champion': the store refuses"),
    ("models:/m-" + "0" * 32, "no policy at 'models:/m-0{32}': the store refuses"),
    ("models:/walker", "'models:/walker' is no address of a model; accepted are"),
]


@pytest.mark.parametrize(("where", "said"), UNKNOWN, ids=[where[:20] for where, _ in UNKNOWN])
def test_unknown_addresses_of_mlflow_are_named(run_id: str, where: str, said: str) -> None:
    with pytest.raises(CheckpointError, match=said.replace("RUN", run_id)):
        vdt.load_policy(where.replace("RUN", run_id))


def test_mlflow_choices_that_do_not_apply_are_refused(run_id: str) -> None:
    with pytest.raises(CheckpointError, match=r"cell='x': a run of MLflow has one cell"):
        vdt.load_policy(run_id, cell="x")
    with pytest.raises(CheckpointError, match=r"name='online': runs:/.*/offline names a policy"):
        vdt.load_policy(f"runs:/{run_id}/offline", name="online")
    with pytest.raises(CheckpointError, match=r"name='online': a model is one policy"):
        vdt.load_policy("models:/walker/1", name="online")


def test_asking_for_a_run_makes_no_store(home: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no tracking store sqlite:.*VDT_HOME or MLFLOW_TRACKING_URI"):
        vdt.load_policy("f" * 32)
    assert not home.exists()


@pytest.mark.slow
def test_a_policy_is_fetched_from_a_server_and_its_copy_removed(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = find_free_port()
    words = ["--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    words += ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}"]
    words += ["--artifacts-destination", str(tmp_path / "kept")]
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with serve(tmp_path, "mlflow", "-m", "mlflow", "server", *words, health=f"http://127.0.0.1:{port}/health"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        run_id = create_run(home, make_config({"planner.candidates": 2}), RUN, "command")
        tracker = MLflowTracker(home, run_id)
        tracker.log_evaluation("online", make_run(home)["online"], 1, {"eval/online_single_success_rate": 0.5})
        tracker.close()
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        policy = vdt.load_policy(tracker.run_id)
    assert list(temporary.iterdir()) == []
    assert policy.metadata["scores"] == {"single": {"success_rate": 0.5}} and policy.config.planner.candidates == 2
    policy.reset()
    assert policy.act([3.0, 1.0]).shape == (1,), "no longer than while it is loaded is its file needed"

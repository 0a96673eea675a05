"""The whole pipeline on the smoke preset, with the real Metaflow, MLflow, DVC and MuJoCo."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import yaml
from metaflow import Runner
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

import vdt
from support.browser import DESKTOP, NARROW, find_faults, find_foreign, open_browser
from support.cards import find_wide_tables, read_card
from support.flow import ENV, FLOW, make_variables
from vdt.checkpoint.names import CheckpointError
from vdt.checkpoint.store import load_state
from vdt.evaluation.records import name_setting
from vdt.experiments.resolve import resolve_config
from vdt.system.files import compute_file_digest
from vdt.tracking import open_store

CELL_STEPS = ["fetch_dataset", "pretrain_critic", "train_actor", "seed_buffer", "tune_online", "evaluate"]
STEPS = ["start", *CELL_STEPS, "report", "end"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("smoke")


@pytest.fixture(scope="module")
def variables(folder: Path) -> Iterator[dict[str, str]]:
    """The flow's environment, in this process too: Runner loads the flow file here."""
    values = make_variables(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield values


@pytest.fixture(scope="module")
def run(folder: Path, variables: dict[str, str]) -> Any:
    """One finished run of two cells."""
    stage = {**variables, "VDT_REPORT": "main"}  # as dvc.yaml's stage runs it
    with Runner(str(FLOW), pylint=False, show_output=False, env=stage, cwd=str(folder)) as runner:
        result = runner.run(env=ENV, preset="smoke", source="collected", seeds="0,1")
        assert result.status == "successful", result.stdout + result.stderr
        return result.run


@pytest.fixture(scope="module")
def client(folder: Path, run: Any) -> MlflowClient:
    return open_store(folder / "home")


def get_artifacts(run: Any, step: str) -> list[Any]:
    """The step's tasks' artifacts, by seed."""
    return sorted((task.data for task in run[step]), key=lambda data: data.cell["number"])


def test_steps_are_those_of_the_design(run: Any) -> None:
    assert {step.id for step in run} == set(STEPS)
    for step in run:
        assert len(list(step)) == (2 if step.id in CELL_STEPS else 1), step.id


def test_artifacts_are_small_and_their_files_are_there(run: Any, folder: Path) -> None:
    for data in get_artifacts(run, "evaluate"):
        assert {"offline", "online"} <= set(data.agents) <= {"offline", "online", "online_best"}
        for file in (data.critic, data.buffer, *data.agents.values()):
            path = Path(file["path"])
            assert path.is_relative_to(folder / "home" / ".vdt" / "checkpoints" / "VDTFlow" / run.id)
            assert compute_file_digest(path, "sha256") == file["sha256"]
        assert load_state(Path(data.critic["path"]))["step"] == 60  # critic.gradient_steps of the smoke preset
        assert set(data.seconds) == set(CELL_STEPS)
        assert data.evaluation.policies["offline"]["single"].episode_lengths
    largest = max(artifact.size for step in run for task in step for artifact in task)
    assert largest < 20_000, "bytes: artifacts hold paths and small tables, never tensors"


def test_cells_share_data_and_differ_by_seed(run: Any) -> None:
    first, second = get_artifacts(run, "evaluate")
    assert first.snapshot["md5"] == second.snapshot["md5"]
    assert first.critic["sha256"] != second.critic["sha256"]
    assert [data.cell["config"]["seed"] for data in (first, second)] == [0, 1]


def test_mlflow_has_one_finished_run_per_cell(run: Any, client: MlflowClient) -> None:
    for seed, data in enumerate(get_artifacts(run, "evaluate")):
        logged = client.get_run(data.mlflow_run_id)
        assert logged.info.status == "FINISHED"
        assert logged.info.run_name == f"vdt-s{seed}-{ENV}-collected"
        assert logged.data.tags["metaflow.run_id"] == run.id
        config = resolve_config(ENV, preset="smoke", source="collected", seed=seed)
        assert logged.data.params == {key: str(value) for key, value in config.flatten().items()}
    experiment = client.get_experiment_by_name("vdt")
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id])) == 2


def test_mlflow_has_the_curves(run: Any, client: MlflowClient) -> None:
    for data in get_artifacts(run, "evaluate"):
        logged = client.get_run(data.mlflow_run_id)
        assert {key.split("/")[0] for key in logged.data.metrics} >= {"critic", "actor", "online", "eval"}
        for key, steps in (("critic/q_loss", 60), ("actor/total_loss", 40)):
            history = client.get_metric_history(data.mlflow_run_id, key)
            assert sorted(m.step for m in history) == list(range(1, steps + 1)), key


def test_mlflow_has_every_final_checkpoint_with_its_file_and_metrics(run: Any, client: MlflowClient) -> None:
    for data in get_artifacts(run, "evaluate"):
        experiment = client.get_run(data.mlflow_run_id).info.experiment_id
        found = client.search_logged_models([experiment], f"source_run_id = '{data.mlflow_run_id}'")
        models = {model.name: model for model in found}
        policies = {"policy-offline", "policy-online"}
        assert set(models) == {"critic-60", *policies}, "a model is where its file is: at the end of a phase"
        assert all(str(model.status) == "READY" for model in found)
        assert all(models[name].metrics for name in policies), "what was measured with it is linked"
        outputs = client.get_run(data.mlflow_run_id).outputs.model_outputs
        assert {output.model_id for output in outputs} == {model.model_id for model in found}
        final, critic = models["policy-offline"], models["critic-60"]
        assert final.tags["sha256"] == data.offline_agent["sha256"]
        assert [f.path for f in client.list_logged_model_artifacts(critic.model_id)] == [Path(critic.tags["path"]).name]
        kept = download_artifacts(artifact_uri=f"{final.artifact_location}/artifacts/policy.pt")
        assert compute_file_digest(Path(kept), "sha256") == final.tags["sha256"]


def test_mlflow_loads_the_policies_with_their_scores(run: Any, client: MlflowClient) -> None:
    mlflow.set_tracking_uri(client.tracking_uri)
    for data in get_artifacts(run, "evaluate"):
        experiment = client.get_run(data.mlflow_run_id).info.experiment_id
        found = client.search_logged_models([experiment], f"source_run_id = '{data.mlflow_run_id}'")
        for model in (one for one in found if one.name.startswith("policy-")):
            loaded = mlflow.pyfunc.load_model(f"runs:/{data.mlflow_run_id}/{model.name}")
            actions = loaded.predict(loaded.input_example)
            assert actions.shape == (2, 6) and np.abs(actions).max() <= 1
            assert (model.tags["data_md5"], model.tags["env"]) == (data.snapshot["md5"], ENV)
            assert model.tags["acts"] == "lookahead", "as the preset acts"


def test_dataset_digest_is_dvcs(run: Any, client: MlflowClient) -> None:
    for data in get_artifacts(run, "evaluate"):
        path = Path(data.snapshot["path"])
        dvc = yaml.safe_load(path.with_name(f"{path.name}.dvc").read_text())
        (entry,) = client.get_run(data.mlflow_run_id).inputs.dataset_inputs
        assert entry.dataset.digest == dvc["outs"][0]["md5"] == compute_file_digest(path, "md5")
        assert entry.dataset.name == f"{ENV}-collected"


def test_report_is_written_logged_and_shown(run: Any, client: MlflowClient, folder: Path) -> None:
    report = folder / "home" / "reports" / run.id
    content = json.loads((report / "report.json").read_text())
    assert json.loads((folder / "home" / "reports" / ENV / "report.json").read_text()) == content
    main = folder / "home" / "reports" / "main"
    assert {file.name: file.read_bytes() for file in main.iterdir()} == {
        f.name: f.read_bytes() for f in report.iterdir()
    }
    text = (report / "report.md").read_text()
    assert ENV in text and "collected" in text
    for data in get_artifacts(run, "evaluate"):
        logged = {Path(f.path).name for f in client.list_artifacts(data.mlflow_run_id, "report")}
        assert logged == {f.name for f in report.iterdir()}
    (card,) = (folder / "home" / ".metaflow" / "mf.cards").rglob(f"runs/{run.id}/steps/report/**/*.html")
    page = card.read_text()
    assert page == (report / "report.html").read_text() and "normalized_score" in page
    assert page.count("<img ") == page.count("data:image/png;base64,") == len(list(report.glob("*.png"))) > 5
    assert find_wide_tables(text) == []


@pytest.mark.parametrize("width", [DESKTOP, NARROW])
def test_the_card_opens_in_a_browser(run: Any, folder: Path, width: int) -> None:
    (card,) = (folder / "home" / ".metaflow" / "mf.cards").rglob(f"runs/{run.id}/steps/report/**/*.html")
    with open_browser() as browser:
        page = browser.open(card.as_uri(), width)
    assert find_faults(page) == [] and find_foreign(page) == []
    assert len(page["images"]) > 5
    # a return where an episode was cut, a score where all fell before
    assert re.search(rf"On {ENV}, vdt (earns a return of|scores) -?\d", page["text"])


@pytest.mark.parametrize(
    ("step", "metric", "last"),
    [
        ("pretrain_critic", "Q loss (M2)", "ended at gradient step 60 of 60"),
        ("train_actor", "behaviour loss (M3)", "ended at gradient step 40 of 40"),
        ("tune_online", "mean return in the replay buffer", "ended at environment step "),
    ],
)
def test_steps_that_train_leave_their_curves_on_a_card(
    run: Any, folder: Path, step: str, metric: str, last: str
) -> None:
    cards = sorted((folder / "home" / ".metaflow" / "mf.cards").rglob(f"runs/{run.id}/steps/{step}/**/cards/*.html"))
    assert len(cards) == 2, "one for each cell"
    for card in cards:
        components = read_card(card)
        text = " ".join(component["source"] for component in components if component["type"] == "markdown")
        assert last in text and f"{ENV}-vdt-s" in text
        charts = {c["spec"]["title"]: c["spec"]["data"]["values"] for c in components if c["type"] == "vegaChart"}
        assert len(charts[metric]) > 1
        (bar,) = (component for component in components if component["type"] == "progressBar")
        assert bar["value"] == bar["max"]


def test_the_last_screen_says_how_to_use_the_policy(run: Any) -> None:
    lines = run["end"].task.data.summary.splitlines()
    keys = [data.cell["key"] for data in get_artifacts(run, "evaluate")]
    (use,) = [line for line in lines if f" evaluate {run.id} --cell " in line]
    words = use.split()
    assert words[words.index("--cell") + 1] in keys and len(keys) > 1 and words[-1] == "--lookahead"


def test_policies_load_by_run_id_and_give_the_reported_returns(
    run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VDT_HOME", str(folder / "home"))
    for data in get_artifacts(run, "evaluate"):
        reports, key = data.evaluation.policies["online"], data.cell["key"]
        by_flow, by_mlflow = vdt.load_policy(run.id, cell=key), vdt.load_policy(data.mlflow_run_id, lookahead=True)
        assert vdt.evaluate_policy(by_flow).episode_returns == reports["single"].episode_returns
        acting = name_setting(len(by_mlflow.candidate_returns), by_mlflow.config.planner.planning_horizon)
        report = vdt.evaluate_policy(by_mlflow)
        assert report.episode_returns == reports[acting].episode_returns
        (cut,) = {key for key in by_mlflow.metadata["scores"][acting] if key.startswith("episode_return")}
        assert by_mlflow.metadata["scores"][acting][cut] == np.mean(report.episode_returns)
        assert by_flow.metadata["scores"] == by_mlflow.metadata["scores"]
        known = by_flow.metadata
        assert known["sha256"] == data.agents["online"]["sha256"] and known["mlflow_run_id"] == data.mlflow_run_id
        assert known["data"] == {
            **{name: data.snapshot[name] for name in ("source", "label", "md5")},
            "name": f"{ENV}-collected",
        }
        offline = vdt.load_policy(data.offline_agent["path"])
        assert offline.metadata["data"] == known["data"] and offline.metadata["scores"]["single"]
    with pytest.raises(CheckpointError, match=r"several cells; choose one by cell=…, .*: .*-s0: .*; .*-s1: offline"):
        vdt.load_policy(run.id)


def test_a_resumed_run_has_the_policies_that_it_did_not_evaluate_again(
    run: Any, variables: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VDT_HOME", str(folder / "home"))
    with Runner(str(FLOW), pylint=False, show_output=False, env=variables, cwd=str(folder)) as runner:
        result = runner.resume(step_to_rerun="report", origin_run_id=run.id)
        assert result.status == "successful", result.stdout + result.stderr
    for data in get_artifacts(run, "evaluate"):
        again, first = (vdt.load_policy(one.id, cell=data.cell["key"]).metadata for one in (result.run, run))
        assert again == first and again["scores"]


def test_running_a_finished_step_again_keeps_the_old_result(
    run: Any, client: MlflowClient, variables: dict[str, str], folder: Path
) -> None:
    before = {d.mlflow_run_id: client.get_run(d.mlflow_run_id) for d in get_artifacts(run, "evaluate")}
    with Runner(str(FLOW), pylint=False, show_output=False, env=variables, cwd=str(folder)) as runner:
        result = runner.resume(step_to_rerun="train_actor", origin_run_id=run.id)
        assert result.status == "successful", result.stdout + result.stderr
        assert "continuing from step" not in result.stdout, "a finished step does not find its own result"
    for old, new in zip(get_artifacts(run, "evaluate"), get_artifacts(result.run, "evaluate"), strict=True):
        assert new.mlflow_run_id not in before
        logged = client.get_run(new.mlflow_run_id)
        assert logged.data.tags["vdt.forked_from"] == old.mlflow_run_id
        assert logged.info.status == "FINISHED"
        assert "critic/q_loss" not in logged.data.metrics and "actor/total_loss" in logged.data.metrics
        assert new.critic == old.critic
        assert new.offline_agent["sha256"] == old.offline_agent["sha256"], "same inputs, same seed, same result"
        assert new.offline_agent["path"] != old.offline_agent["path"]
    for run_id, old_run in before.items():
        assert client.get_run(run_id).info.to_proto() == old_run.info.to_proto()
        assert client.get_run(run_id).data.metrics == old_run.data.metrics

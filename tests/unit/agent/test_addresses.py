"""Policies are found by what a run prints: files, folders, run ids and MLflow's addresses; a wrong one says what is there."""

import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import vdt
from support.builders import make_config, make_lively_actor_critic, make_store
from support.records import make_evaluation, make_record
from vdt.agent.actor_critic import ActorCritic
from vdt.checkpoint.store import CheckpointError
from vdt.config.schema import Config
from vdt.experiments.policies import keep_policies
from vdt.system.files import compute_file_digest
from vdt.tracking import MLflowTracker, create_run, open_store

ROOT = Path(__file__).resolve().parents[3]
RUN = "1795888450714840"
KEY = "walker2d-medium-v2-vdt-s0"
DATA = {"name": "walker2d-medium-v2-path", "source": "path", "label": "own file (not D4RL)", "md5": "0123abcd"}
LIVELY = make_lively_actor_critic()  # the same weights for all: only numbers of steps tell the policies apart


def save(folder: Path, step: int, *, online: bool = False, done: bool = True, score: float | None = None) -> Path:
    """Save a checkpoint as the training steps do; `step` becomes the policy's gradient steps."""
    LIVELY.gradient_steps = step
    state = {"actor_critic": LIVELY.state_dict(), "step": step, **({"environment_steps": 7 * step} if online else {})}
    store = make_store(folder, facts={"data": DATA})
    return (store.finish if done else store.save)(step, state, score)


def make_run(home: Path, *, key: str = KEY, run: str = RUN, best: bool = True) -> dict[str, Path]:
    """Make the checkpoints of a run of one cell."""
    steps = home / ".vdt" / "checkpoints" / "VDTFlow" / run
    made = {"offline": save(steps / "train_actor" / key, 10)}
    if best:
        made["online_best"] = save(steps / "tune_online" / key, 11, online=True, done=False, score=2.0)
    made["online"] = save(steps / "tune_online" / key, 12, online=True, score=1.0)
    return made


def enter(home: Path, files: Mapping[str, Path], *, config: Config | None = None, shared_from: str = "") -> Path:
    """Enter policies as the evaluation step does."""
    agents = {name: {"path": str(path), "sha256": compute_file_digest(path, "sha256")} for name, path in files.items()}
    reports = {name: {"single": make_evaluation([number, number + 2.0])} for number, name in enumerate(files)}
    record = make_record(0, reports, mlflow_run_id="f" * 32)
    branch = SimpleNamespace(agents=agents, actor_shared_from=shared_from)
    folder = home / ".vdt" / "checkpoints" / "VDTFlow" / RUN / "evaluate" / KEY
    return keep_policies(branch, record, config or LIVELY.config, folder, home)


def load(where: Any, **choice: Any) -> tuple[str, int]:
    known = vdt.load_policy(where, **choice).metadata
    return known["policy"], known["gradient_steps"]


# Files and folders


def test_a_folder_has_the_policy_that_its_step_ended_with(home: Path) -> None:
    made = make_run(home)
    assert load(made["online"].parent) == ("online", 12)
    assert load(str(made["offline"].parent)) == ("offline", 10)
    assert load(made["online_best"]) == ("online", 11), "a file is taken as it is"


def test_folders_without_one_policy_say_what_they_hold(tmp_path: Path) -> None:
    unfinished = save(tmp_path / "run" / "a", 3, done=False)
    with pytest.raises(CheckpointError, match=f"not finished; its newest checkpoint is {unfinished.name}"):
        vdt.load_policy(unfinished.parent)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty holds no checkpoint; accepted are a checkpoint file"):
        vdt.load_policy(tmp_path / "empty")
    save(tmp_path / "run" / "b", 1)
    save(tmp_path / "run" / "c", 1)
    with pytest.raises(CheckpointError, match=r"run holds several folders of checkpoints; choose one: .*/b, .*/c"):
        vdt.load_policy(tmp_path / "run")


@pytest.mark.parametrize("choice", [{"name": "offline"}, {"cell": KEY}])
def test_a_file_leaves_nothing_to_choose(home: Path, choice: dict[str, str]) -> None:
    made = make_run(home)
    with pytest.raises(CheckpointError, match=r"(name|cell)='.*': a file holds one policy, so there is nothing"):
        vdt.load_policy(made["offline"], **choice)
    with pytest.raises(CheckpointError, match=r"(name|cell)='.*': a folder of checkpoints has one policy"):
        vdt.load_policy(made["offline"].parent, **choice)


def test_scores_lie_beside_a_file_and_go_with_it(home: Path, tmp_path: Path) -> None:
    made = make_run(home)
    enter(home, made)
    known = vdt.load_policy(made["online_best"]).metadata
    assert known["policy"] == "online_best" and known["mlflow_run_id"] == "f" * 32
    assert known["scores"] == {"single": {"normalized_score": 2.0, "episode_return": 92.0}}
    for path in (made["online"], made["online"].with_suffix(".json")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    copied = vdt.load_policy(tmp_path / made["online"].name).metadata
    assert copied["scores"]["single"]["normalized_score"] == 3.0 and copied["policy"] == "online"


BROKEN = {
    "another checkpoint's": '{"policy": "online", "sha256": "0", "mlflow_run_id": "", "scores": {}}',
    "no JSON": "{",
    "deep": "[" * 100_000,
    "a list": "[]",
    "without scores": '{"sha256": "DIGEST"}',
    "of words": '{"policy": "online", "sha256": "DIGEST", "mlflow_run_id": "", "scores": {"single": {"a": "b"}}}',
    "large": " " * 2_000_000,
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_strangers_scores_are_passed_over_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    path = save(tmp_path, 5)
    path.with_suffix(".json").write_text(text.replace("DIGEST", compute_file_digest(path, "sha256")))
    logging.getLogger("vdt").propagate = True
    assert vdt.load_policy(path).metadata["scores"] == {}
    assert f"{path.stem}.json says nothing of {path.name}" in caplog.text


# Runs of Metaflow


def test_a_runs_policy_is_the_tuned_one_unless_another_is_named(home: Path) -> None:
    make_run(home)
    assert load(RUN) == load(f"VDTFlow/{RUN}") == load(RUN, cell=KEY) == ("online", 12)
    assert load(RUN, name="offline") == ("offline", 10)
    assert load(RUN, name="policy-online-best") == load(RUN, name="online_best") == ("online_best", 11)


def test_a_run_that_was_not_tuned_has_the_offline_policy(home: Path) -> None:
    save(home / ".vdt" / "checkpoints" / "VDTFlow" / RUN / "train_actor" / KEY, 10)
    save(home / ".vdt" / "checkpoints" / "VDTFlow" / RUN / "tune_online" / KEY, 12, online=True, done=False)
    assert load(RUN) == ("offline", 10)
    with pytest.raises(CheckpointError, match=rf"Metaflow run VDTFlow/{RUN} has no policy online; it has offline"):
        vdt.load_policy(RUN, name="online")
    with pytest.raises(ValueError, match=r"name must be one of online, offline, online_best, not 'onlin'; did you"):
        vdt.load_policy(RUN, name="onlin")


def test_several_cells_are_listed(home: Path) -> None:
    make_run(home)
    make_run(home, key="walker2d-medium-v2-vdt-s1", best=False)
    listed = rf"{KEY}: offline, online, online_best; walker2d-medium-v2-vdt-s1: offline, online"
    with pytest.raises(CheckpointError, match=rf"the policies of several cells; choose one by cell=…: {listed}"):
        vdt.load_policy(RUN)
    with pytest.raises(CheckpointError, match=rf"{RUN} has {listed}, and no cell 'vdt-s1'"):
        vdt.load_policy(RUN, cell="vdt-s1")
    assert load(RUN, cell="walker2d-medium-v2-vdt-s1") == ("online", 12)


def test_an_evaluated_cell_has_its_policies_wherever_they_were_trained(home: Path, tmp_path: Path) -> None:
    """Of a resumed run or a study: the actor lies in another folder, under the settings of the cell that trained it."""
    made = {"offline": save(home / ".vdt" / "shared" / "actor-x", 10)}
    own = make_config({"planner.candidates": 2, "evaluation.episodes": 5})
    enter(home, made, config=own, shared_from="a" * 32)
    policy = vdt.load_policy(RUN)
    assert policy.config == own and len(policy.candidate_returns) == 2
    known = policy.metadata
    assert known["scores"] == {"single": {"normalized_score": 1.0, "episode_return": 46.0}}
    assert (known["policy"], known["mlflow_run_id"], known["data"]) == ("offline", "f" * 32, DATA)
    assert vdt.load_policy(made["offline"]).metadata["scores"] == {}, "they are of the other cell's settings"
    assert vdt.load_policy(made["offline"]).config == LIVELY.config
    home.rename(tmp_path / "moved")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VDT_HOME", str(tmp_path / "moved"))
        assert load(RUN) == ("offline", 10)


def test_a_runs_files_that_changed_or_went_are_named(home: Path) -> None:
    made = make_run(home)
    index = enter(home, made)
    renamed = made["online"].rename(made["online"].with_name("other.pt"))
    with pytest.raises(
        CheckpointError, match=rf"{made['online'].name}, a policy of Metaflow run VDTFlow/{RUN}, is gone"
    ):
        vdt.load_policy(RUN)
    content = json.loads(index.read_text())
    for name in ("path", "below_home"):
        content["policies"]["online"][name] = content["policies"]["online"][name].replace(
            made["online"].name, "other.pt"
        )
    index.write_text(json.dumps(content))
    renamed.write_bytes(made["offline"].read_bytes())
    with pytest.raises(CheckpointError, match=r"other\.pt has changed: its sha256 is .*, not .*, as recorded"):
        vdt.load_policy(RUN)
    index.write_text("{")
    with pytest.raises(CheckpointError, match=r"policies\.json is damaged"):
        vdt.load_policy(RUN)


@pytest.mark.parametrize("where", ["12", "VDTFlow/12"])
def test_an_unknown_run_says_where_runs_are_sought(home: Path, where: str) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoints of Metaflow run VDTFlow/12 in .*; VDT_HOME says where"):
        vdt.load_policy(where)
    assert not home.exists()


# Anything else


@pytest.mark.parametrize("where", ["walker.pt", "models/walker.pt", "x" * 5000, "nu\0l", "", "walker@champion"])
def test_what_is_no_address_gets_the_accepted_ones(where: str) -> None:
    said = r"(no policy at|holds (no checkpoint|several)).*(accepted are a checkpoint file|choose one)"
    with pytest.raises(CheckpointError, match=said):
        vdt.load_policy(where)


# MLflow


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


# What is imported


def test_files_and_flow_runs_need_no_other_library(home: Path) -> None:
    made = make_run(home)
    enter(home, made)
    blocked = "metaflow mlflow dvc minari gymnasium gymnasium_robotics mujoco matplotlib pandas h5py scipy typer"
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked.split()!r}));"
        "import vdt; load = vdt.load_policy;"
        f"print(*(load(a).metadata['scores']['single']['normalized_score'] for a in {[str(made['online']), RUN]!r}),"
        f" load({str(made['online'].parent)!r}).metadata['data']['md5']);"
        "\ntry: load('f' * 32)\nexcept ValueError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120, stdout=subprocess.PIPE)
    first, second = said.stdout.decode().splitlines()
    assert first == "3.0 3.0 0123abcd"
    assert (
        second == f"{'f' * 32} is an address of MLflow, and the package sqlalchemy is not installed"
        or "mlflow" in second
    )


def test_networks_are_the_files(home: Path) -> None:
    assert isinstance(LIVELY, ActorCritic)
    path = make_run(home)["online"]
    policy = vdt.load_policy(path)
    path.write_bytes(b"")  # the policy holds nothing of the file any more
    policy.reset()
    first = policy.act([3.0, 1.0])
    path.unlink()
    again = vdt.load_policy(make_run(home)["online"])
    again.reset()
    assert (again.act([3.0, 1.0]) == first).all()

"""Policies are found by what a run prints: files, folders and run ids; a wrong address says what is there."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import vdt
from support.builders import make_config
from support.environments import COUNTDOWN
from support.policies import DATA, KEY, LIVELY, RUN, enter, load, make_run, save
from vdt.agent.policy_files import write_origins
from vdt.checkpoint.names import CheckpointError
from vdt.system.files import compute_file_digest

ROOT = Path(__file__).resolve().parents[3]


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
    with pytest.raises(CheckpointError, match=rf"{RUN} has several cells; choose one by cell=…, .*: {listed}"):
        vdt.load_policy(RUN)
    with pytest.raises(CheckpointError, match=rf"{RUN} has {listed}, and no cell 'vdt-s1'"):
        vdt.load_policy(RUN, cell="vdt-s1")
    assert load(RUN, cell="walker2d-medium-v2-vdt-s1") == ("online", 12)


def test_a_run_of_several_cells_gives_none_of_them_because_it_is_the_first(home: Path) -> None:
    """While a run goes on, one of its cells is the first to have a policy."""
    make_run(home)
    save(home / ".vdt" / "checkpoints" / "VDTFlow" / RUN / "train_actor" / "walker2d-medium-v2-vdt-s1", 10, done=False)
    with pytest.raises(CheckpointError, match=rf"{RUN} has several cells; .*walker2d-medium-v2-vdt-s1: none yet"):
        vdt.load_policy(RUN)
    assert load(RUN, cell=KEY) == ("online", 12)


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


@pytest.mark.parametrize(
    "where", ["walker.pt", "models/walker.pt", "x" * 5000, "nu\0l", "", " ", 12, "walker@champion"]
)
def test_what_is_no_address_gets_the_accepted_ones(where: Any) -> None:
    with pytest.raises(CheckpointError, match=r"no policy at .*accepted are .*a checkpoint file"):
        vdt.load_policy(where)


# What is said


def test_the_lines_of_the_readme_load_by_run_id_evaluate_and_act(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    section = (ROOT / "README.md").read_text().split("## Use what you trained")[1]
    code = section.split("```python\n")[1].split("```")[0]
    assert sum(map(bool, code.splitlines())) <= 10, "eight lines that load and act, an import and a print"
    enter(home, make_run(home))
    scope: dict[str, Any] = {}
    code = code.replace("<run id>", RUN).replace("Walker2d-v4", COUNTDOWN)
    exec(compile(code, "README.md", "exec"), scope)
    expected = vdt.evaluate_policy(vdt.load_policy(RUN), episodes=10).episode_returns
    assert len(expected) == 10 and str(expected) in capsys.readouterr().out
    assert scope["action"].shape == (1,)


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
    path = make_run(home)["online"]
    policy = vdt.load_policy(path)
    path.write_bytes(b"")  # the policy holds nothing of the file any more
    policy.reset()
    first = policy.act([3.0, 1.0])
    path.unlink()
    again = vdt.load_policy(make_run(home)["online"])
    again.reset()
    assert (again.act([3.0, 1.0]) == first).all()


def test_what_a_later_run_finished_is_found_by_the_first_ones_id(home: Path) -> None:
    runs, later, last = home / ".vdt" / "checkpoints" / "VDTFlow", str(int(RUN) + 1), str(int(RUN) + 2)
    first = save(runs / RUN / "train_actor" / KEY, 5)  # killed while it was tuned
    assert load(RUN) == ("offline", 5)
    enter(home, make_run(home, run=last), run=last)
    write_origins(runs / last, [later, RUN])
    write_origins(runs / last, (1 / 0 for _ in "x"))  # type: ignore[arg-type]  # not asked for again
    assert load(RUN) == load(later) == ("online", 12), "by the second run's id too, which left no file"
    enter(home, {"offline": first})
    assert load(RUN) == ("offline", 5), "a run that evaluated its cell keeps its own"

"""The command `vdt`: what it prints, one line for wrong input, nothing heavy for help."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vdt.cli import run
from vdt.config.layers import list_names, load_tasks
from vdt.config.schema import KEYS
from vdt.system.home import ROOT

ENV = "walker2d-medium-v2"


def test_data_are_made_and_described(home: Path) -> None:
    assert run(["data", ENV, "--preset", "smoke", "--set", "data.steps=300"]) == 0
    described = json.loads((home / "reports" / ENV / "dataset.json").read_text())
    assert described["source"] == "collected" and described["card"]["steps"] >= 300 and len(described["md5"]) == 32
    assert (home / "reports" / ENV / "dataset.md").read_text().startswith("#")
    assert run(["data", ENV, "--preset", "smoke", "--set", "data.steps=300", "--report", "main"]) == 0
    assert json.loads((home / "reports" / "main" / "dataset.json").read_text()) == described


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data"], "Missing argument 'ENV'."),
        (["dat", ENV], "No such command 'dat'."),
        (["run"], "runs are started by `python flows/vdt_flow.py run --env ENV`"),
        (["run", "--env", ENV, "more"], "runs are started by `python flows/vdt_flow.py run --env ENV`"),
        (["data", ENV, "--sorce", "auto"], "No such option: --sorce"),
        (["data", ENV, "more"], "Got unexpected extra argument"),
        (["data", "walker2d-medum-v2"], "unknown env 'walker2d-medum-v2'; did you mean 'walker2d-medium-v2'"),
        (["data", ENV, "--preset", "big"], "unknown preset 'big'. Known: equal-time, fair, laptop, paper, smoke"),
        (["data", ENV, "--set", "lr=1"], "--set: unknown key 'lr'; did you mean 'critic.learning_rate'"),
        (
            ["data", ENV, "--preset", "smoke", "--set", "task.environment_id=my_robot:Arm-v0"],
            f"--env {ENV}: its environment my_robot:Arm-v0 cannot be made here (",
        ),
        (
            ["data", ENV, "--minari", "--set", "task.environment_id=InvertedPendulum-v5"],
            f"--env {ENV}: InvertedPendulum-v5 has 4 and 1 observations and actions; the data has 17 and 6",
        ),
        (["data", ENV, "--source", "nowhere"], "--source must be auto, collected, d4rl, minari or path:FILE"),
        (["data", "minari:a/b-v0", "--minari"], "only collected data of named tasks can be exported"),
        (["data", ENV, "--minari", "--source", "d4rl"], "--minari writes collected data to Minari's folder: it goes"),
        (
            ["export", ENV],
            f"'{ENV}' is an env, and `vdt data {ENV} --minari` writes its collected data as a Minari data set",
        ),
        (
            ["export", "nothing.pt"],
            "no policy at 'nothing.pt': there is no such file, and accepted are a checkpoint file",
        ),
        (["export", "nothing.pt", "--format", "tflite"], "format must be onnx or torchscript, not 'tflite'"),
        (["export", "nothing.pt", "--output", "."], ". is a folder; name a file"),
        (["export", "nothing.pt", "--output", "/proc/policy.onnx"], "cannot write /proc/policy.onnx: /proc: "),
        (["deliver", "nothing.jsonl"], "there is no file nothing.jsonl"),
        (["keys", "zzz"], "no key matches 'zzz'; `vdt keys` lists all keys"),
        (["keys", "expectil.x"], "no key matches 'expectil.x'"),
    ],
)
def test_wrong_input_is_one_line(
    words: list[str], message: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 2
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith(f"error: {message}") and said.out == ""
    assert not home.exists(), "nothing is written"


def test_keys_are_found_by_name_pattern_and_other_names(capsys: pytest.CaptureFixture[str]) -> None:
    def find(*words: str) -> list[str]:
        assert run(["keys", *words]) == 0
        return [line.partition(" = ")[0] for line in capsys.readouterr().out.splitlines() if line[:1].strip()]

    assert find() == list(KEYS)
    assert find("critic.expectile") == ["critic.expectile"]
    assert find("checkpoint.*") == [key for key in KEYS if key.startswith("checkpoint.")]
    assert "actor.learning_rate" in find("lr") and "online.actor_learning_rate" in find("lr")


def test_a_key_is_shown_with_default_range_presets_meaning_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["keys", "critic.batch_size"]) == 0
    assert capsys.readouterr().out == (
        "critic.batch_size = 256, smoke: 64\n"
        "    accepted: a whole number at least 1\n"
        "    transitions in a batch (source: IQL)\n\n"
    )


def test_names_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    for command, names in (
        ("tasks", list(load_tasks())),
        *((f, list_names(f)) for f in ("methods", "presets", "studies")),
    ):
        assert run([command]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines] == names
        assert all(len(line.split()) > 1 for line in lines), "each says what it is"


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from vdt.cli import run; assert run([]) == 0 and run(['data', '--help']) == 0;"
        "heavy = {'torch', 'numpy', 'mlflow', 'dvc', 'h5py', 'yaml', 'gymnasium', 'metaflow', 'rich'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: vdt [OPTIONS] COMMAND" in done.stdout and "To train: python flows/vdt_flow.py run" in done.stdout

"""People's own data through the real flow: a Minari data set in its environment, and the same data without one."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.data import write_hdf5
from support.flow import make_variables, run_flow
from support.minari import make_minari_set
from vdt.tracking import open_store

ENV = "minari:vdttest/pendulum/random-v0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("own")


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    """The episodes of the Minari set as one file in D4RL's schema."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", make_variables(folder)["MINARI_DATASETS_PATH"])
        buffers = make_minari_set(ENV.removeprefix("minari:"))
    columns: dict[str, Any] = {
        "observations": [buffer.observations[:-1] for buffer in buffers],
        "next_observations": [buffer.observations[1:] for buffer in buffers],
        "actions": [buffer.actions for buffer in buffers],
        "rewards": [buffer.rewards for buffer in buffers],
        "terminals": [buffer.terminations for buffer in buffers],
        "timeouts": [buffer.truncations for buffer in buffers],
    }
    return write_hdf5(folder / "same.hdf5", {name: np.concatenate(parts) for name, parts in columns.items()})


def test_online_steps_without_an_environment_are_refused_before_any_work(folder: Path, file: Path) -> None:
    words = ("--env", f"data:{file}", "--preset", "smoke", "--set", "online.environment_steps=50")
    code, output = run_flow(folder, "run", *words)
    assert code == 2 and "online tuning is not available; accepted is 0" in output
    assert len(output.strip().splitlines()) == 1


def test_minari_data_in_its_environment_and_the_same_data_without(folder: Path, file: Path) -> None:
    code, output = run_flow(folder, "run", "--env", f"{ENV},data:{file}", "--preset", "smoke")
    assert code == 0, output
    assert "NO ENVIRONMENT" in output and "minari (not comparable with D4RL)" in output
    (path,) = (folder / "home" / "reports").rglob("report.json")
    with_environment, without = json.loads(path.read_text())["cells"]
    assert with_environment["config"]["task.environment_id"] == "InvertedPendulum-v5"
    assert set(with_environment["evaluation"]["policies"]) >= {"offline", "online"}
    assert with_environment["evaluation"]["policies"]["online"]["single"]["episode_lengths"]
    assert without["config"]["task.environment_id"] is None and without["config"]["online.environment_steps"] == 0
    assert without["evaluation"]["policies"] == {}
    measured = without["evaluation"]["held_out"]["offline"]
    assert measured["episodes"] == 1 and measured["action_rmse"] > 0 and measured["policy_value"] is not None
    text = path.with_name("report.md").read_text()
    assert "online tuning and returns are not available" in text and "## Held-out episodes" in text
    assert "0 and 100 are the data's own worst and best episode return" in text
    assert "**minari** (not comparable with D4RL)" in text
    client = open_store(folder / "home")
    for cell, name in (
        (with_environment, r"minari-vdttest\.pendulum\.random-v0-minari"),
        (without, r"data-same-\w{6}-path"),
    ):
        run = client.get_run(cell["mlflow_run_id"])
        assert run.info.status == "FINISHED"
        assert re.fullmatch(rf"vdt-s0-{name}", str(run.info.run_name))
        assert re.fullmatch(name, run.inputs.dataset_inputs[0].dataset.name)
    assert run.data.metrics["eval/offline_held_out_action_rmse"] == pytest.approx(measured["action_rmse"])
    assert not [key for key in run.data.metrics if key.startswith("online/") or key.endswith("normalized_score")]

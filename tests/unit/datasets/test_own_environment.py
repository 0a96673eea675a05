"""Own data with an environment of one's own: `--env data:PATH --set task.environment_id=ID`."""

import logging
import re
from pathlib import Path

import numpy as np
import pytest

from support.data import make_steps, write_hdf5
from support.minari import PENDULUM, make_minari_set
from vdt.config.errors import ConfigError
from vdt.config.layers import parse_overrides
from vdt.datasets.snapshot import make_snapshot
from vdt.experiments.cells import resolve_cells
from vdt.experiments.preflight import check_cells
from vdt.experiments.resolve import resolve_config
from vdt.experiments.study import expand, load_study

NAMED = "task.environment_id=Pendulum-v1"
RANGE = "task.action_low=[-2] task.action_high=[2]"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two episodes of four steps, whose largest action is as large as the actuators'."""
    steps = make_steps(8, terminals=(3,), timeouts=(7,))
    return write_hdf5(tmp_path / "own.hdf5", {**steps, "actions": np.linspace(-2, 2, 8)[:, None]})


def test_no_episode_is_kept_from_training_where_an_environment_measures(file: Path) -> None:
    alone = resolve_config(f"data:{file}", preset="smoke")
    assert (alone.has_environment, alone.data.held_out_fraction, alone.online.environment_steps) == (False, 0.1, 0)
    config = resolve_config(f"data:{file}", preset="smoke", overrides=NAMED)
    assert config.has_environment and config.data.held_out_fraction == 0 and config.online.environment_steps > 0
    kept = resolve_config(f"data:{file}", preset="smoke", overrides=f"{NAMED} data.held_out_fraction=0.2")
    assert kept.data.held_out_fraction == 0.2, "unless it is asked for"
    none = resolve_config(f"data:{file}", preset="smoke", overrides="task.environment_id=null")
    assert none == alone


def test_a_study_names_the_environment_too(file: Path, tmp_path: Path) -> None:
    study = tmp_path / "own-env.yaml"
    study.write_text(f"envs: ['data:{file}']\npreset: smoke\nset: {{task: {{environment_id: Pendulum-v1}}}}\n")
    (cell,) = expand(load_study(str(study)))
    assert cell.config.has_environment and cell.config.data.held_out_fraction == 0


def test_minari_data_without_an_environment_takes_one_in_the_same_way() -> None:
    make_minari_set("vdttest/own/random-v0", with_environment=False)
    config = resolve_config("minari:vdttest/own/random-v0", overrides=f"task.environment_id={PENDULUM}")
    assert config.has_environment and config.data.held_out_fraction == 0


def test_one_episode_is_enough_where_none_is_held_out(tmp_path: Path) -> None:
    file = write_hdf5(tmp_path / "one.hdf5", make_steps(4, terminals=(3,)))
    with pytest.raises(ConfigError, match="holds one episode; accepted are at least 2"):
        resolve_config(f"data:{file}")
    assert resolve_config(f"data:{file}", overrides=NAMED).has_environment


@pytest.mark.parametrize(("largest", "beyond"), [(1.0, False), (1.5, False), (2.0, False), (5.0, True)])
def test_a_range_beyond_the_environments_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, largest: float, beyond: bool
) -> None:
    steps = make_steps(8, terminals=(3,), timeouts=(7,))
    arrays = {**steps, "observations": np.zeros((8, 3)), "actions": np.linspace(-largest, largest, 8)[:, None]}
    file = write_hdf5(tmp_path / "own.hdf5", arrays)
    cells, _ = resolve_cells({"env": f"data:{file}", "preset": "smoke", "set": NAMED})
    check_cells(cells)
    warned = (
        'beyond those of Pendulum-v1, .* its own range is --set "task.action_low=\\[-2\\] task.action_high=\\[2\\]"'
    )
    assert bool(re.search(warned, caplog.text)) == beyond


@pytest.mark.parametrize("given", ["", NAMED, RANGE, f"{NAMED} {RANGE}"])
def test_the_range_is_advised_to_those_who_gave_none(
    file: Path, home: Path, caplog: pytest.LogCaptureFixture, given: str
) -> None:
    """The data's own range is [-2, 2] as well, so that the values alone do not tell who gave them."""
    caplog.set_level(logging.INFO)
    config = resolve_config(f"data:{file}", preset="smoke", overrides=given)
    make_snapshot(config, home, given=parse_overrides(given))
    (said,) = [line for line in caplog.text.splitlines() if line.startswith("ACTIONS")]
    advice = '; if the actuators differ: --set "task.action_low=[-2] task.action_high=[2]"'
    assert said == f"ACTIONS are scaled from [-2, 2], the policy's range{'' if RANGE in given else advice}"

"""Known faults of D4RL's maze files, by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.data import make_data_config, make_small_config, make_steps, write_hdf5
from vdt.config.errors import ConfigError
from vdt.datasets.d4rl import make_d4rl_key
from vdt.datasets.hdf5 import read_recording
from vdt.datasets.loaded_data import LoadedData
from vdt.experiments.resolve import resolve_config

TASK = make_small_config("d4rl").task  # S = 2, A = 1, horizon 5
POINT, ANT = ("timeouts_are_goals", "late_rewards"), ("goals_are_ends",)


def convert(tmp_path: Path, arrays: dict[str, Any], repairs: tuple[str, ...]) -> LoadedData:
    return read_recording(write_hdf5(tmp_path / "file.hdf5", arrays), TASK, {}, repairs)


def list_episodes(recording: LoadedData) -> list[tuple[list[float], list[float], bool]]:
    return [(e.observations[:, 0].tolist(), e.rewards.tolist(), e.terminated) for e in recording.dataset]


def test_one_walk_with_late_rewards_and_goals_as_timeouts(tmp_path: Path) -> None:
    """Row 2 reaches a goal, and row 3 shows its observation once more; the reward of each row is its own observation's."""
    arrays = make_steps(9, timeouts=(2, 8))
    arrays["observations"] = np.array([0, 1, 2, 2, 3, 4, 5, 6, 7], np.float32)[:, None] * (1.0, -1.0)
    arrays["rewards"] = np.array([0, 0, 1, 1, 0, 0, 1, 1, 0], np.float32)
    recording = convert(tmp_path, arrays, POINT)
    assert list_episodes(recording) == [
        ([0, 1, 2, 3, 4, 4], [0, 1, 0, 0, 1], False),  # the step 1 -> 2 is paid; cut after 5 rows, not at the goal
        ([5, 6, 6], [1, 0], False),  # what row 8 was paid is not in the file
    ]
    actions = recording.dataset[0].actions[:, 0]
    assert actions == pytest.approx(
        [0.00, 0.01, 0.03, 0.04, 0.05]
    )  # of row 2, whose step stays where it is, nothing is left
    assert "2 timeouts mark goals that were reached, and are not ends; 1 rows recorded twice" in recording.notes[1]


def make_ant_steps() -> dict[str, Any]:
    """Steps of 0.4: goal in rows 2 to 4, on to row 6, back at the start in rows 7 to 9, where a goal pays without an end."""
    arrays = make_steps(10, terminals=(2, 3, 4), timeouts=(5,))
    x = np.array([0.0, 0.4, 0.8, 0.9, 0.8, 1.2, 1.6, 0.0, 0.4, 0.8], np.float32)
    arrays["observations"] = np.stack([x, np.zeros_like(x)], axis=1)
    arrays["rewards"] = np.array([0, 0, 1, 1, 0, 0, 0, 0, 0, 1], np.float32)
    return arrays


def test_ants_end_where_they_reach_their_goal_first_and_where_they_jump(tmp_path: Path) -> None:
    x = [np.float32(v) for v in (0.0, 0.4, 0.8, 1.2, 1.6)]
    recording = convert(tmp_path, make_ant_steps(), ANT)
    assert list_episodes(recording) == [
        ([x[0], x[1], x[2], x[2]], [0, 0, 1], True),
        ([x[3], x[4], x[4]], [0, 0], False),  # to row 6, after which the ant was put back; the timeout was none
        ([x[0], x[1], x[2], x[2]], [0, 0, 1], True),
    ]
    assert (
        "first reached (2) or the position jumps (1; 2 timeouts were changed); 2 rows after that" in recording.notes[0]
    )


def test_final_observations_follow_the_rows_that_are_kept(tmp_path: Path) -> None:
    arrays = make_ant_steps()
    arrays["next_observations"] = arrays["observations"] + (0.0, 9.0)
    recording = convert(tmp_path, arrays, ANT)
    assert [float(e.observations[-1, 0]) for e in recording.dataset] == pytest.approx([0.8, 1.6, 0.8])
    assert all(e.observations[-1, 1] == 9.0 for e in recording.dataset)


def test_a_file_without_faults_is_read_as_before(tmp_path: Path) -> None:
    arrays = make_steps(5, terminals=(4,))
    arrays["rewards"], arrays["observations"] = np.eye(5, dtype=np.float32)[4], arrays["observations"] / 10
    with_repairs, without = (convert(tmp_path, arrays, repairs) for repairs in (ANT, ()))
    assert list_episodes(with_repairs) == list_episodes(without)


def test_repairs_are_named_and_part_of_the_key() -> None:
    for env, repairs in (("maze2d-umaze-v1", POINT), ("antmaze-medium-diverse-v0", ANT)):
        config = resolve_config(env)
        assert config.task.d4rl_repairs == repairs
        assert make_d4rl_key(config) != make_d4rl_key(resolve_config(env, overrides="task.d4rl_repairs=[]"))
    with pytest.raises(
        ConfigError, match=r"d4rl_repairs must be one of .*not 'late_reward'; did you mean 'late_rewards'"
    ):
        make_data_config("d4rl", task__d4rl_repairs="late_reward")

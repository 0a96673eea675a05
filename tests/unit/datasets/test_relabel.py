"""Recordings whose rewards and ends are not the environment's: D4RL's kitchen files."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from support.data import find_real_file, make_data_config, write_hdf5
from vdt.data.errors import DataError
from vdt.datasets.choose import choose_source
from vdt.datasets.d4rl import get_cache_file
from vdt.datasets.loaded_data import LoadedData
from vdt.experiments.resolve import resolve_config

ENV = "kitchen-partial-v0"
COMPLETE = resolve_config("kitchen-complete-v0").task.d4rl_url
GOAL = {17: -0.69, 18: -0.05, 19: 0.37, 22: -0.75, 23: -0.23, 24: 0.75, 25: 1.62, 26: 0.99, 29: -0.06}
SUBTASKS = ([22], [19], [17, 18], [23, 24, 25, 26, 27, 28, 29])


def make_episode(steps: int, done_at: list[int]) -> npt.NDArray[np.float32]:
    """Observations in which the first sub-tasks are done from these rows on."""
    observations = np.zeros((steps, 60), np.float32)
    for place, value in GOAL.items():
        observations[:, 30 + place] = value
    for part, row in zip(SUBTASKS, done_at, strict=False):
        observations[row:, part] = [GOAL.get(place, 0.0) for place in part]
    return observations


def load(path: Path, *episodes: npt.NDArray[np.float32]) -> LoadedData:
    """Write a file as D4RL did, each row with the count of what is done, and read it."""
    observations = np.concatenate(episodes)
    ends = np.cumsum([len(episode) for episode in episodes]) - 1
    arrays = {
        "observations": observations,
        "actions": np.zeros((len(observations), 9), np.float32),
        "rewards": np.float32(
            [sum(np.allclose(o[p], [GOAL.get(k, 0.0) for k in p]) for p in SUBTASKS) for o in observations]
        ),
        "terminals": np.isin(np.arange(len(observations)), ends),
    }
    write_hdf5(path, arrays)
    return choose_source(resolve_config(ENV, source=f"path:{path}"), path.parent).load()


def test_rewards_are_paid_once_and_only_success_ends(tmp_path: Path) -> None:
    recording = load(tmp_path / "file.hdf5", make_episode(7, [2, 3, 3, 5]), make_episode(5, [2]), make_episode(1, []))
    first, second = recording.dataset  # the third has no step that is known
    assert first.rewards.tolist() == [0, 1, 2, 0, 1, 0, 0] and first.terminated  # by the action before the observation
    assert second.rewards.tolist() == [0, 1, 0, 0] and not second.terminated
    assert (second.observations == make_episode(5, [2])).all(), "its last observation is the final one"
    assert any("2 recorded ends are none in the environment" in note for note in recording.notes)
    assert any(
        "the file's own added up to 6 an episode" in note for note in recording.notes
    )  # (1 + 2 * 3 + 2 * 4 + 3 + 0) / 3


def test_what_was_done_before_a_cut_is_not_paid_again(tmp_path: Path) -> None:
    recording = load(tmp_path / "file.hdf5", make_episode(300, [100, 285, 290, 295]))
    first, second = recording.dataset  # cut at the horizon of 280 steps
    assert (len(first), len(second)) == (279, 20) and (first.terminated, second.terminated) == (False, True)
    assert np.flatnonzero(first.rewards).tolist() == [99] and np.flatnonzero(second.rewards).tolist() == [4, 9, 14]


def test_ends_that_are_none_are_counted_beside_cuts_that_are_ends(tmp_path: Path) -> None:
    recording = load(tmp_path / "file.hdf5", make_episode(300, [10, 20, 30, 40]), make_episode(5, [2]))
    assert [episode.terminated for episode in recording.dataset] == [True, True, False], (
        "the first was cut at the horizon"
    )
    assert any("1 recorded ends are none in the environment" in note for note in recording.notes)


def test_what_cannot_be_relabelled_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"file.hdf5: observations 30 to 59 are zero; accepted is a goal"):
        load(tmp_path / "file.hdf5", np.zeros((5, 60), np.float32))
    with pytest.raises(DataError, match=r"file.hdf5: no episode is left"):
        load(tmp_path / "file.hdf5", make_episode(1, []))


def test_official_file() -> None:
    config = resolve_config("kitchen-complete-v0", source=f"path:{find_real_file(f'd4rl/{Path(COMPLETE).name}')}")
    dataset = choose_source(config, Path.cwd()).load().dataset
    assert (len(dataset), dataset.steps) == (19, 3680)
    assert (dataset.episode_returns == 4).all() and dataset.terminated.all()


def test_snapshots_with_and_without_a_bridge_are_told_apart(tmp_path: Path) -> None:
    load(tmp_path / "file.hdf5", make_episode(7, [2, 3, 3, 5]))
    keys = set()
    for source in (f"path:{tmp_path / 'file.hdf5'}", "d4rl"):
        cached = get_cache_file(COMPLETE)
        cached.parent.mkdir(exist_ok=True)
        cached.touch()
        for bridge in ("kitchen", "none"):
            config = make_data_config(source, "kitchen-complete-v0", COMPLETE, task__bridge=bridge)
            keys.add(choose_source(config, tmp_path).key)
    assert len(keys) == 4


def test_a_file_that_is_another_one_is_refused() -> None:
    cached = get_cache_file(COMPLETE)
    cached.parent.mkdir()
    cached.write_bytes(b"something else")
    with pytest.raises(DataError, match=r"sha256 is .*; accepted is cd797c38"):
        choose_source(resolve_config("kitchen-complete-v0", source="d4rl"), Path.cwd()).load()

"""Episodes and data sets: shapes, and round trips through the contiguous arrays."""

import dataclasses

import numpy as np
import pytest

import vdt.data.trajectory
from support.builders import make_dataset, make_trajectory
from vdt.data.normalization import RewardStatistics
from vdt.data.trajectory import Trajectory, TrajectoryDataset


def test_a_trajectory_has_one_observation_more_than_actions() -> None:
    trajectory = make_trajectory(4)
    assert (len(trajectory), len(trajectory.observations), len(trajectory.actions)) == (4, 5, 4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        trajectory.terminated = True  # type: ignore[misc]


@pytest.mark.parametrize(
    ("observations", "actions", "rewards"), [(1, 0, 0), (4, 4, 4), (6, 4, 4), (5, 3, 4), (5, 4, 5)]
)
def test_lengths_that_do_not_fit_are_refused(observations: int, actions: int, rewards: int) -> None:
    with pytest.raises(ValueError, match=rf"T\+1 observations, not {actions}, {rewards} and {observations}"):
        Trajectory(np.zeros((observations, 2)), np.zeros((actions, 1)), np.zeros(rewards), False)  # type: ignore[arg-type]


def test_episode_return_and_description() -> None:
    trajectory = Trajectory(np.zeros((4, 2), np.float32), np.zeros((3, 1), np.float32), np.float32([1, 2, -0.5]), True)
    assert trajectory.episode_return == 2.5  # 1 + 2 - 0.5
    assert "steps=3" in repr(trajectory) and "terminated" in repr(trajectory) and "2.50" in repr(trajectory)


def test_returns_of_long_episodes_are_summed_in_double_precision() -> None:
    # 2^24 + 1 + 1 is 2^24 in float32, one addition at a time
    rewards = np.float32([2**24, 1, 1])
    trajectory = Trajectory(np.zeros((4, 1), np.float32), np.zeros((3, 1), np.float32), rewards, False)
    assert trajectory.episode_return == 2**24 + 2
    assert TrajectoryDataset.from_trajectories([trajectory]).episode_returns.tolist() == [2**24 + 2]


def test_data_set_gives_back_what_it_was_made_from() -> None:
    originals = [make_trajectory(n, terminated=bool(n % 2), seed=n) for n in (3, 1, 5)]
    dataset = TrajectoryDataset.from_trajectories(originals)
    assert (len(dataset), dataset.steps, dataset.observation_size, dataset.action_size) == (3, 9, 2, 1)
    assert dataset.offsets.tolist() == [0, 4, 6, 12]  # T + 1 rows each
    assert dataset.lengths.tolist() == [3, 1, 5]
    for original, stored in zip(originals, dataset, strict=True):
        assert (stored.observations == original.observations).all()
        assert (stored.actions == original.actions).all()
        assert (stored.rewards == original.rewards).all()
        assert stored.terminated == original.terminated
    np.testing.assert_allclose(dataset.episode_returns, [t.episode_return for t in originals], rtol=1e-12)


def test_last_row_of_an_episode_has_no_action_and_no_reward() -> None:
    dataset = make_dataset((2, 3))
    last = dataset.offsets[1:] - 1
    assert (dataset.actions[last] == 0).all() and (dataset.rewards[last] == 0).all()


def test_arrays_that_do_not_fit_are_refused() -> None:
    good = {name: value for name, value in vars(make_dataset((2, 3))).items()}
    assert good["offsets"].tolist() == [0, 3, 7]
    wrong = [
        ({"actions": good["actions"][:-1]}, "lengths differ: 7 observations, 6 actions, 7 rewards"),
        ({"rewards": good["rewards"][:-1]}, "lengths differ: 7 observations, 7 actions, 6 rewards"),
        ({"terminated": good["terminated"][:1]}, "3 offsets do not fit 1 episodes"),
        ({"offsets": np.array([0])}, "1 offsets do not fit"),
        ({"offsets": np.array([1, 3, 7])}, "offsets must rise from 0"),
        ({"offsets": np.array([0, 3, 6])}, "offsets must rise from 0"),
        ({"offsets": np.array([0, 6, 7])}, "at least 2 rows"),  # an episode of a single row has no step
        ({"offsets": np.array([0, 8, 7])}, "offsets must rise"),
    ]
    for change, message in wrong:
        with pytest.raises(ValueError, match=message):
            TrajectoryDataset(**{**good, **change})
    with pytest.raises(ValueError, match="at least one trajectory"):
        TrajectoryDataset.from_trajectories([])


@pytest.mark.parametrize("missing", [False, True])
def test_no_block_is_empty_where_one_has_only_a_final_observation(
    missing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vdt.data.trajectory, "BLOCK_ROWS", 4)  # of five rows, so that the last stands alone
    episode = dataclasses.replace(make_trajectory(4), terminated=False, final_missing=missing)
    dataset = TrajectoryDataset.from_trajectories([episode])
    blocks = list(dataset.iterate_blocks("rewards", steps=True))
    assert [block.tolist() for block in blocks] == [episode.rewards.tolist()]
    assert all(len(block) for block in dataset.iterate_blocks("observations"))
    assert RewardStatistics.fit(dataset, 1.0).mean == pytest.approx(float(episode.rewards.mean()))

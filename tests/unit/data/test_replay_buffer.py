"""Targets (M2, M4) and the first-in-first-out store."""

import numpy as np
import pytest
import torch

from reference.targets import n_step_target_loop, returns_to_go_loop
from support.builders import SETTINGS, make_buffer, make_dataset, make_tiny_sampler, make_trajectory
from vdt.data.normalization import Normalizer
from vdt.data.replay_buffer import TrajectoryReplayBuffer
from vdt.data.targets import TargetSettings, compute_n_step_targets, compute_returns_to_go
from vdt.data.trajectory import Trajectory


def test_hindsight_returns_to_go_golden() -> None:
    # 1 + 2 + 3, 2 + 3, 3: undiscounted (M4)
    assert compute_returns_to_go(np.float32([1, 2, 3])).tolist() == [6, 5, 3]
    rewards = make_trajectory(50).rewards
    np.testing.assert_allclose(compute_returns_to_go(rewards), returns_to_go_loop(list(rewards)), atol=1e-5)


def test_n_step_targets_golden_under_a_time_limit() -> None:
    # discount 0.5, n = 2: 1 + 2/2, 2 + 3/2, 3 + 4/2, and only 4 at the end; 0.5^2 three times, then 0.5^1
    sums, taken, discounts = compute_n_step_targets(np.float32([1, 2, 3, 4]), False, 0.5, 2)
    assert sums.tolist() == [2, 3.5, 5, 4]
    assert taken.tolist() == [2, 2, 2, 1]
    assert discounts.tolist() == [0.25, 0.25, 0.25, 0.5]


def test_n_step_targets_golden_with_a_real_end() -> None:
    # the same sums; the last two stop at the end, where nothing follows
    sums, taken, discounts = compute_n_step_targets(np.float32([1, 2, 3, 4]), True, 0.5, 2)
    assert sums.tolist() == [2, 3.5, 5, 4]
    assert taken.tolist() == [2, 2, 2, 1]
    assert discounts.tolist() == [0.25, 0.25, 0, 0]


@pytest.mark.parametrize("terminated", [False, True])
@pytest.mark.parametrize("n_step", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("steps", range(1, 8))  # the end stands at each position of the window
def test_n_step_targets_equal_the_loop(steps: int, n_step: int, terminated: bool) -> None:
    rewards = make_trajectory(steps, seed=n_step).rewards
    sums, taken, discounts = compute_n_step_targets(rewards, terminated, 0.9, n_step)
    for start in range(steps):
        expected = n_step_target_loop(list(rewards), terminated, 0.9, n_step, start)
        assert (sums[start], taken[start], discounts[start]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("discount", [0.0, 1.0])
def test_n_step_targets_at_the_ends_of_the_discount(discount: float) -> None:
    sums, _, discounts = compute_n_step_targets(np.float32([1, 2, 3]), False, discount, 2)
    assert sums.tolist() == ([1, 2, 3] if discount == 0 else [3, 5, 3])
    assert discounts.tolist() == [discount] * 3


def test_rows_hold_normalised_observations_and_scaled_targets() -> None:
    # rewards 1, 3; critic: (r - 1) * 10 = 0, 20; policy: r / 2 = 0.5, 1.5, to go 2, 1.5
    trajectory = Trajectory(np.float32([[1], [3], [5]]), np.float32([[0.1], [0.2]]), np.float32([1, 3]), True)
    settings = TargetSettings(discount=0.5, n_step=2, reward_scale=10.0, reward_shift=-1.0, return_scale=2.0)
    normalizer = Normalizer(torch.tensor([1.0]), torch.tensor([2.0]))
    buffer = TrajectoryReplayBuffer(normalizer, settings, action_size=1)
    buffer.add(trajectory)
    # observation, action, reward, to go, n-step sum, steps to the bootstrap, its discount, timestep, steps left
    expected = [
        [0, 0.1, 0.5, 2, 0 + 0.5 * 20, 2, 0, 0, 2],
        [1, 0.2, 1.5, 1.5, 20, 1, 0, 1, 1],
        [2, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
    torch.testing.assert_close(buffer.matrix, torch.tensor(expected))


def test_transitions_bootstrap_from_the_true_final_observation() -> None:
    buffer = make_buffer(make_dataset((4,)))
    batch = make_tiny_sampler(buffer).gather_transitions(torch.tensor([0, 1, 2, 3]))
    size = buffer.observation_size
    for start, row in enumerate([3, 4, 4, 4]):  # n = 3, but only 4 steps: the last row is the final observation
        assert torch.equal(batch.bootstrap_observations[start], buffer.matrix[row, :size])


def held(buffer: TrajectoryReplayBuffer) -> list[int]:
    return [len(trajectory) for trajectory in buffer.trajectories]


def assert_rows_match(buffer: TrajectoryReplayBuffer) -> None:
    """Every trajectory held is where the index says, and no other is in the index."""
    starts, lengths = buffer.index()
    assert lengths.tolist() == held(buffer)
    for start, trajectory in zip(starts.tolist(), buffer.trajectories, strict=True):
        rows = buffer.matrix[start : start + len(trajectory) + 1]
        normalizer = buffer.normalizer
        seen = rows[:, : buffer.observation_size] * normalizer.std + normalizer.mean
        torch.testing.assert_close(seen, torch.from_numpy(trajectory.observations), atol=1e-5, rtol=1e-5)
        actions = rows[:-1, buffer.observation_size : buffer.observation_size + buffer.action_size]
        assert torch.equal(actions, torch.from_numpy(trajectory.actions))
        to_go = rows[:-1, buffer.observation_size + buffer.action_size + 1]
        np.testing.assert_allclose(to_go, compute_returns_to_go(trajectory.rewards), rtol=1e-6)


def test_first_in_first_out() -> None:
    buffer = make_buffer(make_dataset((5, 1, 4)), capacity=3)
    buffer.add(make_trajectory(7))
    assert held(buffer) == [1, 4, 7]
    buffer.extend([make_trajectory(2), make_trajectory(3)])
    assert held(buffer) == [7, 2, 3]
    assert (len(buffer), buffer.steps) == (3, 12)
    assert_rows_match(buffer)


def test_more_than_fit_keeps_the_newest() -> None:
    buffer = make_buffer(make_dataset((5, 1, 4, 6, 2)), capacity=2)
    assert held(buffer) == [6, 2]
    assert_rows_match(buffer)


def test_without_capacity_nothing_is_evicted() -> None:
    lengths = [1 + i % 7 for i in range(60)]
    buffer = make_buffer(make_dataset((2,)))
    for length in lengths:
        buffer.add(make_trajectory(length))
    assert held(buffer) == [2, *lengths]
    assert_rows_match(buffer)


@pytest.mark.parametrize("group", [1, 3, 4])
def test_rows_stay_right_through_growth_and_eviction(group: int) -> None:
    buffer = make_buffer(make_dataset((3, 2)), capacity=7)
    expected = [3, 2]
    for i in range(40):
        new = [make_trajectory(1 + (5 * i + 3 * k) % 11, terminated=bool(i % 2), seed=i) for k in range(group)]
        buffer.extend(new)
        expected = [*expected, *(len(t) for t in new)][-7:]
        assert held(buffer) == expected
        assert_rows_match(buffer)
    # evicted rows are reclaimed: at most twice what 7 trajectories of 11 steps need, and one more group
    assert len(buffer.matrix) <= 2 * (7 + group) * 12


def test_growing_does_not_copy_every_time() -> None:
    buffer = make_buffer(make_dataset((5,)))
    sizes = []
    for _ in range(64):
        buffer.add(make_trajectory(5))
        sizes.append(len(buffer.matrix))
    assert len(set(sizes)) <= 7  # doublings from 6 to 390 rows


def test_other_sizes_are_refused_before_anything_is_stored() -> None:
    buffer = make_buffer(make_dataset((5, 4)), capacity=2)
    with pytest.raises(ValueError, match=r"trajectory of sizes \(3, 1\), buffer of \(2, 1\)"):
        buffer.extend([make_trajectory(3), make_trajectory(3, observation_size=3)])
    assert held(buffer) == [5, 4]
    assert_rows_match(buffer)


def test_two_buffers_share_nothing() -> None:
    dataset = make_dataset((3,))
    first, second = (TrajectoryReplayBuffer(Normalizer.fit(dataset), SETTINGS, action_size=1) for _ in range(2))
    first.extend(dataset)
    assert (len(first), len(second)) == (1, 0)

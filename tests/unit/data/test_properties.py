"""Laws of offsets and windows, for any lengths, contexts and evictions."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference.sequences import gather_sequence_loop
from reference.targets import n_step_target_loop
from support.builders import SETTINGS, make_buffer, make_dataset, make_tiny_sampler, make_trajectory
from vdt.data.targets import compute_n_step_sums, compute_n_step_targets
from vdt.data.trajectory import TrajectoryDataset

EPISODES = st.lists(st.integers(1, 9), min_size=1, max_size=8)  # lengths


@given(lengths=EPISODES, added=st.lists(EPISODES, max_size=6), capacity=st.integers(1, 5))
def test_rows_of_every_episode_stand_where_the_index_says(
    lengths: list[int], added: list[list[int]], capacity: int
) -> None:
    buffer = make_buffer(make_dataset(lengths), capacity=capacity)
    for group, new in enumerate(added, 1):
        buffer.extend([make_trajectory(steps, seed=group) for steps in new])
    starts, held = buffer.index()
    assert held.tolist() == [*lengths, *(steps for new in added for steps in new)][-capacity:]
    assert buffer.steps == int(held.sum()) and len(buffer) == len(held)
    for start, steps, trajectory in zip(starts.tolist(), held.tolist(), buffer.trajectories, strict=True):
        rows = buffer.matrix[start : start + steps + 1]
        seen = buffer.normalizer.normalize(torch.from_numpy(trajectory.observations))
        assert torch.equal(rows[:, : buffer.observation_size], seen)
        assert rows[:-1, buffer.column.timestep].tolist() == list(range(steps))
        assert rows[:, buffer.column.steps_left].tolist() == list(range(steps, -1, -1))


@given(data=st.data(), lengths=EPISODES, context_length=st.integers(1, 12))
def test_windows_hold_one_episodes_steps_in_order(data: st.DataObject, lengths: list[int], context_length: int) -> None:
    dataset = make_dataset(lengths)
    buffer = make_buffer(dataset)
    episode = data.draw(st.integers(0, len(lengths) - 1))
    start = data.draw(st.integers(0, lengths[episode] - 1))
    row = buffer.index()[0][episode] + start
    batch = make_tiny_sampler(buffer).gather_sequences(row[None], context_length)
    mean, std = buffer.normalizer.mean.numpy(), buffer.normalizer.std.numpy()
    expected = gather_sequence_loop(dataset[episode], start, context_length, mean, std, SETTINGS.return_scale)
    real = expected["mask"] > 0
    assert batch.mask[0].tolist() == expected["mask"].tolist()
    assert int(real.sum()) == min(context_length, lengths[episode] - start)
    for name, wanted in expected.items():
        np.testing.assert_allclose(getattr(batch, name)[0][real].numpy(), wanted[real], atol=1e-5, err_msg=name)


@given(
    rewards=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40),
    discount=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    n_step=st.integers(1, 45),
    final_missing=st.booleans(),
)
def test_sums_of_rewards_are_the_literal_ones(
    rewards: list[float], discount: float, n_step: int, final_missing: bool
) -> None:
    expected = [n_step_target_loop(rewards, False, discount, n_step, start) for start in range(len(rewards))]
    bound = 1e-9 * sum(map(abs, rewards))
    sums = compute_n_step_sums(np.float32(rewards), discount, n_step)
    assert sums.dtype == np.float64 and sums.tolist() == pytest.approx(
        [total for total, *_ in expected], rel=1e-9, abs=bound
    )
    stored, taken, _ = compute_n_step_targets(np.float32(rewards), False, discount, n_step, final_missing=final_missing)
    if not final_missing:
        assert (stored == sums.astype(np.float32)).all() and taken.tolist() == [count for _, count, _ in expected]
    else:
        assert (stored[:-1] == compute_n_step_sums(np.float32(rewards[:-1]), discount, n_step).astype(np.float32)).all()
        assert stored[-1] == 0


def test_returns_of_a_long_episode_take_linear_time() -> None:
    """The square of 100,000 steps took ten seconds."""
    began = time.process_time()
    sums, taken, _ = compute_n_step_targets(np.ones(100_000, np.float32), False, 0.99, 100_000)
    assert time.process_time() - began < 2
    assert sums[0] == pytest.approx(100.0) and sums[-1] == 1 and taken[0] == 100_000


@given(lengths=EPISODES)
def test_a_data_set_gives_back_the_episodes_that_it_was_made_of(lengths: list[int]) -> None:
    episodes = [make_trajectory(steps, terminated=bool(i % 2), seed=i) for i, steps in enumerate(lengths)]
    dataset = TrajectoryDataset.from_trajectories(episodes)
    assert len(dataset) == len(episodes) and dataset.steps == sum(lengths)
    for got, given_ in zip(dataset, episodes, strict=True):
        assert (got.observations == given_.observations).all() and (got.actions == given_.actions).all()
        assert (got.rewards == given_.rewards).all() and got.terminated == given_.terminated
    assert [t.episode_return for t in dataset] == pytest.approx([float(t.rewards.sum()) for t in episodes], abs=1e-5)

"""Two-step sampling: what is drawn, how often, and that one gather equals the loop."""

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from reference.sequences import gather_sequence_loop
from reference.targets import n_step_target_loop
from support.builders import SETTINGS, make_buffer, make_dataset, make_tiny_sampler, make_trajectory
from vdt.data.normalization import Normalizer
from vdt.data.replay_buffer import TrajectoryReplayBuffer
from vdt.data.sampling import MixedSampler, Sampler
from vdt.data.targets import TargetSettings
from vdt.data.trajectory import Trajectory

LENGTHS = (5, 1, 7, 3, 6, 2)


@pytest.mark.parametrize("context_length", [1, 3, 8])
def test_sequences_equal_the_loop(context_length: int) -> None:
    dataset = make_dataset(LENGTHS, action_size=2)
    buffer = make_buffer(dataset, TargetSettings(0.9, 3, 1.0, 0.0, return_scale=4.0))
    mean, std = buffer.normalizer.mean.numpy(), buffer.normalizer.std.numpy()
    starts, _ = buffer.index()
    sampler = make_tiny_sampler(buffer)
    for episode, trajectory in enumerate(dataset):
        steps = torch.arange(len(trajectory))
        batch = sampler.gather_sequences(starts[episode] + steps, context_length)
        for start in range(len(trajectory)):
            expected = gather_sequence_loop(trajectory, start, context_length, mean, std, 4.0)
            assert batch.mask[start].tolist() == expected["mask"].tolist()
            real = batch.mask[start] > 0  # what padding holds means nothing
            for name, array in expected.items():
                got = getattr(batch, name)[start][real]
                wanted = array[real.numpy()]
                np.testing.assert_allclose(got.numpy(), wanted, atol=1e-5, err_msg=f"{name} from {start} of {episode}")


def test_padding_is_on_the_right_and_finite() -> None:
    buffer = make_buffer(make_dataset((3, 5)))
    batch = make_tiny_sampler(buffer).gather_sequences(torch.tensor([1, 8]), 4)  # the last window leaves the matrix
    assert batch.mask.tolist() == [[1, 1, 0, 0], [1, 0, 0, 0]]  # 2 steps are left, and 1
    assert batch.timesteps.tolist() == [[1, 2, 3, 4], [4, 5, 6, 7]] and batch.timesteps.dtype == torch.int64
    for name, value in vars(batch).items():
        assert value.isfinite().all(), name


def test_windows_may_be_longer_than_all_that_is_held() -> None:
    buffer = make_buffer(make_dataset((3,)))
    before = buffer.matrix[:4].clone()
    batch = make_tiny_sampler(buffer).gather_sequences(torch.tensor([0]), 50)
    assert batch.mask.sum() == 3 and torch.equal(buffer.matrix[:4], before)
    buffer.extend([make_trajectory(2)])  # grows on from there
    last = make_tiny_sampler(buffer).gather_sequences(torch.tensor([4]), 50)
    assert last.mask.sum() == 2


def test_transitions_equal_the_loop() -> None:
    dataset = make_dataset(LENGTHS)
    settings = TargetSettings(discount=0.8, n_step=3, reward_scale=5.0, reward_shift=-0.5, return_scale=1.0)
    buffer = make_buffer(dataset, settings)
    starts, _ = buffer.index()
    sampler = make_tiny_sampler(buffer)
    for episode, trajectory in enumerate(dataset):
        batch = sampler.gather_transitions(starts[episode] + torch.arange(len(trajectory)))
        seen = buffer.normalizer.normalize(torch.from_numpy(trajectory.observations))
        rewards = [(float(r) - 0.5) * 5.0 for r in trajectory.rewards]
        for start in range(len(trajectory)):
            total, taken, factor = n_step_target_loop(rewards, trajectory.terminated, 0.8, 3, start)
            assert float(batch.n_step_rewards[start]) == pytest.approx(total, abs=1e-5)
            assert float(batch.bootstrap_discounts[start]) == pytest.approx(factor)
            torch.testing.assert_close(batch.bootstrap_observations[start], seen[start + taken])
            torch.testing.assert_close(batch.observations[start], seen[start])
            assert torch.equal(batch.actions[start], torch.from_numpy(trajectory.actions[start]))


def count_draws(weighting: str, draws: int = 40_000) -> tuple[np.ndarray, list[int]]:
    """How often each step of each trajectory was drawn, flat in order, after evictions moved the rows."""
    buffer = make_buffer(make_dataset((9, 4, *LENGTHS)), capacity=len(LENGTHS))
    rows = make_tiny_sampler(buffer, weighting).sample_rows(draws)
    steps, left = buffer.matrix[rows, buffer.column.timestep], buffer.matrix[rows, buffer.column.steps_left]
    starts, lengths = buffer.index()
    assert lengths.tolist() == list(LENGTHS)
    counts: list[int] = []
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        for step in range(length):
            hit = rows == start + step
            assert (steps[hit] == step).all() and (left[hit] == length - step).all()
            counts.append(int(hit.sum()))
    assert sum(counts) == draws  # nothing but steps of these trajectories: no last rows, no evicted ones
    return np.array(counts), list(LENGTHS)


def test_weighting_length_is_uniform_over_steps() -> None:
    counts, _ = count_draws("length")
    assert chisquare(counts).pvalue > 1e-3


def test_weighting_uniform_is_uniform_over_trajectories_then_steps() -> None:
    counts, lengths = count_draws("uniform")
    shares = np.concatenate([[1 / len(lengths) / length] * length for length in lengths])
    assert chisquare(counts, shares * counts.sum()).pvalue > 1e-3
    assert chisquare(counts).pvalue < 1e-6  # and so not uniform over steps


def test_same_generator_state_same_batches() -> None:
    buffer = make_buffer(make_dataset())
    first, second = make_tiny_sampler(buffer, seed=3), make_tiny_sampler(buffer, seed=3)
    assert torch.equal(first.sample_sequences(8, 3).observations, second.sample_sequences(8, 3).observations)
    assert torch.equal(first.sample_transitions(8).actions, second.sample_transitions(8).actions)
    assert not torch.equal(first.sample_rows(50), make_tiny_sampler(buffer, seed=4).sample_rows(50))


def test_new_trajectories_are_drawn_at_once() -> None:
    buffer = make_buffer(make_dataset((3, 3)), capacity=2)
    sampler = make_tiny_sampler(buffer)
    sampler.sample_rows(4)
    buffer.extend([make_trajectory(9), make_trajectory(9)])
    drawn = buffer.matrix[sampler.sample_rows(500)]
    steps, left = drawn[:, buffer.column.timestep], drawn[:, buffer.column.steps_left]
    assert set((steps + left).tolist()) == {9}
    assert set(steps.tolist()) == set(range(9))


def test_an_empty_buffer_cannot_be_sampled() -> None:
    buffer = TrajectoryReplayBuffer(Normalizer(torch.zeros(2), torch.ones(2)), SETTINGS, action_size=1)
    with pytest.raises(ValueError, match="empty buffer"):
        make_tiny_sampler(buffer).sample_rows(1)


# Two buffers


def make_marked_buffer(mark: float, episodes: int) -> TrajectoryReplayBuffer:
    """Every reward is `mark`, and sums stop after one step."""
    trajectories = (make_trajectory(4, seed=seed) for seed in range(episodes))
    settings = TargetSettings(0.9, 1, 1.0, 0.0, return_scale=1.0)
    buffer = TrajectoryReplayBuffer(Normalizer(torch.zeros(2), torch.ones(2)), settings, action_size=1)
    buffer.extend(Trajectory(t.observations, t.actions, np.full(4, mark, np.float32), False) for t in trajectories)
    return buffer


@pytest.mark.parametrize(("share", "batch_size", "offline"), [(0.5, 6, 3), (0.25, 8, 2), (1.0, 4, 4), (0.9, 4, 4)])
def test_a_share_of_each_mixed_batch_is_offline(share: float, batch_size: int, offline: int) -> None:
    generator = torch.Generator().manual_seed(0)
    own, other = (Sampler(make_marked_buffer(mark, n), "length", generator) for mark, n in ((1.0, 3), (7.0, 5)))
    mixed = MixedSampler(own, other, share)
    expected = [1.0] * (batch_size - offline) + [7.0] * offline
    assert mixed.sample_transitions(batch_size).n_step_rewards.tolist() == expected
    batch, after, before = mixed.sample_transitions_in_context(batch_size, 3, present=True)
    assert batch.n_step_rewards.tolist() == expected and before is not None
    assert torch.equal(before.at_present(before.observations), batch.observations)
    assert torch.equal(after.at_present(after.observations), batch.bootstrap_observations)
    assert mixed.sample_transitions_in_context(batch_size, 3, present=False)[2] is None
    batch, after, before = mixed.sample_transitions_in_context(2 * batch_size, 3, present=True, window_steps=2)
    assert batch.n_step_rewards.tolist() == [e for e in expected for _ in range(2)] and before is not None
    assert torch.equal(before.at_present(before.observations), batch.observations)
    assert torch.equal(after.at_present(after.observations), batch.bootstrap_observations)
    assert [len(part) for part in mixed.sample_steps(batch_size)] == [batch_size] * 2
    assert mixed.generator is generator


# What is drawn how often


def count_steps(sampler: Sampler, context_length: int, batches: int = 200) -> tuple[dict[int, list[float]], list[int]]:
    """How often each step (row of its trajectory's first step, timestep) is a real step of 200 drawn sub-trajectories."""
    counts = {int(start): [0.0] * int(steps) for start, steps in zip(*sampler.buffer.index(), strict=True)}
    lengths: list[int] = []
    matrix = sampler.buffer.matrix
    rows = {tuple(matrix[r, :2].tolist()): (s, r - s) for s in counts for r in range(s, s + len(counts[s]))}
    for _ in range(batches):
        batch = sampler.sample_sequences(200, context_length)
        lengths += batch.mask.sum(1).int().tolist()
        for place in batch.observations[batch.mask > 0].tolist():
            start, timestep = rows[tuple(place)]
            counts[start][timestep] += 1
    return counts, lengths


@pytest.mark.parametrize("weighting", ["length", "uniform"])
def test_windows_that_start_before_an_episode_meet_all_its_steps_equally_often(weighting: str) -> None:
    """Starts inside meet step t of an episode t + 1 times, up to K: 1/4, 2/4, 3/4, 1, 1, … of the rest."""
    buffer = make_buffer(make_dataset((9, 2)))
    generator = torch.Generator().manual_seed(0)
    first, second = (int(start) for start in buffer.index()[0])
    inside, _ = count_steps(Sampler(buffer, "length", generator), 4)
    weights = np.array(inside[first]) / np.mean(inside[first][3:])
    np.testing.assert_allclose(weights, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1], atol=0.03)
    before, lengths = count_steps(Sampler(buffer, weighting, generator, starts_before=True), 4)
    for counts in before.values():
        np.testing.assert_allclose(np.array(counts) / np.mean(counts), 1.0, atol=0.04)
    assert set(lengths) == {1, 2, 3, 4}, "at each position of a sub-trajectory"
    ratio = np.mean(before[first]) / np.mean(before[second])  # 12 and 5 starts; drawn by 9 and 2 steps, or equally
    assert ratio == pytest.approx((9 / 12) / (2 / 5) if weighting == "length" else 5 / 12, rel=0.05)


def draw_places(sampler: Sampler, batches: int, size: int, context_length: int) -> list[tuple[int, int]]:
    """Where sub-trajectories start: row of the trajectory's first step, and distance from there, negative before it."""
    starts, steps = (values.tolist() for values in sampler.buffer.index())
    rows = {tuple(row): index for index, row in enumerate(sampler.buffer.matrix[:, :2].tolist())}
    places = []
    for _ in range(batches):
        batch = sampler.sample_sequences(size, context_length)
        held = batch.mask.sum(1).int().tolist()
        for observation, count in zip(batch.observations[:, 0].tolist(), held, strict=True):
            row = rows[tuple(observation)]
            first, length = next((a, n) for a, n in zip(starts, steps, strict=True) if a <= row < a + n)
            longest = min(context_length, length - (row - first))
            places.append((first, row - first if row > first else count - longest))
    return places


@pytest.mark.parametrize("before", [0, 3])
def test_a_start_fraction_is_the_least_share_of_draws_near_first_steps(before: int) -> None:
    """Without it a fifth of the draws are near (with starts before the first step three tenths), with 0.6 as many."""
    buffer = make_buffer(make_dataset((30, 9)))
    sampler = Sampler(
        buffer,
        "length",
        torch.Generator().manual_seed(0),
        starts_before=before > 0,
        start_fraction=0.6,
    )
    places = draw_places(sampler, 20, 1000, 4)
    first, second = (int(start) for start in buffer.index()[0])
    near = [place for place in places if place[1] < 4]
    assert len(near) / len(places) == pytest.approx(0.6, abs=0.012)
    counts = Counter(places)
    for start, length, share in ((first, 30, 30 / 39), (second, 9, 9 / 39)):
        early = [counts[start, place] for place in range(-before, 4)]
        late = [counts[start, place] for place in range(4, length)]
        assert chisquare(early).pvalue > 0.001 and chisquare(late).pvalue > 0.001, "uniform within either part"
        assert (sum(early) + sum(late)) / len(places) == pytest.approx(share, abs=0.012), "trajectories as without"


def test_enough_draws_near_first_steps_are_left_as_they_are() -> None:
    """Of trajectories of at most 7 steps more than half start near the first anyway."""
    buffer = make_buffer(make_dataset(LENGTHS))
    plain, other = (
        Sampler(buffer, "return", torch.Generator().manual_seed(3), starts_before=True, start_fraction=fraction)
        for fraction in (0.0, 0.5)
    )
    assert torch.equal(plain.sample_sequences(50, 4).observations, other.sample_sequences(50, 4).observations)


def test_one_step_has_no_start_before_it() -> None:
    buffer = make_buffer(make_dataset(LENGTHS))
    plain, before = (
        Sampler(buffer, "length", torch.Generator().manual_seed(3), starts_before=flag) for flag in (False, True)
    )
    assert torch.equal(plain.sample_sequences(50, 1).observations, before.sample_sequences(50, 1).observations)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_trajectories_are_drawn_by_their_return(temperature: float) -> None:
    # returns 0, 1 and 5 (mean 2, variance 14/3) over 2, 4 and 2 steps
    lengths, returns = (2, 4, 2), np.array([0.0, 1.0, 5.0])
    episodes = [
        Trajectory(t.observations, t.actions, np.float32([total] + [0.0] * (len(t) - 1)), False)
        for t, total in zip(make_dataset(lengths), returns, strict=True)
    ]
    buffer = TrajectoryReplayBuffer(Normalizer(torch.zeros(2), torch.ones(2)), SETTINGS, action_size=1)
    buffer.extend(episodes)
    sampler = Sampler(buffer, "return", torch.Generator().manual_seed(0), return_temperature=temperature)
    shares = np.array(lengths) * np.exp((returns - 2) / (14 / 3) ** 0.5 / temperature)
    expected = np.repeat(shares / shares.sum() / lengths, lengths)
    starts, steps = buffer.index()
    rows = buffer.list_step_rows((starts, steps)).tolist()
    for with_target in (False, True):
        drawn = sampler.sample_rows(60_000, with_target=with_target).tolist()
        assert chisquare([drawn.count(row) for row in rows], expected * 60_000).pvalue > 0.001
    cool = Sampler(buffer, "return", torch.Generator().manual_seed(0), return_temperature=1e-3)
    assert set(cool.sample_rows(100).tolist()) <= set(rows[6:]), "only the best"


def test_policy_and_critic_have_draws_of_their_own() -> None:
    """Transitions come as from a sampler of the one weighting, sub-trajectories and steps as from one of the other."""

    def make(weighting: str, policy_draws: str = "") -> Sampler:
        generator = torch.Generator().manual_seed(0)
        return Sampler(make_marked_buffer(1.0, 5), weighting, generator, policy_draws=policy_draws)

    both = [make("length", "return") for _ in range(3)]
    assert torch.equal(
        both[0].sample_transitions(200).observations, make("length").sample_transitions(200).observations
    )
    assert torch.equal(
        both[1].sample_sequences(200, 2).observations, make("return").sample_sequences(200, 2).observations
    )
    assert torch.equal(both[2].sample_steps(200)[0], make("return").sample_steps(200)[0])
    other = make("length")
    assert not torch.equal(make("length", "return").sample_steps(200)[0], other.sample_steps(200)[0])


def test_equal_returns_are_drawn_by_length() -> None:
    buffer = make_marked_buffer(0.0, 3)
    rows = Sampler(buffer, "return", torch.Generator().manual_seed(0)).sample_rows(6000)
    assert chisquare(torch.bincount(rows)[buffer.list_step_rows()].numpy()).pvalue > 0.001

"""Truncated episodes whose final observation was not recorded: what the critic leaves out, and that nothing else does."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference.targets import n_step_target_loop, returns_to_go_loop
from support.builders import SETTINGS, make_actor_critic, make_buffer, make_config, make_tiny_sampler, make_trajectory
from vdt.data.normalization import Normalizer
from vdt.data.replay_buffer import TrajectoryReplayBuffer
from vdt.data.targets import compute_n_step_targets
from vdt.data.trajectory import Trajectory, TrajectoryDataset
from vdt.training.update import compute_policy_losses

LENGTHS = (5, 1, 7, 3, 6, 2)
MISSING = (True, True, False, True, False, True)


def hide_final(trajectory: Trajectory) -> Trajectory:
    """The same episode, recorded without the observation after its last step."""
    observations = trajectory.observations.copy()
    observations[-1] = observations[-2]
    return dataclasses.replace(trajectory, observations=observations, terminated=False, final_missing=True)


def drop_last_step(trajectory: Trajectory) -> Trajectory:
    """What is left if a missing final observation is replaced by the one before."""
    return Trajectory(trajectory.observations[:-1], trajectory.actions[:-1], trajectory.rewards[:-1], False)


def make_episodes(missing: Sequence[bool] = MISSING) -> list[Trajectory]:
    episodes = [make_trajectory(n, terminated=bool(i % 2), seed=i) for i, n in enumerate(LENGTHS)]
    return [hide_final(e) if hidden else e for e, hidden in zip(episodes, missing, strict=True)]


def make_shortened() -> list[Trajectory]:
    return [drop_last_step(e) if e.final_missing else e for e in make_episodes() if not e.final_missing or len(e) > 1]


def test_targets_stop_at_the_last_known_observation() -> None:
    # discount 0.5, n = 2: 1 + 2/2, 2 + 3/2 bootstrap as ever; 3 alone bootstraps from step 3's own; 4 has no target
    sums, taken, discounts = compute_n_step_targets(np.float32([1, 2, 3, 4]), False, 0.5, 2, final_missing=True)
    assert sums.tolist() == [2, 3.5, 3, 0]
    assert taken.tolist() == [2, 2, 1, 0]
    assert discounts.tolist() == [0.25, 0.25, 0.5, 0]


@given(
    rewards=st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=12),
    ending=st.sampled_from(["terminated", "truncated", "missing"]),
    discount=st.floats(0, 1),
    n_step=st.integers(1, 15),
)
def test_targets_equal_the_loop(rewards: list[float], ending: str, discount: float, n_step: int) -> None:
    known, missing = (rewards[:-1], True) if ending == "missing" else (rewards, False)
    targets = compute_n_step_targets(
        np.float32(rewards), ending == "terminated", discount, n_step, final_missing=missing
    )
    for start in range(len(known)):
        expected = n_step_target_loop(known, ending == "terminated", discount, n_step, start)
        assert tuple(part[start] for part in targets) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    if missing:
        assert [part[-1] for part in targets] == [0, 0, 0]


@pytest.mark.parametrize("weighting", ["length", "uniform"])
def test_the_critic_draws_what_it_drew_without_the_last_steps(weighting: str) -> None:
    """Bit for bit: a step without a target is as if it were not there, to the critic."""
    before, now = TrajectoryDataset.from_trajectories(make_shortened()), make_episodes()
    normalizer = Normalizer.fit(before)
    batches = []
    for episodes in (before, now):
        buffer = TrajectoryReplayBuffer(normalizer, SETTINGS, action_size=1)
        buffer.extend(episodes)
        batches.append(make_tiny_sampler(buffer, weighting, seed=5).sample_transitions(500))
    for name, value in vars(batches[0]).items():
        assert torch.equal(value, getattr(batches[1], name)), name


def test_the_normaliser_sees_each_recorded_observation_once() -> None:
    episodes = [hide_final(make_trajectory(n, seed=n)) for n in (5, 7)]
    now, before = (TrajectoryDataset.from_trajectories(part) for part in (episodes, map(drop_last_step, episodes)))
    for name in ("mean", "std"):
        assert torch.equal(getattr(Normalizer.fit(now), name), getattr(Normalizer.fit(before), name))


@pytest.mark.parametrize("weighting", ["length", "uniform"])
def test_the_policy_draws_every_step_with_its_reward(weighting: str) -> None:
    buffer = make_buffer(TrajectoryDataset.from_trajectories(make_episodes()))
    rows = make_tiny_sampler(buffer, weighting).sample_rows(2000)
    assert set(rows.tolist()) == set(buffer.list_step_rows().tolist())
    assert len(buffer.list_step_rows()) == sum(LENGTHS) == buffer.steps
    assert len(buffer.list_step_rows(buffer.index_targets())) == sum(LENGTHS) - sum(MISSING) == buffer.target_steps
    starts, _ = buffer.index()
    for start, episode in zip(starts.tolist(), make_episodes(), strict=True):
        to_go = buffer.matrix[start : start + len(episode), buffer.column.return_to_go]
        np.testing.assert_allclose(to_go, returns_to_go_loop(list(episode.rewards)), atol=1e-5)


def test_only_the_prediction_of_a_missing_observation_is_masked() -> None:
    buffer = make_buffer(TrajectoryDataset.from_trajectories([hide_final(make_trajectory(3)), make_trajectory(4)]))
    batch = make_tiny_sampler(buffer).gather_sequences(torch.tensor([1, 5]), 4)
    assert batch.mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 0]]
    assert batch.next_observation_mask.tolist() == [[1, 0, 0, 0], [1, 1, 1, 0]]


def test_what_stands_for_a_missing_observation_changes_no_loss() -> None:
    config = make_config()
    dataset = TrajectoryDataset.from_trajectories(make_episodes())
    actor_critic, losses = make_actor_critic(config, dataset), []
    actor_critic.policy.eval()
    for rubbish in (0.0, 100.0):
        dataset.observations[dataset.offsets[1:][dataset.final_missing] - 1] += rubbish
        assert Normalizer.fit(dataset).mean.tolist() == actor_critic.normalizer.mean.tolist()
        buffer = make_buffer(dataset)
        batch = make_tiny_sampler(buffer).gather_sequences(buffer.list_step_rows(), 4)
        losses.append(compute_policy_losses(actor_critic, batch, config.actor)[0])
    for name in ("total", "next_observation", "reward", "behavior"):
        assert getattr(losses[0], name).item() == getattr(losses[1], name).item(), name


def test_new_and_evicted_trajectories_change_what_has_a_target() -> None:
    buffer = make_buffer(TrajectoryDataset.from_trajectories([hide_final(make_trajectory(3))]), capacity=1)
    assert buffer.final_missing and buffer.target_steps == 2
    buffer.add(make_trajectory(4))
    assert not buffer.final_missing and buffer.index_targets() is buffer.index()
    buffer.add(hide_final(make_trajectory(1)))
    with pytest.raises(ValueError, match="no step held has an observation after it"):
        make_tiny_sampler(buffer).sample_transitions(1)
    assert len(make_tiny_sampler(buffer).sample_rows(3)) == 3


def test_a_real_end_misses_nothing() -> None:
    with pytest.raises(ValueError, match="nothing follows a real end"):
        dataclasses.replace(hide_final(make_trajectory(3)), terminated=True)
    arrays = TrajectoryDataset.from_trajectories([make_trajectory(3, terminated=True)]).get_arrays()
    for flags in (np.array([True]), np.array([False, False])):
        with pytest.raises(ValueError, match="final_missing has one flag an episode"):
            TrajectoryDataset(**{**arrays, "final_missing": flags})


def test_flags_survive_the_data_set_and_its_parts() -> None:
    dataset = TrajectoryDataset.from_trajectories(make_episodes())
    assert dataset.final_missing.tolist() == list(MISSING) == [t.final_missing for t in dataset]
    assert dataset.target_steps == sum(LENGTHS) - sum(MISSING)
    again = TrajectoryDataset(**dataset.get_arrays())
    assert again.final_missing.tolist() == list(MISSING)
    parts = [part for part in dataset.split(0.4, seed=0) if part is not None]
    assert sum(int(part.final_missing.sum()) for part in parts) == sum(MISSING)
    whole = TrajectoryDataset.from_trajectories(make_episodes([False] * 6))
    assert "final_missing" not in whole.get_arrays() and not whole.final_missing.any()
    assert SETTINGS.n_step > 1 and "final observation missing" in repr(dataset[0])

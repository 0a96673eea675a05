"""The online phase: what is collected, stored and updated, and that a kill costs nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reference.targets import returns_to_go_loop
from support.builders import (
    Interrupted,
    InterruptingTracker,
    RecordingTracker,
    assert_identical,
    clone_state,
    make_config,
    make_store,
)
from support.online import CONFIG, DATASET, Inputs
from vdt.checkpoint.store import load_state
from vdt.data.storage import load_snapshot
from vdt.data.trajectory import Trajectory, TrajectoryDataset
from vdt.tracking import NullTracker
from vdt.training.critic_pretraining import pretrain_critic
from vdt.training.offline import calibrate_weighting, sample_advantages, train_actor
from vdt.training.online import OnlineTuner, make_tuner, tune_online
from vdt.training.seeding import seed_buffer, select_best_trajectories


def make(paths: Inputs, **settings: Any) -> OnlineTuner:
    config = make_config({"online.buffer_trajectories": 6, **{f"online.{k}": v for k, v in settings.items()}})
    return make_tuner(config, *paths, None)


# The buffer


def test_best_trajectories_come_worst_first() -> None:
    best = select_best_trajectories(DATASET, 3)
    expected = sorted(DATASET.episode_returns)[-3:]
    np.testing.assert_allclose([t.episode_return for t in best], expected)
    assert len(select_best_trajectories(DATASET, 99)) == len(DATASET)


def test_buffer_file_holds_what_fits(tmp_path: Path) -> None:
    held = load_snapshot(seed_buffer(CONFIG, DATASET, tmp_path / "buffer.hdf5"))
    np.testing.assert_allclose(held.episode_returns, sorted(DATASET.episode_returns)[-6:])


def test_new_trajectories_push_out_the_worst_offline_ones(paths: Inputs) -> None:
    tuner = make(paths)
    before = list(tuner.buffer.trajectories)
    new = tuner.collect()
    assert len(new) == 2
    after = list(tuner.buffer.trajectories)
    assert all(a is b for a, b in zip(after, [*before[2:], *new], strict=True))
    assert min(t.episode_return for t in before[:2]) == min(t.episode_return for t in before)


def test_stored_returns_to_go_are_those_really_received(paths: Inputs) -> None:
    tuner = make(paths)
    *_, last = tuner.collect()  # acted for a target of 12, which this task does not pay
    start = int(tuner.buffer.index()[0][-1])
    to_go = tuner.buffer.matrix[start : start + len(last), 2 + 1 + 1]
    np.testing.assert_allclose(to_go, np.array(returns_to_go_loop(list(last.rewards))) / 10.0, rtol=1e-5)


# Collecting


def test_environment_steps_and_seeds_are_counted(paths: Inputs) -> None:
    tuner = make(paths)
    first, second = tuner.collect(), tuner.collect()
    assert tuner.environment_steps == sum(len(t) for t in [*first, *second])
    assert tuner.episodes == 4
    # seeds run on, so episodes do: lengths 2 + seed % 5, seeds 100000000 to 100000003
    assert [len(t) for t in [*first, *second]] == [2, 3, 4, 5]


def test_budget_counts_environment_steps(undisturbed: dict[str, Any]) -> None:
    budget = CONFIG.online.environment_steps
    assert budget <= undisturbed["environment_steps"] < budget + 2 * 6  # the last iteration's episodes are finished
    assert undisturbed["step"] == undisturbed["environment_steps"]


def test_simulator_steps_are_paid_from_the_budget(tmp_path: Path) -> None:
    settings = {
        "task.environment_id": "InvertedPendulum-v5",
        "task.observation_size": 4,
        "task.horizon": 5,
        "planner.env_model": "simulator",
        "planner.candidates": 2,
    }
    config = make_config(settings)
    from support.builders import make_trajectory

    dataset = TrajectoryDataset.from_trajectories([make_trajectory(6, seed=s, observation_size=4) for s in range(3)])
    critic = pretrain_critic(config, dataset, NullTracker(), make_store(tmp_path / "critic"))
    agent = train_actor(config, dataset, critic, NullTracker(), make_store(tmp_path / "actor"))
    tuner = make_tuner(config, agent, seed_buffer(config, dataset, tmp_path / "b.hdf5"), dataset, None)
    steps = sum(len(t) for t in tuner.collect())
    assert tuner.environment_steps == steps + steps * 2 * 1  # each step imagines E - 1 = 1 step for 2 candidates


# Updating


def test_update_trains_policy_and_critic_but_not_what_is_frozen(paths: Inputs) -> None:
    tuner = make(paths)
    actor_critic = tuner.actor_critic
    policy, critic = clone_state(actor_critic.policy), clone_state(actor_critic.critic)
    normalizer, scale = (
        {k: v.clone() for k, v in actor_critic.normalizer.state_dict().items()},
        actor_critic.reward_scale,
    )
    tuner.collect()
    metrics = tuner.update()
    for network, before in ((actor_critic.policy, policy), (actor_critic.critic, critic)):
        for name, value in network.state_dict().items():
            assert not torch.equal(value, before[name]), name  # Q, V and the targets too
    assert_identical(actor_critic.normalizer.state_dict(), normalizer)
    assert tuner.buffer.normalizer is actor_critic.normalizer and actor_critic.reward_scale == scale
    assert actor_critic.gradient_steps == CONFIG.actor.gradient_steps + 2
    assert {"q_loss", "value_loss", "behavior_loss", "q_term"} <= set(metrics)


@pytest.mark.parametrize(("order", "turns"), [("first", "cccccaa"), ("together", "ccaccca")])
def test_critic_and_policy_take_turns_as_offline(
    paths: Inputs, monkeypatch: pytest.MonkeyPatch, order: str, turns: str
) -> None:
    config = make_config(
        {
            **{"critic.order": order, "actor.advantage_unit": "reward", "actor.min_effective_sample_fraction": 0},
            "actor.max_history_correlation": 1,
            **{"online.critic_steps_per_iteration": 5, "online.actor_steps_per_iteration": 2},
        }
    )
    tuner, taken = make_tuner(config, *paths, None), ""

    def take(letter: str) -> dict[str, torch.Tensor]:
        nonlocal taken
        taken += letter
        return {}

    monkeypatch.setattr(tuner, "take_critic_step", lambda: take("c"))
    monkeypatch.setattr(tuner, "take_policy_step", lambda: take("a"))
    tuner.update()
    assert taken == turns


def test_policy_update_leaves_no_gradient_in_the_critic(paths: Inputs) -> None:
    tuner = make(paths, critic_steps_per_iteration=0)
    before = clone_state(tuner.actor_critic.critic)
    tuner.update()
    assert_identical(clone_state(tuner.actor_critic.critic), before)
    assert not any(bool(p.grad.any()) for p in tuner.actor_critic.critic.parameters() if p.grad is not None)
    assert not any(p.requires_grad for p in tuner.actor_critic.critic.target_q.parameters())


def test_weights_are_calibrated_to_the_buffer_as_it_is(paths: Inputs) -> None:
    tuner = make(paths)
    before = tuner.actor_critic.weighting
    tuner.collect()
    tuner.update()
    assert tuner.actor_critic.weighting != before
    rows = torch.cat([s + torch.arange(n) for s, n in zip(*(t.tolist() for t in tuner.buffer.index()), strict=True)])
    batch = tuner.sampler.gather_transitions(rows)
    # the policy steps came after the calibration, but they leave the critic alone
    weights = tuner.actor_critic.weighting.compute_weights(
        tuner.actor_critic.critic.compute_advantages(batch.observations, batch.actions)
    )
    assert float(weights.mean()) == pytest.approx(1.0, abs=0.05)


def test_no_budget_leaves_the_agent_as_it_is(paths: Inputs, tmp_path: Path) -> None:
    config = make_config({"online.environment_steps": 0, "online.buffer_trajectories": 6})
    tuned = load_state(tune_online(config, *paths, NullTracker(), make_store(tmp_path)))
    offline = load_state(paths[0])
    offline["actor_critic"]["config"] = config.to_yaml()  # the actor may be another cell's: its online phase differs
    assert_identical(tuned["actor_critic"], offline["actor_critic"])
    assert tuned["environment_steps"] == 0


# All of the offline data


def test_half_of_each_critic_batch_is_from_all_of_the_data(paths: Inputs) -> None:
    """The buffer holds the six best of eight episodes, and the critic sees the two worst too."""
    tuner = make(paths)
    assert tuner.mixed is not None and tuner.mixed.own is tuner.sampler and len(tuner.mixed.offline.buffer) == 8
    worst = sorted(DATASET.episode_returns)[:2]
    held = {round(t.episode_return, 4) for t in tuner.mixed.offline.buffer.trajectories}
    assert {round(r, 4) for r in worst} <= held
    assert not {round(r, 4) for r in worst} & {round(t.episode_return, 4) for t in tuner.buffer.trajectories}
    split = tuner.mixed.split(CONFIG.critic.batch_size)
    assert [count for _, count in split] == [16, 16], "RLPD's symmetric sampling is the default"
    assert tuner.mixed.offline.buffer.normalizer is tuner.actor_critic.normalizer


def test_the_critic_learns_from_the_data_and_the_actor_does_not(paths: Inputs) -> None:
    """Rewards of the offline data are raised by 1000: the critic's targets show it, the policy's returns-to-go do not."""
    agent, buffer, _ = paths
    shifted = TrajectoryDataset.from_trajectories(
        Trajectory(t.observations, t.actions, t.rewards + 1000, t.terminated) for t in DATASET
    )
    losses = [float(make((agent, buffer, data)).take_critic_step()["q_loss"]) for data in (DATASET, shifted)]
    assert losses[1] > 1000 * losses[0]
    policies = []
    for data in (DATASET, shifted):
        tuner = make((agent, buffer, data))
        tuner.take_policy_step()
        policies.append(clone_state(tuner.actor_critic.policy))
    assert_identical(policies[0], policies[1])


def test_without_a_share_the_critic_has_the_buffer_alone(paths: Inputs) -> None:
    assert make(paths, offline_share=0).mixed is None
    assert make(paths, critic_steps_per_iteration=0).mixed is None, "nothing would be drawn from it"


def test_the_unit_of_advantages_is_that_of_the_critics_batches(paths: Inputs) -> None:
    """The buffer's advantages are alike where all episodes are good; eta would grow with that."""
    drawn = {"actor.trajectory_weighting": "return", "actor.min_effective_sample_fraction": 0}
    config = make_config({"online.buffer_trajectories": 6, **drawn})
    tuner = make_tuner(config, *paths, None)
    critic, generator = tuner.actor_critic.critic, tuner.sampler.generator
    assert tuner.mixed is not None
    state = generator.get_state()
    own, mixed = (sample_advantages(critic, s, with_target=s is tuner.mixed) for s in (tuner.sampler, tuner.mixed))
    generator.set_state(state)
    weighting = calibrate_weighting(config, critic, tuner.sampler, tuner.mixed)
    assert weighting.inverse_temperature == pytest.approx(1 / float(mixed.std()))
    of_policy = sample_advantages(critic, tuner.mixed)
    assert abs(float(of_policy.std()) / float(mixed.std()) - 1) > 0.02, "the policy's draws are others"
    assert abs(float(own.std()) / float(mixed.std()) - 1) > 0.02, "it makes a difference"
    assert float(weighting.compute_weights(own).mean()) == pytest.approx(1.0, abs=1e-4), "the mean is the buffer's"


# Seeds and kills


def test_same_seed_gives_bitwise_equal_checkpoints(undisturbed: dict[str, Any], paths: Inputs, tmp_path: Path) -> None:
    torch.manual_seed(77)
    assert_identical(load_state(tune_online(CONFIG, *paths, NullTracker(), make_store(tmp_path))), undisturbed)


def test_another_seed_acts_and_learns_differently(undisturbed: dict[str, Any], paths: Inputs, tmp_path: Path) -> None:
    other = load_state(tune_online(CONFIG.with_seed(1), *paths, NullTracker(), make_store(tmp_path)))
    assert not torch.equal(other["buffer"]["actions"], undisturbed["buffer"]["actions"])


def test_interrupted_and_resumed_tuning_is_the_undisturbed_one(
    undisturbed: dict[str, Any], paths: Inputs, tmp_path: Path
) -> None:
    every = 12  # environment steps between checkpoints
    with pytest.raises(Interrupted):
        tune_online(CONFIG, *paths, InterruptingTracker(40), make_store(tmp_path, every=every))
    torch.manual_seed(77)
    tracker = RecordingTracker()
    resumed = tune_online(CONFIG, *paths, tracker, make_store(tmp_path, every=every))
    assert 12 < tracker.metrics[0][0] <= 52  # it went on, and repeated what came after the checkpoint
    assert_identical(load_state(resumed), undisturbed)


def test_resumed_buffer_is_the_stored_one_not_the_offline_one(paths: Inputs, tmp_path: Path) -> None:
    tuner = make(paths)
    tuner.collect()
    torch.save(tuner.state_dict(), tmp_path / "state.pt")
    again = make_tuner(CONFIG, *paths, torch.load(tmp_path / "state.pt", weights_only=True))
    for first, second in zip(again.buffer.trajectories, tuner.buffer.trajectories, strict=True):
        assert (first.observations == second.observations).all() and (first.rewards == second.rewards).all()
        assert first.terminated == second.terminated
    assert_identical(again.state_dict(), tuner.state_dict())


def test_metrics_are_on_the_axis_of_environment_steps(paths: Inputs, tmp_path: Path) -> None:
    tracker = RecordingTracker()
    tune_online(CONFIG, *paths, tracker, make_store(tmp_path, every=20))
    steps = [step for step, _ in tracker.metrics]
    assert steps == sorted(set(steps)) and steps[-1] >= CONFIG.online.environment_steps
    for _, numbers in tracker.metrics:
        # reference returns 0 and 10: the score is ten times the return
        assert numbers["online/normalized_score"] == pytest.approx(10 * numbers["online/episode_return"])
        assert all(name.startswith("online/") for name in numbers)
    names = [name for name, *_ in tracker.checkpoints]
    assert names[-1] == f"online-{steps[-1]}" and len(names) >= 2


def test_rollouts_that_were_cut_short_have_a_return_and_no_score(paths: Inputs, tmp_path: Path) -> None:
    tracker, cut = RecordingTracker(), {"evaluation.max_episode_steps": 2}
    tune_online(make_config({"online.buffer_trajectories": 6, **cut}), *paths, tracker, make_store(tmp_path))
    assert tracker.metrics and all("online/episode_return" in numbers for _, numbers in tracker.metrics)
    assert not [numbers for _, numbers in tracker.metrics if "online/normalized_score" in numbers]

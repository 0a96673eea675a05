"""Diagnostics against arithmetic by hand on an environment with known answers."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from support.builders import RecordingTracker, make_actor_critic, make_config, make_dataset
from vdt.agent.actor_critic import ActorCritic
from vdt.data.trajectory import Trajectory
from vdt.evaluation.diagnostics import count_weights, diagnose, measure_calibration, measure_requested
from vdt.evaluation.loading import load_actor_critic
from vdt.evaluation.statistics import BINS
from vdt.policy.losses import AdvantageWeighting


class FirstObservation(nn.Module):
    """Stands for the critic's networks: the value is the first normalised observation."""

    def forward(self, observations: torch.Tensor, actions: torch.Tensor | None = None) -> torch.Tensor:
        value = observations[..., 0]
        return value if actions is None else torch.stack([value, value + 5.0])


def make_known(actor_critic: ActorCritic) -> ActorCritic:
    actor_critic.critic.target_q = FirstObservation()  # type: ignore[assignment]
    actor_critic.critic.value = FirstObservation()  # type: ignore[assignment]
    actor_critic.normalizer.mean.zero_()
    actor_critic.normalizer.std.fill_(1.0)
    return actor_critic


def test_calibration_by_hand() -> None:
    actor_critic = make_known(
        make_actor_critic(make_config({"critic.discount": 0.5, "task.reward_shift": 1.0}), make_dataset())
    )
    actor_critic.reward_scale = 2.0
    observations = np.array([[8.0, 0.0], [4.0, 0.0], [6.0, 0.0]], np.float32)
    actions, rewards = np.zeros((2, 1), np.float32), np.array([1.0, 3.0], np.float32)
    # scaled rewards (1 + 1) * 2 = 4 and (3 + 1) * 2 = 8. A cut episode goes on with V = 6 of its last observation:
    # step 1 earns 8 + 6/2 = 11, step 0 earns 4 + 11/2 = 9.5; in environment units 5.5 and 4.75; predicted are 4/2 and 8/2
    cut = measure_calibration(actor_critic, [Trajectory(observations, actions, rewards, False)])
    assert cut.predicted == [2.0, 4.0] and cut.earned == [5.5, 4.75]
    assert cut.bias == pytest.approx(((2.0 - 5.5) + (4.0 - 4.75)) / 2)
    assert (cut.steps, cut.correlation) == (2, pytest.approx(-1.0))
    # an episode that ended: step 1 earns 8, step 0 earns 4 + 8/2 = 8; half of that each, so nothing varies
    ended = measure_calibration(actor_critic, [Trajectory(observations, actions, rewards, True)])
    assert ended.earned == [4.0, 4.0] and ended.correlation is None


def test_calibration_leaves_out_steps_whose_next_observation_is_unknown() -> None:
    """A simulator gave a final observation that is not finite: what followed the last step is not known."""
    actor_critic = make_known(make_actor_critic(make_config({"critic.discount": 0.5}), make_dataset()))
    observations = np.array([[8.0, 0.0], [4.0, 0.0], [4.0, 0.0]], np.float32)
    actions, rewards = np.zeros((2, 1), np.float32), np.array([1.0, 3.0], np.float32)
    broken = Trajectory(observations, actions, rewards, False, final_missing=True)
    found = measure_calibration(actor_critic, [broken])
    assert found is not None and found.steps == 1 and found.predicted == [8.0]
    alone = Trajectory(observations[1:], actions[1:], rewards[1:], False, final_missing=True)
    assert measure_calibration(actor_critic, [alone]) is None


def test_calibration_after_a_cut_follows_what_the_critic_bootstraps_from() -> None:
    """A critic that values the policy has no trained V: after a cut the target policy's Q follows, as in its targets."""
    actor_critic = make_actor_critic(make_config({"critic.discount": 0.5}, method="qt"), make_dataset())
    actor_critic.add_target_policy()
    actor_critic.critic.target_q = FirstObservation()  # type: ignore[assignment]
    actor_critic.normalizer.mean.zero_()
    actor_critic.normalizer.std.fill_(1.0)
    observations = np.array([[8.0, 0.0], [4.0, 0.0], [6.0, 0.0]], np.float32)
    cut = Trajectory(observations, np.zeros((2, 1), np.float32), np.array([1.0, 3.0], np.float32), False)
    # min target Q of the last observation is 6: step 1 earns 3 + 6/2 = 6, step 0 earns 1 + 6/2 = 4
    assert sorted(measure_calibration(actor_critic, [cut]).earned) == [4.0, 6.0]


def test_calibration_has_bins_of_equal_size() -> None:
    actor_critic = make_known(make_actor_critic(make_config(), make_dataset()))
    episodes = list(make_dataset((20, 13)))
    report = measure_calibration(actor_critic, episodes)
    assert report.steps == 33 and len(report.predicted) == BINS
    assert report.predicted == sorted(report.predicted)


def test_each_return_is_requested_of_a_transformer_and_one_of_a_network_without_memory() -> None:
    config = make_config({"evaluation.requested_episodes": 2, "evaluation.seed": 1001})
    rows, episodes = measure_requested(make_actor_critic(config, make_dataset()), config, "x")
    assert [row.requested for row in rows] == [12.0, 6.0, 3.0]
    assert [len(t) for t in episodes] == [3, 4] * 3, "the same episodes for every return: 2 + seed % 5"
    assert rows[1].achieved == [t.episode_return for t in episodes[2:4]]
    plain = make_config({"evaluation.requested_episodes": 2}, method="bc")
    rows, _ = measure_requested(make_actor_critic(plain, make_dataset()), plain, "x")
    assert [row.requested for row in rows] == [12.0]


def test_the_critic_is_calibrated_on_the_returns_that_the_policy_acts_on() -> None:
    config = make_config({"evaluation.requested_episodes": 2, "evaluation.seed": 1001, "planner.candidates": 1})
    rows, episodes = measure_requested(make_actor_critic(config, make_dataset()), config, "x")
    assert [row.requested for row in rows] == [12.0, 6.0, 3.0]
    assert [t.episode_return for t in episodes] == rows[0].achieved


def test_a_critic_that_may_not_guide_is_calibrated_on_the_one_return_that_is_followed() -> None:
    config = make_config(
        {"evaluation.requested_episodes": 2, "planner.candidates": 3, "actor.max_history_correlation": 0.5}
    )
    actor_critic = make_actor_critic(config, make_dataset())
    actor_critic.history_correlation = 0.9
    rows, episodes = measure_requested(actor_critic, config, "x")
    assert [t.episode_return for t in episodes] == rows[0].achieved


def test_weights_are_counted() -> None:
    config, dataset = make_config(), make_dataset()
    uniform = count_weights(make_actor_critic(config, dataset, AdvantageWeighting(1e-12, 100.0, 1.0)), dataset)
    assert max(uniform.shares) == 1.0 and uniform.max == pytest.approx(1.0)
    clipped = count_weights(make_actor_critic(config, dataset, AdvantageWeighting(1e9, 100.0, 0.5)), dataset)
    # the weight is 100 / 0.5 where the advantage is above 0, else 0: all of them lie beyond the edges
    assert clipped.shares[0] + clipped.shares[-1] == pytest.approx(1.0) and clipped.max == pytest.approx(200.0)


def test_weights_are_those_over_a_followed_policys_action() -> None:
    """AWAC never trains V, so that V must not change what is counted."""
    config, dataset = make_config(method="awac"), make_dataset((50, 60))
    actor_critic = make_actor_critic(config, dataset, AdvantageWeighting(3.0, 100.0, 1.0))
    actor_critic.add_target_policy()
    before = count_weights(actor_critic, dataset)
    with torch.no_grad():
        for parameter in actor_critic.critic.value.parameters():
            parameter.add_(1.0)
    assert count_weights(actor_critic, dataset) == before


def test_weights_are_those_of_the_episodes_that_were_kept() -> None:
    dataset = make_dataset((50, 60, 70, 80))
    weighting = AdvantageWeighting(3.0, 100.0, 1.0)
    few = make_actor_critic(make_config({"data.keep_best_fraction": 0.3}), dataset, weighting)
    every = make_actor_critic(make_config(), dataset, weighting)
    assert count_weights(few, dataset) == count_weights(every, dataset.keep_best(0.3))
    assert count_weights(every, dataset) != count_weights(every, dataset.keep_best(0.3))


def test_diagnose_is_json_and_says_what_was_trained(tmp_path: Path) -> None:
    config = make_config({"evaluation.requested_episodes": 1})
    actor_critic, tracker = make_actor_critic(config, make_dataset()), RecordingTracker()
    torch.save({"actor_critic": actor_critic.state_dict(), "environment_steps": 60}, tmp_path / "agent.pt")
    agents = {"offline": tmp_path / "agent.pt", "online": tmp_path / "agent.pt"}
    found = diagnose(config, agents, make_dataset(), tracker)
    plain = {name: asdict(report) for name, report in found.items()}
    assert json.loads(json.dumps(plain)) == plain
    assert found["online"].environment_steps == 60 and found["online"].weights is None
    # two Q and V of 16 units in 2 layers: 2 (3*16+16 + 16*16+16 + 17) + (2*16+16 + 16*16+16 + 17)
    assert found["offline"].parameters.critic == 2 * (64 + 272 + 17) + (48 + 272 + 17)
    assert sum(found["offline"].weights.shares) == pytest.approx(1.0)
    assert {key for _, metrics in tracker.metrics for key in metrics} == {
        f"eval/{name}_critic_{key}" for name in ("offline", "online") for key in ("bias", "correlation")
    }
    off = diagnose(make_config({"evaluation.requested_episodes": 0}), agents, make_dataset(), tracker)
    assert off["offline"].requested is None


def test_networks_are_loaded_ready_to_act(tmp_path: Path) -> None:
    """Weights over the policy's own action are counted without dropout."""
    actor_critic = make_actor_critic(make_config({"policy.dropout": 0.5}), make_dataset())
    file = tmp_path / "agent.pt"
    torch.save({"actor_critic": actor_critic.state_dict()}, file)
    loaded, _ = load_actor_critic(file, actor_critic.config)
    assert not any(module.training for module in loaded.policy.modules())

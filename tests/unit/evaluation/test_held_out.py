"""Evaluation without an environment: which episodes are kept apart, and what is said of them."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from support.builders import make_actor_critic, make_config, make_dataset
from vdt.agent.actor_critic import ActorCritic
from vdt.config.errors import ConfigError
from vdt.data.trajectory import Trajectory, TrajectoryDataset
from vdt.evaluation.evaluate import evaluate_agents
from vdt.evaluation.held_out import evaluate_held_out
from vdt.tracking import NullTracker

OFFLINE = {
    "task.environment_id": "null",
    "online.environment_steps": 0,
    "data.held_out_fraction": 0.3,
}


def test_whole_episodes_are_kept_apart_and_the_same_ones_each_time() -> None:
    dataset = make_dataset((5, 1, 7, 3, 6, 2))
    rest, held = dataset.split(0.3, seed=0)
    assert held is not None and (len(rest), len(held)) == (4, 2)
    assert sorted([*rest.episode_returns, *held.episode_returns]) == sorted(dataset.episode_returns)
    again = dataset.split(0.3, seed=0)[1]
    assert again is not None and np.array_equal(held.observations, again.observations)
    chosen = {tuple(dataset.split(0.3, seed)[1].lengths) for seed in range(8)}  # type: ignore[union-attr]
    assert len(chosen) > 1, "another seed chooses others"
    assert dataset.split(0.0, seed=0) == (dataset, None)
    for fraction, count in ((0.01, 1), (0.5, 1)):
        pair = make_dataset((3, 4)).split(fraction, seed=0)
        assert [len(part) for part in pair if part is not None] == [2 - count, count]


def make_constant_dataset(terminated: bool) -> TrajectoryDataset:
    """Two episodes of 4 and 6 steps with reward 1 and action 0.5 or -0.5."""
    return TrajectoryDataset.from_trajectories(
        Trajectory(np.ones((n + 1, 2), np.float32), np.full((n, 1), a, np.float32), np.ones(n, np.float32), terminated)
        for n, a in ((4, 0.5), (6, -0.5))
    )


def make_known_actor_critic(settings: dict[str, object], *, action: float, value: float) -> ActorCritic:
    """A policy that always does `action`, a critic that always says `value` (in scaled rewards)."""
    actor_critic = make_actor_critic(make_config({**OFFLINE, **settings}), make_dataset())
    for module in (actor_critic.policy.predict_action, actor_critic.critic):
        for parameter in module.parameters():  # type: ignore[union-attr]
            torch.nn.init.zeros_(parameter)
    torch.nn.init.constant_(actor_critic.policy.predict_action[0].bias, float(np.arctanh(action)))  # type: ignore
    for network in (actor_critic.critic.target_q, actor_critic.critic.value):
        *_, last = [p for name, p in network.named_parameters() if "bias" in name]
        torch.nn.init.constant_(last, value)
    return actor_critic


def test_numbers_against_the_pencil(caplog: pytest.LogCaptureFixture) -> None:
    """Policy 0.1; data 0.5 four times, -0.5 six times; actions in [-2, 2]; discount 0.5; reward scale 10."""
    known = {"task.action_low": "[-2]", "task.action_high": "[2]", "critic.discount": 0.5}
    actor_critic = make_known_actor_critic(known, action=0.1, value=30.0)
    actor_critic.reward_scale = 10.0
    caplog.set_level(logging.INFO)
    report = evaluate_held_out(actor_critic, make_constant_dataset(terminated=True), "test")
    assert (report.episodes, report.steps) == (2, 10)
    # errors in action units: 2 * 0.4 four times, 2 * 0.6 six times; mean of squares (4 * 0.64 + 6 * 1.44) / 10 = 1.12
    assert report.action_rmse == pytest.approx(1.12**0.5, rel=1e-5)
    # mean 2 * (-0.1) = -0.2; deviations 1.2 four times, 0.8 six times: (4 * 1.44 + 6 * 0.64) / 10 = 0.96
    assert report.action_std == pytest.approx(0.96**0.5, rel=1e-5)
    assert report.policy_value == report.data_value == pytest.approx(3.0)
    # sum of 0.5^k over k steps left is 2 - 2^(1-k): steps left 4..1 and 6..1
    earned = [2 - 2.0 ** (1 - k) for k in (4, 3, 2, 1, 6, 5, 4, 3, 2, 1)]
    assert report.monte_carlo_value == pytest.approx(np.mean(earned), rel=1e-5)
    assert caplog.messages[-1].endswith(
        f", critic's value of its actions 3, of the data's 3, which earned {np.mean(earned):.4g}"
    )
    found = report.calibration
    assert found is not None and found.steps == 10 and found.predicted == pytest.approx([3.0] * 10)
    assert found.earned == pytest.approx(earned, rel=1e-5), "ten bins of one step each, in environment units"
    assert found.bias == pytest.approx(3.0 - np.mean(earned), rel=1e-5) and found.correlation is None
    cut = evaluate_held_out(actor_critic, make_constant_dataset(terminated=False), "test")
    # after a cut, 0.5^k * V = 0.5^k * 3 follows
    followed = [3 * 0.5**k for k in (4, 3, 2, 1, 6, 5, 4, 3, 2, 1)]
    assert cut.monte_carlo_value == pytest.approx(np.mean(earned) + np.mean(followed), rel=1e-5)


@pytest.mark.parametrize("context", [1, 3])
def test_histories_are_as_long_as_while_acting(context: int) -> None:
    data = make_dataset((9, 5))
    actor_critic = make_actor_critic(make_config({**OFFLINE, "planner.context_length": context}), data)
    for parameter in actor_critic.policy.parameters():
        parameter.data.mul_(9.0 if parameter.dim() > 1 else 1.0)
    asked: list[int] = []
    handle = actor_critic.policy.register_forward_hook(lambda _, inputs, output: asked.append(inputs[0].shape[1]))
    report = evaluate_held_out(actor_critic, data, "test")
    handle.remove()
    assert set(asked) == {context} and report.steps == 14
    longest = make_actor_critic(make_config(OFFLINE), data)
    longest.policy.load_state_dict(actor_critic.policy.state_dict())
    assert report.action_rmse != evaluate_held_out(longest, data, "test").action_rmse


def test_a_method_without_a_critic_has_no_values(caplog: pytest.LogCaptureFixture) -> None:
    actor_critic = make_actor_critic(make_config(OFFLINE, method="dt"), make_dataset())
    caplog.set_level(logging.INFO)
    report = evaluate_held_out(actor_critic, make_dataset(), "test")
    assert "value" not in caplog.text and "action error" in caplog.text
    assert report.policy_value is report.data_value is report.monte_carlo_value is report.value_correlation is None
    assert report.action_rmse > 0 and report.calibration is None


def test_evaluation_without_an_environment(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    actor_critic = make_actor_critic(make_config(OFFLINE), make_dataset())
    torch.save({"actor_critic": actor_critic.state_dict()}, tmp_path / "agent.pt")
    caplog.set_level(logging.INFO)
    found = evaluate_agents(actor_critic.config, {"offline": tmp_path / "agent.pt"}, NullTracker(), make_dataset())
    assert found.policies == {}
    assert found.held_out["offline"].steps == 24
    assert "has no environment, so there are no returns" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"online.environment_steps": 5}, "has no environment: online tuning is not available; accepted is 0"),
        ({"planner.env_model": "simulator"}, "planner.env_model is simulator, but"),
        ({"data.held_out_fraction": 0}, "nothing would be evaluated"),
        ({"task.action_low": "[-1, 2]"}, "need 1 numbers each, or none"),
        ({"task.action_low": "[1]", "task.action_high": "[1]"}, "must be below"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config({**OFFLINE, **settings})


def test_steps_whose_next_observation_is_missing_say_nothing_of_what_followed() -> None:
    """The same two recordings, with and without the last step: 6 and 8 steps of which a return is known."""
    actor_critic = make_known_actor_critic({}, action=0.0, value=3.0)
    whole = make_constant_dataset(False)
    hidden, cut = (
        TrajectoryDataset.from_trajectories(change(episode) for episode in whole)
        for change in (
            lambda e: replace(e, final_missing=True),
            lambda e: Trajectory(e.observations[:-1], e.actions[:-1], e.rewards[:-1], False),
        )
    )
    first, second = (evaluate_held_out(actor_critic, data, "offline") for data in (hidden, cut))
    assert (first.steps, second.steps) == (10, 8), "actions are compared at every step"
    assert first.monte_carlo_value == pytest.approx(second.monte_carlo_value)
    known = evaluate_held_out(actor_critic, whole, "offline").monte_carlo_value
    assert first.monte_carlo_value != pytest.approx(known)


def test_the_weighted_error_counts_steps_by_their_advantage() -> None:
    """Two episodes; the policy does 0.1, the data 0.5 and -0.5. Where Q - V is higher, the error weighs more."""
    actor_critic = make_known_actor_critic({}, action=0.1, value=3.0)
    plain = evaluate_held_out(actor_critic, make_constant_dataset(True), "test")
    assert plain.weighted_action_rmse == pytest.approx(plain.action_rmse, rel=1e-5), "equal advantages, equal weights"

    class Action(torch.nn.Module):  # Q is the data's action: 0.5 four times, -0.5 six times
        def forward(self, observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
            return actions.expand(*actions.shape[:-1], 1)[..., 0].expand(2, *actions.shape[:-1])

    actor_critic.critic.target_q = Action()  # type: ignore[assignment]
    report = evaluate_held_out(actor_critic, make_constant_dataset(True), "test")
    values = np.array([0.5 - 3.0] * 4 + [-0.5 - 3.0] * 6)
    weights = np.exp(values / values.std(ddof=1))
    errors = np.array([0.4**2] * 4 + [0.6**2] * 6)
    assert report.weighted_action_rmse == pytest.approx(np.sqrt((weights * errors).sum() / weights.sum()), rel=1e-4)
    assert report.weighted_action_rmse < report.action_rmse


def test_a_stochastic_policy_has_a_likelihood() -> None:
    actor_critic = make_actor_critic(make_config({**OFFLINE, "policy.head": "gaussian"}, method="dt"), make_dataset())
    data = make_constant_dataset(True)
    report = evaluate_held_out(actor_critic, data, "test")
    scale, densities = actor_critic.make_buffer(data, 1).settings.return_scale, []
    for episode in data:
        for step in range(len(episode)):
            history = slice(0 if step < 4 else step - 2 - step % 2, step + 1)  # the context's 4 steps, or down to 3
            observations = actor_critic.normalizer.normalize(torch.from_numpy(episode.observations[history]))
            taken = torch.from_numpy(episode.actions[history])
            left = torch.arange(len(episode), 0, -1)[history] / scale
            steps = torch.arange(history.start, history.stop)
            gaussian = actor_critic.policy(observations[None], taken[None], left[None], steps[None]).distribution
            densities.append(gaussian.compute_log_density(taken[None])[0, -1].item())
    assert report.log_likelihood == pytest.approx(np.mean(densities), rel=1e-4)
    assert evaluate_held_out(make_actor_critic(make_config(OFFLINE), data), data, "test").log_likelihood is None


def test_a_normal_head_has_a_likelihood_too() -> None:
    data = make_constant_dataset(True)
    actor_critic = make_actor_critic(make_config({**OFFLINE, "policy.head": "normal"}, method="dt"), data)
    assert evaluate_held_out(actor_critic, data, "test").log_likelihood is not None

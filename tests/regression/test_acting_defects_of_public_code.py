"""One test for each defect of acting known from public code of this method: none of them may come back here.

Each test watches real components from outside: the networks record what they were really given while acting.
The defects of data and training: `test_training_defects_of_public_code.py`.
"""

from typing import Any

import pytest
import torch
from torch import nn

from support.builders import (
    make_actor_critic,
    make_buffer,
    make_config,
    make_dataset,
    make_lively_actor_critic,
    make_tiny_sampler,
    make_trajectory,
    record_acting,
)
from support.environments import CONSTANT, COUNTDOWN
from vdt.agent.actor_critic import ActorCritic
from vdt.agent.agent import Agent, PlannerSettings
from vdt.data.trajectory import Trajectory, TrajectoryDataset
from vdt.environments import make_environment, make_gymnasium_environment
from vdt.environments.rollout import collect_trajectories
from vdt.evaluation.evaluate import evaluate
from vdt.training.update import compute_policy_losses

PENDULUM = {"task.environment_id": "InvertedPendulum-v5", "task.observation_size": 4, "task.horizon": 6}


def record(module: nn.Module) -> list[tuple[torch.Tensor, ...]]:
    """Fills with the inputs of every call of a network."""
    calls: list[tuple[torch.Tensor, ...]] = []
    module.register_forward_pre_hook(lambda _, inputs: calls.append(tuple(t.clone() for t in inputs)))
    return calls


def roll_out(actor_critic: ActorCritic, settings: PlannerSettings, seed: int = 3) -> Trajectory:
    task = actor_critic.config.task
    environment = make_environment(task)
    return collect_trajectories(Agent(actor_critic, settings), [environment], [seed])[0]


# 1. The look-ahead restored a simulator state saved before reset, and did not count its steps


def test_lookahead_starts_from_present_state() -> None:
    actor_critic = make_lively_actor_critic(PENDULUM)
    agent = Agent(actor_critic, PlannerSettings((4.0, 2.0), 2, "simulator"))
    scored = record(actor_critic.critic.target_q)
    chosen: list[int] = []
    before = agent.chosen.copy()

    class Watched:
        def start(self, environments: Any) -> None:
            agent.start(environments)

        def act(self, observations: Any) -> Any:
            actions = agent.act(observations)
            chosen.append(int((agent.chosen - before).argmax()))
            before[:] = agent.chosen
            return actions if len(chosen) % 2 == 0 else -actions  # so that the present is not what was imagined

        def observe(self, *told: Any) -> None:
            agent.observe(*told)

    environment = make_gymnasium_environment("InvertedPendulum-v5", 6)
    (trajectory,) = collect_trajectories(Watched(), [environment], [3])
    assert len(trajectory) == len(chosen) >= 4 and len(scored) == len(chosen)  # E = 2 scores at once
    seen = actor_critic.normalizer.normalize(torch.from_numpy(trajectory.observations))
    for step, candidate in enumerate(chosen):
        now, imagined = scored[step][0]
        torch.testing.assert_close(now, seen[step].expand(2, -1), atol=1e-5, rtol=1e-4)
        if step % 2 == 1:  # the oracle imagined for the winner exactly what then happened
            torch.testing.assert_close(imagined[candidate], seen[step + 1], atol=1e-4, rtol=1e-3)


def test_lookahead_steps_are_counted() -> None:
    config = make_config({**PENDULUM, "evaluation.episodes": 1})
    actor_critic = make_actor_critic(
        config, TrajectoryDataset.from_trajectories([make_trajectory(9, observation_size=4)])
    )
    report = evaluate(actor_critic, PlannerSettings((4.0, 2.0), 3, "simulator"), config, "x")
    assert report.environment_steps == 6 + 6 * 2 * 2  # taken, and imagined: 2 candidates, E - 1 = 2 steps


# 2. The look-ahead's score had no discount and used the online Q


@pytest.mark.parametrize("discount", [0.5, 0.9])
def test_discounted_score(discount: float) -> None:
    actor_critic = make_lively_actor_critic({"critic.discount": discount})
    for parameter in actor_critic.critic.target_q.parameters():
        parameter.data.zero_()
    actor_critic.critic.target_q.ensemble.biases[-1].data.fill_(1.0)  # Q is 1 everywhere
    environment = make_gymnasium_environment(COUNTDOWN, 8)
    agent = Agent(actor_critic, PlannerSettings((12.0, 6.0), 3, "learned"))
    agent.start([environment])
    from vdt.planning import planner

    scores: list[torch.Tensor] = []
    original = planner.plan

    def watched(*arguments: Any, **settings: Any) -> Any:
        result = original(*arguments, **settings)
        scores.append(result.scores)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vdt.agent.agent.plan", watched)
        agent.act(environment.reset(seed=0)[0][None])
    assert scores[0][0].tolist() == pytest.approx([1 + discount + discount**2] * 2)


def test_target_networks_used() -> None:
    actor_critic = make_lively_actor_critic()
    settings = PlannerSettings((12.0, 6.0, 3.0), 3, "learned")
    batch = make_tiny_sampler(make_buffer(make_dataset())).sample_sequences(8, 4)
    before, loss = (
        roll_out(actor_critic, settings),
        compute_policy_losses(actor_critic, batch, actor_critic.config.actor)[0].total,
    )
    for parameter in actor_critic.critic.q.parameters():
        parameter.data.fill_(float("nan"))  # nobody may ask the online networks
    actor_critic.policy.eval()
    after, again = (
        roll_out(actor_critic, settings),
        compute_policy_losses(actor_critic, batch, actor_critic.config.actor)[0].total,
    )
    assert (before.actions == after.actions).all()
    assert loss.isfinite() and again.isfinite()


# 3. The look-ahead fed raw observations to the policy and normalised ones to Q


@pytest.mark.parametrize("env_model", ["learned", "simulator"])
def test_policy_and_critic_see_same_normalised_observations(env_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    actor_critic = make_lively_actor_critic(PENDULUM)
    proposals, scored = record_acting(monkeypatch, "embed_observation"), record(actor_critic.critic.target_q)
    trajectory = roll_out(actor_critic, PlannerSettings((4.0, 2.0), 3, env_model))
    assert len(proposals) == 3 * len(scored) == 3 * len(trajectory)
    seen = actor_critic.normalizer.normalize(torch.from_numpy(trajectory.observations))
    for step, (judged, _) in enumerate(scored):
        for imagined in range(3):  # the policy is shown a history (N, 1, L, S), or one imagined step of both candidates
            (observations,) = proposals[3 * step + imagined]
            assert torch.equal(observations[..., -1, :].flatten(0, -2).expand(2, -1), judged[imagined])
        torch.testing.assert_close(judged[0], seen[step].expand(2, -1))


# 4. The return-to-go was divided by the discount at every step


def test_returns_to_go_not_divided_by_discount(monkeypatch: pytest.MonkeyPatch) -> None:
    actor_critic = make_lively_actor_critic({"task.environment_id": CONSTANT, "critic.discount": 0.5})
    asked = record_acting(monkeypatch, "embed_return")
    trajectory = roll_out(actor_critic, PlannerSettings((20.0,)))
    assert len(trajectory) == len(asked) == 8
    for step, (returns,) in enumerate(asked):
        first = max(0, step - 3)  # K = 4
        expected = [(20 - t) / 10 for t in range(first, step + 1)]  # a reward of 1 each, return scale 10
        shown = 4 if first else min(2, step + 1)  # the whole when a step is forgotten, else its action and the new step
        assert returns[0, 0, :, 0].tolist() == pytest.approx(expected[-shown:])


# 5. While acting, action tokens stood one step away from where they stood in training


def test_action_alignment_training_vs_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    actor_critic = make_lively_actor_critic()
    layers = ("embed_observation", "embed_action", "embed_timestep")
    seen, taken, times = (record_acting(monkeypatch, layer) for layer in layers)
    trajectory = roll_out(actor_critic, PlannerSettings((12.0,)), seed=4)
    buffer = actor_critic.make_buffer([trajectory])
    sampler = make_tiny_sampler(buffer)
    assert len(trajectory) == len(seen) == len(taken) == 6
    shift = 1.2 - float(buffer.matrix[0, buffer.column.return_to_go])  # 12 were asked for, on a scale of 10
    for step, ((observations,), (actions,), (timesteps,)) in enumerate(zip(seen, taken, times, strict=True)):
        start = max(0, step - 3)
        window, length = sampler.gather_sequences(torch.tensor([start]), 4), step + 1 - start
        new = slice(0 if start else max(0, length - 2), length)  # the whole again when a step is forgotten
        torch.testing.assert_close(observations[0, 0], window.observations[0, new])
        assert torch.equal(actions[0, 0, :-1], window.actions[0, new][:-1])  # beside their own observations
        assert not actions[0, 0, -1].any()  # and the present one, unknown, is the last
        assert torch.equal(timesteps, window.timesteps[0, new])
        trained = actor_critic.policy(
            window.observations, window.actions, window.returns_to_go + shift, window.timesteps
        )
        assert trajectory.actions[step].tolist() == pytest.approx(trained.actions[0, length - 1].tolist(), abs=1e-5)

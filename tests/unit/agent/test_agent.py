"""Acting and training see the same thing: alignment, normalisation, candidates."""

import numpy as np
import pytest
import torch

from support.builders import assert_identical, make_actor_critic, make_config, make_dataset
from support.environments import CONSTANT, COUNTDOWN
from vdt.agent.actor_critic import ActorCritic
from vdt.agent.agent import Agent, PlannerSettings
from vdt.agent.episodes import run_episodes
from vdt.config.schema import Config
from vdt.data.return_quantiles import compute_return_percentiles
from vdt.data.sampling import Sampler
from vdt.data.trajectory import Trajectory
from vdt.environments import make_gymnasium_environment
from vdt.environments.rollout import collect_trajectories


def make_lively_actor_critic(config: Config) -> ActorCritic:
    """Networks whose actions differ clearly from step to step."""
    actor_critic = make_actor_critic(config, make_dataset())
    for parameter in [*actor_critic.policy.parameters(), *actor_critic.critic.target_q.parameters()]:
        parameter.data += 0.3 * torch.randn_like(parameter)
    return actor_critic


def act(
    actor_critic: ActorCritic, returns: tuple[float, ...], seeds: list[int], horizon: int = 9, kind: str = COUNTDOWN
) -> list[Trajectory]:
    environments = [make_gymnasium_environment(kind, horizon) for _ in seeds]
    return collect_trajectories(Agent(actor_critic, PlannerSettings(returns)), environments, seeds)


def test_acting_repeats_what_training_predicts() -> None:
    """The whole border at once: normalisation, return scale, alignment, timesteps, action tokens, window.

    The task pays 1 a step and lasts 9 steps, so a target of 9 makes the returns-to-go while acting those in hindsight.
    """
    config = make_config({"task.environment_id": CONSTANT, "task.horizon": 9, "task.return_scale": 5.0})
    actor_critic = make_lively_actor_critic(config)
    (trajectory,) = act(actor_critic, (9.0,), [0], kind=CONSTANT)
    assert len(trajectory) == 9 and np.unique(trajectory.actions).size == 9
    buffer = actor_critic.make_buffer([trajectory])
    sampler = Sampler(buffer, "length", torch.Generator())
    length = config.policy.context_length
    for step in range(9):
        start = max(0, step + 1 - length)  # the window that ends at this step
        batch = sampler.gather_sequences(torch.tensor([start]), length)
        with torch.no_grad():
            output = actor_critic.policy(batch.observations, batch.actions, batch.returns_to_go, batch.timesteps)
        np.testing.assert_allclose(output.actions[0, step - start], trajectory.actions[step], atol=1e-5)


def test_episodes_in_a_batch_equal_episodes_alone() -> None:
    actor_critic = make_lively_actor_critic(make_config())
    agent_returns = (12.0, 6.0, 3.0)
    seeds = [4, 0, 3, 1]
    for seed, trajectory in zip(seeds, act(actor_critic, agent_returns, seeds), strict=True):
        (alone,) = act(actor_critic, agent_returns, [seed])
        assert len(alone) == len(trajectory)
        np.testing.assert_allclose(trajectory.actions, alone.actions, atol=1e-5)
        np.testing.assert_allclose(trajectory.rewards, alone.rewards, atol=1e-5)


def test_lookahead_in_a_batch_equals_alone_with_imagined_steps() -> None:
    actor_critic = make_lively_actor_critic(make_config())
    settings = PlannerSettings((12.0, 6.0), 3, "learned")
    environments = [make_gymnasium_environment(COUNTDOWN, 9) for _ in range(3)]
    together = collect_trajectories(Agent(actor_critic, settings), environments, [4, 0, 3])
    for seed, trajectory in zip([4, 0, 3], together, strict=True):
        (alone,) = collect_trajectories(
            Agent(actor_critic, settings), [make_gymnasium_environment(COUNTDOWN, 9)], [seed]
        )
        np.testing.assert_allclose(trajectory.actions, alone.actions, atol=1e-5)


def test_one_candidate_and_equal_candidates_act_alike() -> None:
    actor_critic = make_lively_actor_critic(make_config())
    (single,), (double,) = act(actor_critic, (6.0,), [4]), act(actor_critic, (6.0, 6.0), [4])
    np.testing.assert_allclose(single.actions, double.actions, atol=1e-6)
    (other,) = act(actor_critic, (12.0,), [4])
    assert np.abs(other.actions - single.actions).max() > 1e-3


def test_an_agent_can_start_again() -> None:
    actor_critic = make_lively_actor_critic(make_config())
    agent, environment = Agent(actor_critic, PlannerSettings((6.0,))), make_gymnasium_environment(COUNTDOWN, 9)
    first, _, again = (collect_trajectories(agent, [environment], [seed])[0] for seed in (4, 1, 4))
    assert (first.actions == again.actions).all()


def test_choices_are_counted_once_per_step() -> None:
    actor_critic = make_lively_actor_critic(make_config())
    agent = Agent(actor_critic, PlannerSettings((12.0, 6.0, 3.0)))
    environments = [make_gymnasium_environment(COUNTDOWN, 9) for _ in range(3)]
    trajectories = collect_trajectories(agent, environments, [0, 4, 2])
    assert agent.chosen.sum() == sum(len(t) for t in trajectories) == 12  # 2 + 6 + 4


@pytest.mark.parametrize("select", ["per_step", "per_episode", "margin"])
def test_each_episode_chooses_as_if_it_were_alone(select: str) -> None:
    """Episodes of several lengths side by side, a second time with the same agent, and one by one."""
    actor_critic = make_lively_actor_critic(make_config())
    settings = PlannerSettings((12.0, 6.0, 3.0), select=select, select_steps=2)
    agent, seeds = Agent(actor_critic, settings), [0, 4, 2]
    environments = [make_gymnasium_environment(COUNTDOWN, 9) for _ in seeds]
    together = [collect_trajectories(agent, environments, seeds) for _ in range(2)]
    for place, seed in enumerate(seeds):
        (alone,) = collect_trajectories(Agent(actor_critic, settings), environments[:1], [seed])
        for repeated in together:
            np.testing.assert_allclose(repeated[place].actions, alone.actions, atol=1e-6)


def test_settings_of_the_choice_act() -> None:
    """Once in an episode, at its first observation: the candidate of the highest Q there, and no other."""
    actor_critic = make_lively_actor_critic(make_config())
    environment = make_gymnasium_environment(COUNTDOWN, 9)
    returns = (12.0, 6.0, 3.0)
    chosen = {}
    for select in ("per_step", "per_episode", "margin"):
        agent = Agent(actor_critic, PlannerSettings(returns, select=select, select_steps=1))
        (episode,) = collect_trajectories(agent, [environment], [4])
        chosen[select] = agent.chosen.tolist()
        if select == "per_episode":
            followed = returns[int(agent.chosen.argmax())]
            (alone,) = act(actor_critic, (followed,), [4])
            assert sorted(agent.chosen.tolist()) == [0, 0, len(episode)]
            np.testing.assert_allclose(episode.actions, alone.actions, atol=1e-6)
    assert max(chosen["per_step"]) < sum(chosen["per_step"]), "else this shows nothing"
    assert chosen["margin"] != chosen["per_step"]


def test_acting_is_without_dropout() -> None:
    actor_critic = make_lively_actor_critic(make_config({"policy.dropout": 0.5}))
    actor_critic.policy.train()
    (first,), (second,) = act(actor_critic, (6.0,), [4]), act(actor_critic, (6.0,), [4])
    assert (first.actions == second.actions).all()


def test_episodes_are_acted_with_the_weights_that_they_start_with() -> None:
    actor_critic = make_lively_actor_critic(make_config())
    agent = Agent(actor_critic, PlannerSettings((12.0,)))
    environments = [make_gymnasium_environment(COUNTDOWN, 9)]
    before = collect_trajectories(agent, environments, [4])[0].actions
    with torch.no_grad():
        for parameter in actor_critic.policy.parameters():
            parameter += 0.1
    after = collect_trajectories(agent, environments, [4])[0].actions
    (fresh,) = act(actor_critic, (12.0,), [4])
    assert (after == fresh.actions).all() and (after != before).any()


def test_nothing_is_imagined_once_an_episode_has_chosen() -> None:
    config = make_config({"task.environment_id": "InvertedPendulum-v5", "task.observation_size": 4, "task.horizon": 4})
    settings = PlannerSettings((4.0, 2.0), 3, "simulator", select="per_episode", select_steps=1)
    agent = Agent(make_actor_critic(config, _pendulum_dataset()), settings)
    (trajectory,) = collect_trajectories(agent, [make_gymnasium_environment("InvertedPendulum-v5", 4)], [0])
    assert len(trajectory) == 4 and agent.imagined_environment_steps == 2 * 2, "at the first step: candidates x (E - 1)"


def test_simulator_steps_are_counted() -> None:
    config = make_config(
        {
            "task.environment_id": "InvertedPendulum-v5",
            "task.observation_size": 4,
            "task.horizon": 4,
            "critic.hidden_size": 8,
        }
    )
    actor_critic = make_actor_critic(config, _pendulum_dataset())
    agent = Agent(actor_critic, PlannerSettings((4.0, 2.0), 3, "simulator"))
    (trajectory,) = collect_trajectories(agent, [make_gymnasium_environment("InvertedPendulum-v5", 4)], [0])
    assert len(trajectory) == 4
    assert agent.imagined_environment_steps == 4 * 2 * 2  # steps x candidates x (E - 1)
    plain = Agent(actor_critic, PlannerSettings((4.0, 2.0), 3, "learned"))
    collect_trajectories(plain, [make_gymnasium_environment("InvertedPendulum-v5", 4)], [0])
    assert plain.imagined_environment_steps == 0


def test_an_agent_closes_the_simulator_that_it_looks_ahead_with() -> None:
    config = make_config({"task.environment_id": "InvertedPendulum-v5", "task.observation_size": 4, "task.horizon": 4})
    agent = Agent(make_actor_critic(config, _pendulum_dataset()), PlannerSettings((4.0, 2.0), 2, "simulator"))
    closed: list[bool] = []
    agent._env_model.scratch.close = lambda: closed.append(True)
    run_episodes(agent, config, [make_gymnasium_environment("InvertedPendulum-v5", 4)], [0], "x")
    assert closed == [True]


def _pendulum_dataset() -> object:
    from support.builders import make_trajectory
    from vdt.data.trajectory import TrajectoryDataset

    return TrajectoryDataset.from_trajectories([make_trajectory(9, observation_size=4)])


def test_a_actor_critic_is_rebuilt_from_its_state() -> None:
    actor_critic = make_lively_actor_critic(make_config({"critic.activation": "mish"}))
    actor_critic.gradient_steps = 17
    again = ActorCritic.from_state(actor_critic.state_dict(), torch.device("cpu"))
    assert_identical(again.state_dict(), actor_critic.state_dict())
    (first,), (second,) = (act(b, (12.0, 6.0), [4]) for b in (actor_critic, again))
    assert (first.actions == second.actions).all()


def test_settings_come_from_the_configuration() -> None:
    settings = {"planner.candidates": 2, "planner.planning_horizon": 4, "planner.context_length": 2}
    acting = PlannerSettings.from_config(make_config({**settings, "planner.forget_steps": 3}))
    assert acting == PlannerSettings((12.0, 6.0), 4, "learned", 2, 3)
    assert acting.follow(6.0) == PlannerSettings((6.0,), 1, "none", 2, 3)


def test_candidate_returns_may_be_the_datas() -> None:
    config = make_config({"planner.returns": "data", "planner.return_quantiles": [0.9, 0.5], "planner.candidates": 3})
    percentiles = compute_return_percentiles(np.arange(11.0) * 10)
    assert PlannerSettings.from_config(config, percentiles).candidate_returns == (90.0, 50.0)
    with pytest.raises(
        ValueError, match=r"planner\.returns is data, but the policy comes without the returns of its data"
    ):
        PlannerSettings.from_config(config)


def test_a_shorter_context_forgets_what_is_older() -> None:
    actor_critic = make_lively_actor_critic(make_config())
    brief_config = make_config({"policy.context_length": 1}).to_yaml()
    brief = ActorCritic.from_state({**actor_critic.state_dict(), "config": brief_config}, torch.device("cpu"))
    settings = PlannerSettings((6.0,), context_length=1)

    def roll_out(acting: ActorCritic, planner: PlannerSettings) -> np.ndarray:
        return collect_trajectories(Agent(acting, planner), [make_gymnasium_environment(COUNTDOWN, 9)], [4])[0].actions

    assert (roll_out(actor_critic, settings) == roll_out(brief, PlannerSettings((6.0,)))).all()
    assert (roll_out(actor_critic, settings) != roll_out(actor_critic, PlannerSettings((6.0,)))).any()

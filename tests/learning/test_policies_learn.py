"""Policies trained for seconds on tasks whose best behaviour is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.builders import make_config, make_store
from support.environments import PAY_ACTION
from vdt.agent.actor_critic import ActorCritic
from vdt.agent.agent import Agent, PlannerSettings
from vdt.checkpoint.store import load_state
from vdt.config.schema import Config
from vdt.data.trajectory import Trajectory, TrajectoryDataset
from vdt.datasets.collected import collect_recording, find_ladder
from vdt.environments import make_gymnasium_environment
from vdt.environments.rollout import collect_trajectories
from vdt.evaluation.evaluate import evaluate
from vdt.experiments.resolve import resolve_config
from vdt.tracking import NullTracker
from vdt.training.critic_pretraining import pretrain_critic
from vdt.training.offline import make_sampler, train_actor
from vdt.training.online import tune_online
from vdt.training.seeding import seed_buffer

TASK: dict[str, Any] = {
    "task.environment_id": PAY_ACTION,
    "task.horizon": 10,
    "task.return_scale": 4.0,
    "task.candidate_returns": [4, 0],
    "planner.candidates": 2,
    "planner.planning_horizon": 1,
    "planner.env_model": "none",
    "critic.gradient_steps": 600,
    "critic.batch_size": 128,
    "critic.hidden_size": 32,
    "critic.target_update_rate": 0.05,
    "policy.dropout": 0.0,
    "actor.gradient_steps": 300,
    "actor.batch_size": 64,
    "actor.learning_rate": 0.003,
    "actor.warmup_steps": 10,
    "actor.q_coefficient": 0.0,
    "actor.inverse_temperature": 0.0,
    "evaluation.episodes": 1,
    "evaluation.lookahead_horizon": 0,
}
MEMORYLESS: dict[str, Any] = {  # neither a target nor its own past tells it what to do
    "policy.kind": "mlp",
    "actor.next_observation_coefficient": 0,
    "actor.reward_coefficient": 0,
    "planner.candidates": 1,
}
PLAIN = ("planner.", "critic.gradient_steps")
OBJECTIVE = ("planner.", "actor.q_coefficient", "actor.inverse_temperature")


def train(
    dataset: TrajectoryDataset, folder: Path, settings: dict[str, Any], method: str = "vdt"
) -> tuple[ActorCritic, Path]:
    base = TASK if method == "vdt" else {k: v for k, v in TASK.items() if not k.startswith(PLAIN)}
    config = make_config({**base, **settings}, method=method)
    critic = pretrain_critic(config, dataset, NullTracker(), make_store(folder / "critic"))
    path = train_actor(config, dataset, critic, NullTracker(), make_store(folder / "actor"))
    return ActorCritic.from_state(load_state(path)["actor_critic"], torch.device("cpu")), path


def train_method(method: str, dataset: TrajectoryDataset, folder: Path, **changes: float) -> ActorCritic:
    """With the method's own objective, in a few hundred steps."""
    base = {key: value for key, value in TASK.items() if not key.startswith(OBJECTIVE)}
    if resolve_config("walker2d-medium-v2", method=method).critic.gradient_steps == 0:
        base["critic.gradient_steps"] = 0
    base.update({"critic.learning_rate": 0.003, "actor.gradient_steps": 200, **changes})
    config = make_config(base, method=method)
    critic = pretrain_critic(config, dataset, NullTracker(), make_store(folder / "critic"))
    path = train_actor(config, dataset, critic, NullTracker(), make_store(folder / "actor"))
    return ActorCritic.from_state(load_state(path)["actor_critic"], torch.device("cpu"))


def act(actor_critic: ActorCritic, *returns: float) -> Trajectory:
    environment = make_gymnasium_environment(PAY_ACTION, 10)
    return collect_trajectories(Agent(actor_critic, PlannerSettings(returns)), [environment], [0])[0]


def make_episodes(actions: np.ndarray) -> TrajectoryDataset:
    """Episodes of `PayActionEnv` with given actions (E, 4)."""
    observations = np.stack([np.arange(5) / 10, np.ones(5)], 1).astype(np.float32)
    return TrajectoryDataset.from_trajectories(
        Trajectory(observations, row[:, None].astype(np.float32), (0.5 + row).astype(np.float32), True)
        for row in actions
    )


def make_good_and_bad(count: int = 60) -> TrajectoryDataset:
    """Half of the episodes act 0.5 (return 4), half -0.5 (return 0)."""
    return make_episodes(np.repeat([[0.5], [-0.5]], count // 2, 0) * np.ones((1, 4)))


@pytest.fixture(scope="module")
def actor_critic_of_both(tmp_path_factory: pytest.TempPathFactory) -> ActorCritic:
    """Trained on good and bad episodes alike, with uniform weights and no Q term: only the target tells them apart."""
    return train(make_good_and_bad(), tmp_path_factory.mktemp("both"), {"actor.gradient_steps": 500})[0]


@pytest.mark.parametrize("method", ["bc", "dt", "vdt"])
def test_the_datas_behaviour_is_learnt(method: str, tmp_path: Path) -> None:
    # the action is a function of the observation: 0.8 - 2 t / 10 after t steps
    actor_critic, _ = train(make_episodes(np.repeat([[0.8, 0.6, 0.4, 0.2]], 20, 0)), tmp_path, {}, method)
    np.testing.assert_allclose(act(actor_critic, 4.0).actions[:, 0], [0.8, 0.6, 0.4, 0.2], atol=0.05)


def test_without_weights_good_and_bad_are_averaged(tmp_path: Path) -> None:
    actor_critic, _ = train(make_good_and_bad(), tmp_path, {}, "bc")
    assert np.abs(act(actor_critic, 4.0).actions).max() < 0.15


def test_weights_prefer_the_better_of_two_actions(tmp_path: Path) -> None:
    settings = {"actor.inverse_temperature": 1.5, "actor.min_effective_sample_fraction": 0.3}
    actor_critic, _ = train(make_good_and_bad(), tmp_path, {**MEMORYLESS, **settings})
    actions = act(actor_critic, 4.0).actions
    # 0.5 tanh(1.5) = 0.45 for advantages of one standard deviation; less before the last step, where less is at stake
    assert actions.mean() > 0.35 and actions.min() > 0.2
    assert actions.max() < 0.6  # weighting stays within the data


def test_a_high_target_gets_the_better_action_and_a_low_one_the_worse(actor_critic_of_both: ActorCritic) -> None:
    high, low = act(actor_critic_of_both, 4.0), act(actor_critic_of_both, 0.0)
    assert high.actions.min() > 0.4 and low.actions.max() < -0.4
    assert high.episode_return > 3.5 and low.episode_return < 0.5


@pytest.mark.parametrize("order", [(4, 0), (0, 4)])
def test_the_critic_chooses_the_better_target(order: tuple[int, int], actor_critic_of_both: ActorCritic) -> None:
    report = evaluate(actor_critic_of_both, PlannerSettings(tuple(map(float, order))), actor_critic_of_both.config, "x")
    assert report.chosen_candidates[order.index(4)] == 1.0
    assert report.episode_returns[0] > 3.5


def test_imagined_steps_choose_the_better_target(actor_critic_of_both: ActorCritic) -> None:
    report = evaluate(actor_critic_of_both, PlannerSettings((0.0, 4.0), 3, "learned"), actor_critic_of_both.config, "x")
    assert report.chosen_candidates[1] >= 0.75 and report.episode_returns[0] > 3.0


def test_heads_predict_the_next_observation_and_reward(actor_critic_of_both: ActorCritic) -> None:
    actor_critic = actor_critic_of_both
    trajectory = act(actor_critic, 4.0)
    seen = actor_critic.normalizer.normalize(torch.from_numpy(trajectory.observations))
    to_go = torch.tensor([[4.0, 3.0, 2.0, 1.0]]) / 4
    with torch.no_grad():
        output = actor_critic.policy(
            seen[None, :4], torch.from_numpy(trajectory.actions)[None], to_go, torch.arange(4)[None]
        )
    np.testing.assert_allclose(output.next_observations[0], seen[1:], atol=0.15)
    rewards = actor_critic.reward_statistics.restore(output.rewards[0]) * 4
    np.testing.assert_allclose(rewards, trajectory.rewards, atol=0.15)


def test_the_reward_head_explains_the_rewards_of_collected_data(tmp_path: Path) -> None:
    """Over the return scale of 1000 they are 0.003 +- 0.001, where a head that predicts them is worse than a constant."""
    settings = (
        "data.steps=4000 critic.gradient_steps=0 policy.embedding_size=64 policy.layers=2 actor.gradient_steps=200 "
        "actor.warmup_steps=20 actor.learning_rate=0.002 runtime.device=cpu evaluation.curve_points=0"
    )
    config = resolve_config("hopper-medium-replay-v2", method="dt", overrides=settings)
    ladder = find_ladder(config)
    assert ladder is not None
    dataset = collect_recording(config, ladder).dataset
    critic = pretrain_critic(config, dataset, NullTracker(), make_store(tmp_path / "critic"))
    path = train_actor(config, dataset, critic, NullTracker(), make_store(tmp_path / "actor"))
    actor_critic = ActorCritic.from_state(load_state(path)["actor_critic"], torch.device("cpu"))
    sampler = make_sampler(config, actor_critic.make_buffer(dataset), 9)
    batch = sampler.sample_sequences(256, config.policy.context_length)
    with torch.no_grad():
        output = actor_critic.policy(batch.observations, batch.actions, batch.returns_to_go, batch.timesteps)
    real = batch.mask > 0
    rewards, predicted = batch.rewards[real], actor_critic.reward_statistics.restore(output.rewards)[real]
    explained = 1 - float((predicted - rewards).square().mean() / rewards.var())
    assert explained > 0.5


def test_q_term_moves_actions_towards_higher_q(tmp_path: Path) -> None:
    # actions of all sizes around 0; the reward grows with the action, so lambda = 0.4 moves the policy by about 0.2
    actions = np.random.default_rng(0).uniform(-0.8, 0.8, (80, 4))
    actor_critic, _ = train(make_episodes(actions), tmp_path, {**MEMORYLESS, "actor.q_coefficient": 0.4})
    plain, _ = train(make_episodes(actions), tmp_path / "plain", MEMORYLESS)
    moved = act(actor_critic, 2.0).actions.mean() - act(plain, 2.0).actions.mean()
    assert moved == pytest.approx(0.2, abs=0.1)


def test_online_tuning_improves_on_the_data(tmp_path: Path) -> None:
    actions = np.random.default_rng(0).uniform(-0.5, 0.5, (80, 4))
    settings = {
        "actor.q_coefficient": 0.2,
        "actor.inverse_temperature": 1.0,
        "online.environment_steps": 480,
        "online.episodes_per_iteration": 4,
        "online.buffer_trajectories": 60,
        "online.critic_steps_per_iteration": 10,
        "online.actor_steps_per_iteration": 10,
        "online.actor_learning_rate": 0.001,
        "online.exploration_noise": 0.2,
        "checkpoint.interval_steps": 1000000,
    }
    dataset = make_episodes(actions)
    before, path = train(dataset, tmp_path, settings)
    config: Config = before.config
    buffer = seed_buffer(config, dataset, tmp_path / "buffer.hdf5")
    tuned = tune_online(config, path, buffer, dataset, NullTracker(), make_store(tmp_path / "online"))
    after = ActorCritic.from_state(load_state(tuned)["actor_critic"], torch.device("cpu"))
    assert act(after, 4.0).episode_return > act(before, 4.0).episode_return + 0.3


@pytest.mark.parametrize(
    ("method", "least", "changes"),
    # weights exp(3 a) give 0.8 / tanh(2.4) - 1/3 = 0.48 before the last step's critic is sharp; the best tenth of episodes has
    # a mean of 1.75 * 0.8 / sqrt(3) / 2 = 0.4; what follows Q goes further
    [
        ("bc-10", 0.2, {}),
        ("iql", 0.2, {}),
        ("awac", 0.2, {}),
        ("td3bc", 0.4, {}),
        ("qt", 0.4, {}),
        (
            "cql",
            0.2,
            {"critic.conservative_coefficient": 0.1, "policy.initial_temperature": 0.1},
        ),  # rewards of this size
    ],
)
def test_method_prefers_the_better_actions(
    method: str, least: float, changes: dict[str, float], tmp_path: Path
) -> None:
    """The reward grows with the action, which is uniform in [-0.8, 0.8] in the data."""
    dataset = make_episodes(np.random.default_rng(0).uniform(-0.8, 0.8, (120, 4)))
    actions = act(train_method(method, dataset, tmp_path, **changes), 2.0).actions
    first = 1 if method == "qt" else 4  # what is paid early on lowers a transformer's target for the rest
    assert actions[:first].mean() > least


def test_stochastic_transformer_follows_its_target(tmp_path: Path) -> None:
    actor_critic = train_method("odt", make_good_and_bad(), tmp_path)
    assert act(actor_critic, 4.0).actions.mean() > 0.3 and act(actor_critic, 0.0).actions.mean() < -0.3

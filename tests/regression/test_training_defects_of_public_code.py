"""One test for each defect of data and training known from public code of this method: none may come back here.

The defects of acting: `test_acting_defects_of_public_code.py`.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from support.builders import (
    LinearActor,
    make_actor_critic,
    make_buffer,
    make_config,
    make_dataset,
    make_lively_actor_critic,
    make_store,
    make_tiny_sampler,
    make_trajectory,
    record_acting,
)
from support.environments import CONSTANT
from vdt.agent.agent import PlannerSettings
from vdt.checkpoint.store import load_state
from vdt.config.layers import load_tasks
from vdt.data.trajectory import Trajectory, TrajectoryDataset
from vdt.environments import make_gymnasium_environment
from vdt.environments.rollout import collect_trajectories
from vdt.evaluation.evaluate import evaluate
from vdt.policy.losses import AdvantageWeighting
from vdt.tracking import NullTracker
from vdt.training.critic_pretraining import pretrain_critic
from vdt.training.offline import train_actor
from vdt.training.online import make_tuner
from vdt.training.seeding import seed_buffer, select_best_trajectories
from vdt.training.update import compute_learning_rate, compute_policy_losses

AgentFiles = tuple[Path, Path, TrajectoryDataset]

# 6. Next observations were not normalised, or with other statistics


def test_next_observations_normalised_alike() -> None:
    dataset = make_dataset((6, 5))
    buffer = make_buffer(dataset)
    sampler = make_tiny_sampler(buffer)
    batch = sampler.gather_sequences(torch.tensor([0]), 6)
    assert torch.equal(batch.next_observations[:, :-1], batch.observations[:, 1:])
    transitions = sampler.gather_transitions(torch.tensor([0, 3, 5]))
    seen = buffer.normalizer.normalize(torch.from_numpy(dataset[0].observations))
    torch.testing.assert_close(transitions.bootstrap_observations, seen[[3, 6, 6]])


def test_online_data_is_normalised_with_the_offline_statistics(agent_files: AgentFiles) -> None:
    tuner = make_tuner(make_config(), *agent_files, None)
    stored = load_state(agent_files[0])["actor_critic"]["normalizer"]
    (*_, last) = tuner.collect()
    start = int(tuner.buffer.index()[0][-1])
    rows = tuner.buffer.matrix[start : start + len(last) + 1, :2]
    torch.testing.assert_close(rows, (torch.from_numpy(last.observations) - stored["mean"]) / stored["std"])


# 7. Every rollout ended with a terminal flag, and a time limit bootstrapped into itself


def test_time_limit_is_not_a_real_end() -> None:
    (trajectory,) = collect_trajectories(LinearActor(), [make_gymnasium_environment(CONSTANT, 4)], [0])
    assert len(trajectory) == 4 and not trajectory.terminated
    buffer = make_buffer(TrajectoryDataset.from_trajectories([trajectory]))
    batch = make_tiny_sampler(buffer).gather_transitions(torch.arange(4))
    assert batch.bootstrap_discounts.tolist() == pytest.approx([0.9**3, 0.9**3, 0.9**2, 0.9])
    last = batch.bootstrap_observations[-1] * buffer.normalizer.std + buffer.normalizer.mean
    assert last.tolist() == pytest.approx([0.4, 1.0])  # the observation after the last step, not the one before it


# 8. Online rollouts were deterministic and followed one fixed target


def test_exploration_noise_online(agent_files: AgentFiles) -> None:
    def collect(noise: float) -> list[Trajectory]:
        return make_tuner(make_config({"online.exploration_noise": noise}), *agent_files, None).collect()

    plain, again, noisy = collect(0.0), collect(0.0), collect(0.3)
    assert all((a.actions == b.actions).all() for a, b in zip(plain, again, strict=True))
    assert all((a.actions != b.actions).all() for a, b in zip(plain, noisy, strict=True))


def test_online_rollouts_follow_several_targets(agent_files: AgentFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    tuner = make_tuner(make_config(), *agent_files, None)
    asked = record_acting(monkeypatch, "embed_return")
    tuner.collect()
    first = asked[0][0].reshape(2, 3)  # 2 episodes, 3 candidates
    torch.testing.assert_close(
        first, torch.tensor([[1.2, 0.6, 0.3]] * 2)
    )  # task.candidate_returns over the scale of 10


# 9. The cosine rose again after its end


def test_learning_rate_never_rises_after_horizon() -> None:
    rates = [compute_learning_rate(step, 100, 10, 1.0) for step in range(10, 400)]
    assert all(later <= earlier for earlier, later in pairwise(rates))
    assert rates[-1] == rates[90] == pytest.approx(0.0)


# 10. The replay buffer grew or failed where its capacity is no multiple of what is added, and shared its contents


@pytest.mark.parametrize("capacity", [7, 8])
def test_buffer_capacity_not_multiple(capacity: int) -> None:
    buffer = make_buffer(make_dataset((2,)), capacity=capacity)
    for i in range(20):
        buffer.extend([make_trajectory(1 + (i + k) % 5) for k in range(3)])
        assert len(buffer) == min(capacity, 1 + 3 * (i + 1)) == len(buffer.index()[0])
    expected = [1 + (i + k) % 5 for i in range(20) for k in range(3)][-capacity:]
    assert buffer.index()[1].tolist() == expected


def test_worst_offline_trajectories_leave_first() -> None:
    returns = [t.episode_return for t in select_best_trajectories(make_dataset((5, 3, 7, 2, 6)), 4)]
    assert returns == sorted(returns)  # and the buffer drops the oldest first


# 11. Every task was given 1000 steps


def test_horizon_from_task() -> None:
    for horizon in (3, 5):
        config = make_config({"task.environment_id": CONSTANT, "task.horizon": horizon, "evaluation.episodes": 1})
        actor_critic = make_actor_critic(config, make_dataset())
        assert evaluate(actor_critic, PlannerSettings((3.0,)), config, "x").episode_lengths == [horizon]
        assert actor_critic.policy.embed_timestep.num_embeddings == horizon + 1
    assert all("task.horizon" in facts for facts in load_tasks().values())


# 12. Devices and threads were fixed in the code; checkpoints lacked optimizer, schedule, buffer and random state


@pytest.fixture(scope="module")
def agent_files(tmp_path_factory: pytest.TempPathFactory) -> AgentFiles:
    folder, config, dataset = tmp_path_factory.mktemp("agent"), make_config(), make_dataset((5, 4, 7, 3))
    critic = pretrain_critic(config, dataset, NullTracker(), make_store(folder / "critic"))
    agent = train_actor(config, dataset, critic, NullTracker(), make_store(folder / "actor"))
    return agent, seed_buffer(config, dataset, folder / "buffer.hdf5"), dataset


def test_checkpoint_complete(agent_files: AgentFiles) -> None:
    tuner = make_tuner(make_config(), *agent_files, None)
    tuner.collect()
    tuner.update()
    state = tuner.state_dict()
    actor_critic = {"config", "policy", "critic", "normalizer", "reward_scale", "weighting", "gradient_steps"}
    actor_critic |= {"reward_statistics", "return_percentiles", "history_correlation", "critic_weighting"}
    assert set(state["actor_critic"]) == actor_critic == set(load_state(agent_files[0])["actor_critic"])
    streams = {"sampler", "torch", "cuda", "numpy"}
    assert streams == set(state["random"]) == set(load_state(agent_files[0])["random"])
    for optimizer in (state["critic_optimizer"], state["policy_optimizer"], load_state(agent_files[0])["optimizer"]):
        assert optimizer["state"] and all("exp_avg_sq" in moments for moments in optimizer["state"].values())
    assert len(state["buffer"]["terminated"]) == len(tuner.buffer)
    assert {"environment_steps", "episodes", "step"} <= set(state)


# Later versions: the advantage weight was computed and overwritten, or came from another batch


def test_advantage_weights_belong_to_the_policys_own_tokens() -> None:
    actor_critic = make_lively_actor_critic({"actor.q_coefficient": 0.0, "policy.dropout": 0.0})
    actor_critic.weighting = AdvantageWeighting(2.0, 50.0, 1.0)
    batch = make_tiny_sampler(make_buffer(make_dataset())).sample_sequences(8, 4)
    losses, weights = compute_policy_losses(actor_critic, batch, actor_critic.config.actor)
    expected = (2.0 * actor_critic.critic.compute_advantages(batch.observations, batch.actions)).exp().clamp(max=50.0)
    torch.testing.assert_close(weights, expected)
    assert np.unique(weights[batch.mask > 0].numpy()).size > 8  # one per token
    actor_critic.weighting = AdvantageWeighting(0.0, 50.0, 1.0)
    uniform, _ = compute_policy_losses(actor_critic, batch, actor_critic.config.actor)
    assert losses.total.item() != pytest.approx(uniform.total.item(), rel=1e-3)  # the temperature is read

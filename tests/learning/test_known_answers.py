"""Critics trained where the value is known by pencil: 1 a step for ever, or for ten steps."""

from pathlib import Path

import numpy as np
import pytest
import torch

from support.builders import LinearActor, make_config, make_store
from support.environments import CONSTANT, CONSTANT_ENDING
from vdt.checkpoint.store import load_state
from vdt.critic.critic import Critic
from vdt.data.normalization import Normalizer
from vdt.data.trajectory import Trajectory, TrajectoryDataset
from vdt.environments import make_gymnasium_environment
from vdt.environments.rollout import collect_trajectories
from vdt.tracking import NullTracker
from vdt.training.critic_pretraining import pretrain_critic

DISCOUNT = 0.9


def collect(kind: str) -> TrajectoryDataset:
    """40 episodes of 10 steps with random actions: 10 is the time limit of one kind and the real end of the other."""
    environments = [make_gymnasium_environment(kind, 10) for _ in range(40)]
    return TrajectoryDataset.from_trajectories(
        collect_trajectories(LinearActor(0.0), environments, range(40), noise=0.5)
    )


def train(dataset: TrajectoryDataset, folder: Path, **settings: object) -> tuple[torch.Tensor, torch.Tensor]:
    """V at the observations 0, 0.1 ... 0.9 and min target Q of the action 0 there, each (10,)."""
    config = make_config(
        {
            "critic.gradient_steps": 1500,
            "critic.batch_size": 128,
            "critic.hidden_size": 32,
            "critic.discount": DISCOUNT,
            "critic.target_update_rate": 0.05,
            "task.horizon": 10,
            **{f"task.{name}": value for name, value in settings.items() if name != "n_step"},
            "critic.n_step": settings.get("n_step", 3),
        }
    )
    state = load_state(pretrain_critic(config, dataset, NullTracker(), make_store(folder)))
    critic = Critic(2, 1, config.critic)
    critic.load_state_dict(state["critic"])
    observations = torch.stack([torch.arange(10) / 10, torch.ones(10)], 1)
    seen = Normalizer(**state["normalizer"]).normalize(observations)
    with torch.no_grad():
        return critic.value(seen), critic.compute_min_q(seen, torch.zeros(10, 1))


@pytest.mark.parametrize("n_step", [1, 4])
def test_a_time_limit_gives_the_endless_value(tmp_path: Path, n_step: int) -> None:
    dataset = collect(CONSTANT)
    assert not dataset.terminated.any() and set(dataset.lengths) == {10}
    value, q = train(dataset, tmp_path, n_step=n_step)
    endless = 1 / (1 - DISCOUNT)
    np.testing.assert_allclose(
        value[:5], endless, rtol=0.05
    )  # all that this kind shows, the final observation included
    np.testing.assert_allclose(q[:5], endless, rtol=0.05)


def test_a_real_end_does_not(tmp_path: Path) -> None:
    dataset = collect(CONSTANT_ENDING)
    assert dataset.terminated.all() and set(dataset.lengths) == {10}
    value, q = train(dataset, tmp_path)
    left = 10 - np.arange(10)
    expected = (1 - DISCOUNT**left) / (1 - DISCOUNT)  # 6.5 at the start, 1 before the last step
    np.testing.assert_allclose(value, expected, atol=0.35)
    np.testing.assert_allclose(q, expected, atol=0.35)


def test_a_time_limit_mistaken_for_a_real_end_gives_the_wrong_value(tmp_path: Path) -> None:
    wrong = [Trajectory(t.observations, t.actions, t.rewards, True) for t in collect(CONSTANT)]
    value, _ = train(TrajectoryDataset.from_trajectories(wrong), tmp_path)
    assert float(value[:5].max()) < 0.75 / (1 - DISCOUNT)


def test_reward_scale_and_shift_reach_the_value(tmp_path: Path) -> None:
    # (1 - 3) a step for ever; all returns are equal, so the scale stays 1
    value, q = train(collect(CONSTANT), tmp_path, reward_shift=-3.0, reward_scaling="return_range")
    np.testing.assert_allclose(value[:5], -2 / (1 - DISCOUNT), rtol=0.05)
    np.testing.assert_allclose(q[:5], -2 / (1 - DISCOUNT), rtol=0.05)

"""The offline phase: what its checkpoints hold, that seeds decide everything, and that a kill costs nothing."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from support.builders import (
    Interrupted,
    InterruptingTracker,
    RecordingTracker,
    assert_identical,
    make_config,
    make_dataset,
    make_store,
)
from vdt.agent.actor_critic import ActorCritic
from vdt.agent.agent import Agent, PlannerSettings
from vdt.checkpoint.store import load_state
from vdt.config.layers import config_from_yaml
from vdt.config.schema import Config
from vdt.data.normalization import RETURN_SCALE_UNITS, RewardStatistics
from vdt.data.trajectory import TrajectoryDataset
from vdt.planning.env_model import LearnedModel
from vdt.tracking import NullTracker
from vdt.training.critic_pretraining import pretrain_critic
from vdt.training.offline import make_offline_buffer, make_sampler, train_actor

DATASET = make_dataset((5, 1, 7, 3, 6, 2))
CONFIG = make_config({"task.reward_scaling": "return_range", "task.reward_shift": 0.5})


@pytest.fixture(scope="module")
def critic_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain_critic(CONFIG, DATASET, NullTracker(), make_store(tmp_path_factory.mktemp("critic")))


@pytest.fixture(scope="module")
def actor_path(tmp_path_factory: pytest.TempPathFactory, critic_path: Path) -> Path:
    return train_actor(CONFIG, DATASET, critic_path, NullTracker(), make_store(tmp_path_factory.mktemp("actor")))


# What is in a checkpoint


def test_critic_checkpoint(critic_path: Path) -> None:
    state = load_state(critic_path)
    own = {"critic", "optimizer", "normalizer", "reward_scale", "config", "step", "random", "weighting_place"}
    assert set(state) == own | {"metrics", "versions"}
    assert state["step"] == CONFIG.critic.gradient_steps
    assert config_from_yaml(state["config"]) == CONFIG
    spread = DATASET.episode_returns.max() - DATASET.episode_returns.min()
    assert state["reward_scale"] == pytest.approx(1000 / spread)
    np.testing.assert_allclose(state["normalizer"]["mean"], DATASET.observations.mean(0), rtol=1e-5)


def test_actor_checkpoint_is_a_whole_agent(actor_path: Path, critic_path: Path) -> None:
    state, source = load_state(actor_path), load_state(critic_path)
    assert set(state) == {"actor_critic", "optimizer", "step", "random", "metrics", "versions"}
    actor_critic = ActorCritic.from_state(state["actor_critic"], torch.device("cpu"))
    assert actor_critic.config == CONFIG
    assert actor_critic.gradient_steps == state["step"] == CONFIG.actor.gradient_steps
    assert actor_critic.reward_scale == source["reward_scale"]
    assert_identical(actor_critic.normalizer.state_dict(), source["normalizer"])
    assert actor_critic.weighting.inverse_temperature > 0 and actor_critic.weighting.mean_weight > 0


def test_the_normaliser_has_the_floor_that_is_asked_for(tmp_path: Path) -> None:
    config = make_config({"data.min_observation_std": 50.0, "critic.gradient_steps": 1})
    source = load_state(pretrain_critic(config, DATASET, NullTracker(), make_store(tmp_path)))
    assert source["normalizer"]["std"].tolist() == [50.0] * DATASET.observation_size


def test_the_reward_heads_units_are_the_datas_and_go_with_the_policy(actor_path: Path) -> None:
    expected = RewardStatistics.fit(DATASET, CONFIG.task.return_scale)
    actor_critic = ActorCritic.from_state(load_state(actor_path)["actor_critic"], torch.device("cpu"))
    assert actor_critic.reward_statistics == expected and expected.std != 1.0
    model = Agent(actor_critic, PlannerSettings((12.0, 6.0), 2, "learned"))._env_model
    assert isinstance(model, LearnedModel) and model.reward_statistics == expected


def test_policies_know_the_returns_of_their_data(actor_path: Path) -> None:
    actor_critic = ActorCritic.from_state(load_state(actor_path)["actor_critic"], torch.device("cpu"))
    shares = (0.99, 0.9, 0.75, 0.5)
    expected = [float(f"{np.quantile(DATASET.episode_returns, share):.4g}") for share in shares]
    config = make_config({"planner.returns": "data", "planner.candidates": 4})
    assert PlannerSettings.from_config(config, actor_critic.return_percentiles).candidate_returns == tuple(expected)


def test_checkpoints_of_0_2_0_are_read_in_its_units(actor_path: Path) -> None:
    state = load_state(actor_path)["actor_critic"]
    del state["reward_statistics"], state["return_percentiles"]
    actor_critic = ActorCritic.from_state(state, torch.device("cpu"))
    assert actor_critic.reward_statistics == RETURN_SCALE_UNITS
    actor_critic.reward_statistics = RewardStatistics(1.0, 2.0)
    actor_critic.load_progress(state)  # a training that 0.2.0 began goes on in its units
    assert actor_critic.reward_statistics == RETURN_SCALE_UNITS


def test_observations_are_clipped_in_training_and_acting(tmp_path: Path) -> None:
    config = make_config({"data.observation_clip": 0.5, "critic.gradient_steps": 1, "actor.gradient_steps": 1})
    critic = pretrain_critic(config, DATASET, NullTracker(), make_store(tmp_path / "critic"))
    actor = train_actor(config, DATASET, critic, NullTracker(), make_store(tmp_path / "actor"))
    actor_critic = ActorCritic.from_state(load_state(actor)["actor_critic"], torch.device("cpu"))
    observations = actor_critic.make_buffer(DATASET).matrix[:, : DATASET.observation_size]
    assert float(observations.abs().max()) == 0.5
    agents = [Agent(actor_critic, PlannerSettings((12.0,))) for _ in range(2)]
    for agent in agents:
        agent.begin(1)
    far, farther = (
        agent.act(np.full((1, 2), value, np.float32)) for agent, value in zip(agents, (50.0, 5e6), strict=True)
    )
    assert (far == farther).all()


def test_actor_training_leaves_the_critic_bit_for_bit(actor_path: Path, critic_path: Path) -> None:
    assert_identical(load_state(actor_path)["actor_critic"]["critic"], load_state(critic_path)["critic"])


def test_training_changes_the_networks(actor_path: Path, critic_path: Path, tmp_path: Path) -> None:
    shorter = make_config(
        {"task.reward_scaling": "return_range", "task.reward_shift": 0.5, "critic.gradient_steps": 29}
    )
    other = load_state(pretrain_critic(shorter, DATASET, NullTracker(), make_store(tmp_path / "c")))
    for name, value in load_state(critic_path)["critic"].items():
        assert not torch.equal(value, other["critic"][name]), name
    moments = load_state(actor_path)["optimizer"]["state"]
    assert moments and all(float(m["step"]) == CONFIG.actor.gradient_steps for m in moments.values())


# Targets


def test_buffer_scales_the_critics_rewards_and_not_the_policys() -> None:
    from vdt.data.normalization import Normalizer

    config = make_config({"critic.n_step": 1, "task.reward_shift": 0.5, "task.return_scale": 4.0})
    buffer = make_offline_buffer(config, DATASET, Normalizer.fit(DATASET), 7.0)
    first = DATASET[0]
    rows = buffer.matrix[: len(first)]
    np.testing.assert_allclose(rows[:, 3], first.rewards / 4.0, rtol=1e-6)
    np.testing.assert_allclose(rows[:, 5], (first.rewards + 0.5) * 7.0, rtol=1e-5)
    assert len(buffer) == len(DATASET) and buffer.capacity is None


# Seeds and kills


def run_both(config: Config, dataset: TrajectoryDataset, folder: Path) -> tuple[dict, dict]:
    critic = pretrain_critic(config, dataset, NullTracker(), make_store(folder / "critic"))
    actor = train_actor(config, dataset, critic, NullTracker(), make_store(folder / "actor"))
    return load_state(critic), load_state(actor)


def test_same_seed_gives_bitwise_equal_checkpoints(critic_path: Path, actor_path: Path, tmp_path: Path) -> None:
    torch.manual_seed(12345)  # what happened before must not matter
    torch.rand(7)
    critic, actor = run_both(CONFIG, DATASET, tmp_path)
    assert_identical(critic, load_state(critic_path))
    assert_identical(actor, load_state(actor_path))


def test_another_seed_gives_another_network(critic_path: Path, actor_path: Path, tmp_path: Path) -> None:
    critic, actor = run_both(CONFIG.with_seed(1), DATASET, tmp_path)
    name = "q.ensemble.weights.0"
    assert not torch.equal(critic["critic"][name], load_state(critic_path)["critic"][name])
    name = "predict_reward.weight"
    assert not torch.equal(
        actor["actor_critic"]["policy"][name], load_state(actor_path)["actor_critic"]["policy"][name]
    )


def test_critic_and_actor_draw_from_different_streams() -> None:
    from vdt.data.normalization import Normalizer

    buffer = make_offline_buffer(CONFIG, DATASET, Normalizer.fit(DATASET), 1.0)
    draws = [
        make_sampler(CONFIG.with_seed(seed), buffer, offset).sample_rows(20) for seed in (0, 1) for offset in (1, 2)
    ]
    for i, a in enumerate(draws):
        assert all(not torch.equal(a, b) for b in draws[i + 1 :])


@pytest.mark.parametrize("at", [11, 25])  # before the second checkpoint, and after it
def test_interrupted_and_resumed_critic_is_the_undisturbed_one(at: int, critic_path: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        pretrain_critic(CONFIG, DATASET, InterruptingTracker(at), make_store(tmp_path, every=10))
    torch.manual_seed(999)
    tracker, store = RecordingTracker(), make_store(tmp_path, every=10)
    resumed = pretrain_critic(CONFIG, DATASET, tracker, store)
    assert tracker.metrics[0][0] == (at // 10) * 10 + 1  # it really went on, and did not start over
    assert_identical(load_state(resumed), load_state(critic_path))


@pytest.mark.parametrize("at", [11, 25])
def test_interrupted_and_resumed_actor_is_the_undisturbed_one(
    at: int, critic_path: Path, actor_path: Path, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        train_actor(CONFIG, DATASET, critic_path, InterruptingTracker(at), make_store(tmp_path, every=10))
    torch.manual_seed(999)
    tracker = RecordingTracker()
    resumed = train_actor(CONFIG, DATASET, critic_path, tracker, make_store(tmp_path, every=10))
    assert tracker.metrics[0][0] == (at // 10) * 10 + 1
    assert_identical(load_state(resumed), load_state(actor_path))


def test_another_runs_checkpoint_is_continued_and_left_alone(critic_path: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        pretrain_critic(CONFIG, DATASET, InterruptingTracker(15), make_store(tmp_path / "old", every=10))
    before = {p.name: p.read_bytes() for p in (tmp_path / "old").iterdir()}
    resumed = pretrain_critic(CONFIG, DATASET, NullTracker(), make_store(tmp_path / "new", tmp_path / "old", every=10))
    assert_identical(load_state(resumed), load_state(critic_path))
    assert {p.name: p.read_bytes() for p in (tmp_path / "old").iterdir()} == before


# Numbers


def test_metrics_are_named_and_finite(critic_path: Path, tmp_path: Path) -> None:
    tracker = RecordingTracker()
    train_actor(CONFIG, DATASET, critic_path, tracker, make_store(tmp_path))
    steps, last = [step for step, _ in tracker.metrics], tracker.metrics[-1][1]
    assert steps == list(range(1, CONFIG.actor.gradient_steps + 1))
    for name in ("total_loss", "behavior_loss", "q_term", "gradient_norm", "weight_mean", "weight_effective_fraction"):
        assert math.isfinite(last[f"actor/{name}"])
    # by calibration the weights have mean 1 over the data and the asked share of it counts; windows see late steps more often
    fractions = [numbers["actor/weight_effective_fraction"] for _, numbers in tracker.metrics]
    assert float(np.mean([n["actor/weight_mean"] for _, n in tracker.metrics])) == pytest.approx(1.0, abs=0.3)
    assert float(np.mean(fractions)) > CONFIG.actor.min_effective_sample_fraction - 0.1
    name, path, step, numbers = tracker.checkpoints[-1]
    assert (name, step, numbers) == ("actor-30", 30, last) and path.exists()


def test_baselines_need_no_trained_critic(tmp_path: Path) -> None:
    for method in ("dt", "bc"):
        config = make_config(method=method)
        critic, actor = run_both(config, DATASET, tmp_path / method)
        assert critic["step"] == 0 and actor["step"] == 30
        assert actor["actor_critic"]["weighting"]["inverse_temperature"] == 0

"""A critic that fails its test: the policy then trains, is tuned and acts as a Decision Transformer."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from support.builders import (
    Interrupted,
    InterruptingTracker,
    RecordingTracker,
    assert_identical,
    make_config,
    make_store,
)
from support.environments import COUNTDOWN
from vdt.agent.actor_critic import ActorCritic
from vdt.agent.agent import Agent, PlannerSettings
from vdt.checkpoint.names import DONE
from vdt.checkpoint.store import load_state
from vdt.config.guidance import compute_guidance_strength, tries_second_critic
from vdt.config.schema import Config
from vdt.data.normalization import Normalizer
from vdt.data.trajectory import Trajectory, TrajectoryDataset
from vdt.environments import make_gymnasium_environment
from vdt.environments.rollout import collect_trajectories
from vdt.evaluation.evaluate import evaluate_agents
from vdt.tracking import NullTracker
from vdt.training.critic_pretraining import pretrain_critic
from vdt.training.guidance import compute_step_weights, describe_test, scale_guidance
from vdt.training.offline import make_offline_buffer, make_sampler, train_actor
from vdt.training.online import make_tuner, tune_online
from vdt.training.seeding import seed_buffer

CPU = torch.device("cpu")
DT = {"actor.q_coefficient": 0, "actor.inverse_temperature": 0, "planner.candidates": 1}

MEMORYLESS = {
    "policy.kind": "mlp",
    "actor.next_observation_coefficient": 0,
    "actor.reward_coefficient": 0,
    "planner.env_model": "none",
    "planner.planning_horizon": 1,
    "evaluation.lookahead_horizon": 0,
}


def make_mixture(spread: float) -> TrajectoryDataset:
    """Make 70 episodes of two policies, whose rewards differ by twice the spread and whose observations do not."""
    rng = np.random.default_rng(4)
    return TrajectoryDataset.from_trajectories(
        Trajectory(
            rng.normal(size=(31, 2)).astype(np.float32),
            rng.uniform(-1, 1, (30, 1)).astype(np.float32),
            rng.normal(spread * (number % 2 * 2 - 1), 1, 30).astype(np.float32),
            terminated=True,
        )
        for number in range(70)
    )


MIXTURE, ONE_POLICY = make_mixture(1.0), make_mixture(0.0)


def train(folder: Path, settings: dict[str, Any], dataset: TrajectoryDataset, tracker: Any = None) -> Path:
    config = make_config({"actor.max_history_correlation": 0.15, **settings})
    critic = pretrain_critic(config, dataset, NullTracker(), make_store(folder / "critic"))
    return train_actor(config, dataset, critic, tracker or NullTracker(), make_store(folder / "actor"))


def load(path: Path) -> ActorCritic:
    return ActorCritic.from_state(load_state(path)["actor_critic"], CPU)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy whose critic mixes two policies."""
    return train(tmp_path_factory.mktemp("mixed"), {}, MIXTURE)


def test_policy_becomes_dt_to_the_bit(mixed: Path, tmp_path: Path) -> None:
    assert not load(mixed).is_guided
    plain = train(tmp_path, DT, MIXTURE)
    assert load(plain).history_correlation is None  # nothing asks its critic
    assert_identical(load_state(mixed)["actor_critic"]["policy"], load_state(plain)["actor_critic"]["policy"])
    guided = train(tmp_path / "guided", {"actor.max_history_correlation": 1}, MIXTURE)
    assert load(guided).is_guided
    with pytest.raises(AssertionError):
        assert_identical(load_state(guided)["actor_critic"]["policy"], load_state(plain)["actor_critic"]["policy"])


@pytest.mark.parametrize(
    ("correlation", "scaling", "strength"),
    [
        (None, "linear", 1.0),
        (-0.4, "linear", 1.0),
        (0.0, "linear", 1.0),
        (0.05, "linear", 0.75),
        (0.15, "linear", 0.25),
        (0.2, "linear", 0.0),
        (0.21, "linear", 0.0),
        (0.15, "constant", 1.0),
        (0.21, "constant", 0.0),
    ],
)
def test_strength_falls_to_nothing_at_the_limit(correlation: float | None, scaling: str, strength: float) -> None:
    assert compute_guidance_strength(correlation, 0.2, scaling) == pytest.approx(strength, abs=1e-12)
    assert compute_guidance_strength(correlation, 1.0, "constant") == 1.0  # the test is off


def test_scaled_guidance_is_that_of_smaller_coefficients_to_the_bit(
    mixed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    limit = {"actor.max_history_correlation": 0.95, "actor.min_effective_sample_fraction": 0}
    found = load(train(tmp_path / "scaled", {**limit, "actor.guidance_scaling": "linear"}, MIXTURE))
    correlation = found.history_correlation
    assert correlation is not None and 0.2 < correlation < 0.9
    strength = 1 - correlation / 0.95
    assert found.guidance_strength == strength
    assert f"critic guides with {strength:.2f} of lambda and eta (actor.guidance_scaling): its errors" in caplog.text
    actor = make_config().actor
    smaller = {
        "actor.q_coefficient": repr(strength * actor.q_coefficient),
        "actor.inverse_temperature": repr(strength * actor.inverse_temperature),
    }
    equal = load(train(tmp_path / "smaller", {**limit, **smaller}, MIXTURE))
    assert_identical(found.policy.state_dict(), equal.policy.state_dict())
    with pytest.raises(AssertionError):
        assert_identical(found.policy.state_dict(), load(train(tmp_path / "whole", limit, MIXTURE)).policy.state_dict())
    config = make_config({**limit, "actor.guidance_scaling": "linear"})
    scaled = scale_guidance(config, found, online=False)
    assert scaled.actor.q_coefficient == strength * actor.q_coefficient
    assert scaled.online == config.online
    assert scale_guidance(config, found, online=True) == scaled  # the critic goes on


def test_critic_of_one_policy_guides(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    tracker = RecordingTracker()
    found = load(train(tmp_path, {}, ONE_POLICY, tracker))
    assert found.is_guided
    assert found.history_correlation is not None and abs(found.history_correlation) < 0.15
    assert tracker.metrics[0] == (0, {"critic/history_correlation": found.history_correlation})
    assert (
        f"critic guides: its errors before and after a step correlate by {found.history_correlation:.3f}" in caplog.text
    )


@pytest.mark.parametrize(
    "settings",
    [MEMORYLESS, {"policy.context_length": 1}],
    ids=["memoryless", "one step"],
)
def test_a_policy_of_one_state_is_not_better_off_alone(tmp_path: Path, settings: dict[str, Any]) -> None:
    found = load(train(tmp_path, settings, MIXTURE))
    assert found.history_correlation is None
    assert found.is_guided


def pretrain(folder: Path, settings: dict[str, Any], dataset: TrajectoryDataset, tracker: Any = None) -> dict[str, Any]:
    config = make_config({"actor.max_history_correlation": 0.15, **settings})
    store = make_store(folder, every=10)
    state = load_state(pretrain_critic(config, dataset, tracker or NullTracker(), store))
    assert store.last is not None and (folder / DONE).read_text().strip() == store.last.name
    return state


SECOND = {"critic.second_weighting": "return"}


def test_a_critic_that_fails_is_followed_by_one_of_other_draws(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    found = pretrain(tmp_path / "second", SECOND, MIXTURE)
    assert "episodes drawn by return: the critic before failed its test" in caplog.text
    alone = pretrain(tmp_path / "alone", {"data.trajectory_weighting": "return"}, MIXTURE)
    assert (found["step"], alone["step"], found["weighting_place"]) == (60, 30, 1)
    assert_identical(found["critic"], alone["critic"])
    assert_identical(found["optimizer"], alone["optimizer"])


@pytest.mark.parametrize("settings", [{}, MEMORYLESS, {"actor.max_history_correlation": 1}])
def test_a_critic_that_passes_or_is_not_tested_is_the_only_one(tmp_path: Path, settings: dict[str, Any]) -> None:
    dataset = MIXTURE if settings else ONE_POLICY
    found = pretrain(tmp_path / "second", {**SECOND, **settings}, dataset)
    assert (found["step"], found["weighting_place"]) == (30, 0)
    assert_identical(found["critic"], pretrain(tmp_path / "none", settings, dataset)["critic"])


@pytest.mark.parametrize("at", [15, 31, 45])
def test_a_second_critic_continues_to_the_bit(tmp_path: Path, at: int) -> None:
    whole = pretrain(tmp_path / "whole", SECOND, MIXTURE)
    with pytest.raises(Interrupted):
        pretrain(tmp_path / "cut", SECOND, MIXTURE, InterruptingTracker(at))
    assert not (tmp_path / "cut" / DONE).exists()
    continued = pretrain(tmp_path / "cut", SECOND, MIXTURE)
    assert_identical(continued["critic"], whole["critic"])
    assert_identical(continued["random"], whole["random"])


def test_the_policy_carries_its_critics_draws_to_the_online_phase(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    settings = {**SECOND, "actor.max_history_correlation": 0.15}
    path = train(tmp_path, settings, MIXTURE)
    assert load(path).critic_draws == "return"
    assert "(it drew episodes by return)" in caplog.text
    config = make_config(settings)
    buffer = seed_buffer(config, MIXTURE, tmp_path / "buffer.hdf5")
    tuner = make_tuner(config, path, buffer, MIXTURE, None)
    assert tuner.sampler.draws == {True: "return", False: "length"}
    assert load(train(tmp_path / "one", settings, ONE_POLICY)).critic_draws == "length"


def test_a_second_critic_guides_online_tuning_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    settings = {**SECOND, "data.return_temperature": 0.2}
    path = train(tmp_path / "vdt", settings, MIXTURE)
    second = load(path)
    assert second.has_second_critic and second.is_guided
    assert "critic guides online tuning alone, as a second one does: its errors before" in caplog.text
    plain = train(tmp_path / "dt", {**settings, **DT}, MIXTURE)
    assert_identical(load_state(path)["actor_critic"]["policy"], load_state(plain)["actor_critic"]["policy"])
    config = make_config({"actor.max_history_correlation": 0.15, **settings})
    tuner = make_tuner(config, path, seed_buffer(config, MIXTURE, tmp_path / "buffer.hdf5"), MIXTURE, None)
    assert tuner.config.actor == config.actor and tuner.config.online == config.online
    linear = make_config({"actor.max_history_correlation": 0.15, **settings, "actor.guidance_scaling": "linear"})
    second.config, second.history_correlation = linear, 0.075
    assert scale_guidance(linear, second, online=True).actor.q_coefficient == config.actor.q_coefficient / 2
    assert scale_guidance(linear, second, online=False).actor.q_coefficient == 0
    first = load(train(tmp_path / "first", settings, ONE_POLICY))
    assert not first.has_second_critic


@pytest.mark.parametrize(
    ("settings", "followed"),
    [
        ({"online.environment_steps": 0, "planner.candidates": 1}, False),
        ({"online.environment_steps": 0}, True),
        ({"planner.candidates": 1}, True),
    ],
    ids=["neither", "choice", "online"],
)
def test_a_second_critic_is_trained_where_it_serves(settings: dict[str, Any], followed: bool) -> None:
    assert tries_second_critic(make_config({"actor.max_history_correlation": 0.15, **SECOND, **settings})) == followed


def test_the_reason_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    train(tmp_path, {"actor.gradient_steps": 1}, MIXTURE)
    assert "critic does not guide: its errors before and after a step correlate by 0." in caplog.text
    assert "more than 0.15 (actor.max_history_correlation)" in caplog.text
    assert "; --set actor.max_history_correlation=1 lets it guide anyway" in caplog.text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "not exact yet; the critic has 30 steps and 96% of its gap left: raise critic.gradient_steps. The policy"),
        ({"critic.target_update_rate": 1}, ""),
    ],
    ids=["unfinished", "finished"],
)
def test_an_unfinished_critic_is_said_to_be_one(mixed: Path, settings: dict[str, Any], said: str) -> None:
    actor_critic = load(mixed)
    line = describe_test(make_config({"actor.max_history_correlation": 0.15, **settings}), actor_critic)
    assert (said in line) if said else ("gap" not in line)
    assert line.endswith("lets it guide anyway")


def test_few_data_leave_the_critic_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    few = TrajectoryDataset.from_trajectories([MIXTURE[0], MIXTURE[1]])
    assert load(train(tmp_path, {"actor.gradient_steps": 1}, few)).is_guided
    assert "critic guides: too few episodes are long enough" in caplog.text


def test_it_acts_by_the_first_return(mixed: Path) -> None:
    actor_critic = load(mixed)
    environments = [make_gymnasium_environment(COUNTDOWN, 9)]
    both = [
        collect_trajectories(Agent(actor_critic, settings), environments, [4])[0].actions
        for settings in (PlannerSettings((12.0, 6.0, 3.0), 3, "learned"), PlannerSettings((12.0,)))
    ]
    assert (both[0] == both[1]).all()


def test_all_settings_of_the_evaluation_are_one(mixed: Path) -> None:
    config = load(mixed).config
    reports = evaluate_agents(config, {"offline": mixed}, NullTracker()).policies["offline"]
    assert list(reports) == ["single", "candidates", "lookahead"]
    assert [report.label for report in reports.values()] == [f"offline/{name}" for name in reports]
    assert len({tuple(report.episode_returns) for report in reports.values()}) == 1
    assert all(report.candidate_returns == [12.0] for report in reports.values())


def test_online_tuning_goes_on_without_the_critic(mixed: Path, tmp_path: Path) -> None:
    config: Config = load(mixed).config
    buffer = seed_buffer(config, MIXTURE, tmp_path / "buffer.hdf5")
    tuner = make_tuner(config, mixed, buffer, MIXTURE, None)
    assert tuner.mixed is None  # whose batches are the critic's
    tuned = load_state(tune_online(config, mixed, buffer, MIXTURE, NullTracker(), make_store(tmp_path / "online")))
    before = load_state(mixed)["actor_critic"]
    assert_identical(tuned["actor_critic"]["critic"], before["critic"])
    assert tuned["actor_critic"]["history_correlation"] == before["history_correlation"]
    assert tuned["actor_critic"]["gradient_steps"] > before["gradient_steps"]


def test_policies_of_release_0_2_are_guided(mixed: Path) -> None:
    state = load_state(mixed)["actor_critic"]
    del state["history_correlation"]
    assert ActorCritic.from_state(state, CPU).is_guided


@pytest.mark.parametrize("weighting", ["length", "uniform", "return"])
def test_the_critic_is_tested_on_the_steps_that_it_was_trained_on(weighting: str) -> None:
    config = make_config({"data.trajectory_weighting": weighting})
    dataset = TrajectoryDataset.from_trajectories([*[*MIXTURE][:8], next(iter(MIXTURE.keep_first(9)))])
    buffer = make_offline_buffer(config, dataset, Normalizer.fit(dataset), 1.0)
    weights = compute_step_weights(weighting, config.data.return_temperature, dataset)
    expected = np.repeat(weights, dataset.lengths)
    rows = buffer.list_step_rows(buffer.index()).tolist()
    drawn = make_sampler(config, buffer, 1).sample_rows(60_000, with_target=True).tolist()
    assert chisquare([drawn.count(row) for row in rows], expected / expected.sum() * 60_000).pvalue > 0.001

"""The test of a critic: no correlation where the state says all, one where the past tells who acts."""

import numpy as np
import numpy.typing as npt
import pytest
import torch

from support.builders import make_config
from vdt.agent.actor_critic import make_critic
from vdt.critic.critic import Critic
from vdt.critic.history_correlation import (
    compute_history_correlation,
    compute_last_shares,
    compute_partial_correlation,
    compute_past_errors,
    compute_residuals,
    find_lag,
    measure_history_correlation,
)
from vdt.data.normalization import Normalizer
from vdt.data.trajectory import Trajectory, TrajectoryDataset

DISCOUNT = 0.9
LAG = 5


@pytest.mark.parametrize(("discount", "lag"), [(0.9, 5), (0.99, 50), (0.995, 100), (0.5, 1), (0.0, 1)])
def test_lag_is_half_of_the_horizon(discount: float, lag: int) -> None:
    assert find_lag(discount) == lag


@pytest.mark.parametrize("terminated", [False, True])
def test_residuals_and_past_errors_equal_sums(terminated: bool) -> None:
    rng = np.random.default_rng(1)
    values, rewards = rng.normal(size=13), rng.normal(size=12)
    residuals = compute_residuals(values, rewards, DISCOUNT, terminated=terminated)
    for t in range(12):
        after = 0.0 if terminated else DISCOUNT ** (12 - t) * values[12]
        followed = sum(DISCOUNT ** (k - t) * rewards[k] for k in range(t, 12)) + after
        assert residuals[t] == pytest.approx(followed - values[t])
    past = compute_past_errors(residuals, DISCOUNT, LAG)
    assert len(past) == 12 - LAG
    for t in range(12 - LAG):
        earned = sum(DISCOUNT**k * rewards[t + k] for k in range(LAG))
        assert past[t] == pytest.approx(earned + DISCOUNT**LAG * values[t + LAG] - values[t])


Episodes = list[tuple[npt.NDArray[np.float64], bool]]


def make_residuals(
    policies: list[float], steps: int = 60, episodes: int = 300, value: float = 0.0, *, terminated: bool = False
) -> Episodes:
    """Make residuals of one value of V, where each episode's policy earns its own mean reward beside noise of 1."""
    rng, found = np.random.default_rng(2), []
    for number in range(episodes):
        rewards = rng.normal(policies[number % len(policies)], 1.0, steps)
        residuals = compute_residuals(np.full(steps + 1, value), rewards, DISCOUNT, terminated=terminated)
        found.append((residuals, terminated))
    return found


def test_one_policy_has_no_correlation_and_several_have() -> None:
    # the standard error of 300 x 55 pairs that overlap five times is about 0.02
    one = compute_history_correlation(make_residuals([0.0]), DISCOUNT)
    several = compute_history_correlation(make_residuals([-0.5, 0.5]), DISCOUNT)
    assert one is not None and abs(one) < 0.06
    assert several is not None and several > 0.3


def test_weights_count_steps_as_often_as_the_critic_met_them() -> None:
    episodes = make_residuals([-0.5, 0.5], episodes=60)
    twice = compute_history_correlation([*episodes, *episodes[:20]], DISCOUNT)
    weighted = compute_history_correlation(episodes, DISCOUNT, [2.0] * 20 + [1.0] * 40)
    assert weighted == pytest.approx(twice, rel=1e-9)
    assert weighted != pytest.approx(compute_history_correlation(episodes, DISCOUNT), rel=1e-3)


def test_one_policy_that_counts_alone_has_no_correlation() -> None:
    found = compute_history_correlation(make_residuals([-0.5, 0.5]), DISCOUNT, [1.0, 0.0] * 150)
    assert found is not None and abs(found) < 0.09


@pytest.mark.parametrize("policies", [[0.0], [-0.5, 0.5]])
@pytest.mark.parametrize("error", [-20.0, 7.0])
def test_a_constant_error_of_v_changes_nothing(policies: list[float], error: float) -> None:
    """Neither where episodes end nor where a time limit cuts them, after which V itself stands for what follows."""
    cut = {value: make_residuals(policies, value=value) for value in (0.0, error)}
    ended = {value: make_residuals(policies, value=value, terminated=True) for value in (0.0, error)}
    for kind in (cut, ended, {value: cut[value][:150] + ended[value][150:] for value in cut}):
        true, biased = (compute_history_correlation(kind[value], DISCOUNT) for value in (0.0, error))
        assert biased == pytest.approx(true, abs=1e-9)


def test_partial_correlation_is_that_of_what_a_third_leaves() -> None:
    rng = np.random.default_rng(4)
    given, noise = rng.normal(size=500), rng.normal(size=(2, 500))
    weights = rng.uniform(size=500)
    weights /= weights.sum()
    design = np.stack([np.ones(500), given], 1) * np.sqrt(weights)[:, None]
    left = []
    for values in (3 * given + noise[0], noise[1] + 0.5 * noise[0] - given):
        scaled = values * np.sqrt(weights)
        left.append(scaled - design @ np.linalg.lstsq(design, scaled, rcond=None)[0])
    expected = left[0] @ left[1] / np.sqrt((left[0] @ left[0]) * (left[1] @ left[1]))
    found = compute_partial_correlation(3 * given + noise[0], noise[1] + 0.5 * noise[0] - given, given, weights)
    assert found == pytest.approx(expected) and found > 0.3
    plain = np.corrcoef(noise[0], noise[1])[0, 1]
    assert compute_partial_correlation(noise[0], noise[1], np.ones(500), np.full(500, 1 / 500)) == pytest.approx(plain)


def test_share_of_the_last_value() -> None:
    assert compute_last_shares(3, 0.5, terminated=False).tolist() == [0.125, 0.25, 0.5]
    assert compute_last_shares(3, 0.5, terminated=True).tolist() == [0.0, 0.0, 0.0]


def test_nothing_is_said_of_few_or_short_episodes() -> None:
    assert compute_history_correlation(make_residuals([0.0], steps=LAG), DISCOUNT) is None
    assert compute_history_correlation(make_residuals([0.0], steps=20, episodes=66), DISCOUNT) is None
    assert compute_history_correlation(make_residuals([0.0], steps=20, episodes=67), DISCOUNT) is not None
    assert compute_history_correlation([], DISCOUNT) is None
    assert compute_history_correlation([(np.ones(5000), False)], 1.0) is None


def test_a_perfect_v_of_a_certain_world_has_no_correlation() -> None:
    assert compute_history_correlation([(np.zeros(2000), True)], DISCOUNT) == 0.0


def make_data(*, final_missing: bool = False) -> tuple[Critic, TrajectoryDataset]:
    """Make a random critic, and data of two policies."""
    config = make_config({"critic.discount": DISCOUNT})
    torch.manual_seed(0)
    critic, rng = make_critic(config, torch.device("cpu")), np.random.default_rng(3)
    episodes = [
        Trajectory(
            rng.normal(size=(31, 2)).astype(np.float32),
            rng.uniform(-1, 1, (30, 1)).astype(np.float32),
            rng.normal(2 * (number % 2) - 1, 1, 30).astype(np.float32),
            terminated=number % 3 == 0 and not final_missing,
            final_missing=final_missing,
        )
        for number in range(60)
    ]
    return critic, TrajectoryDataset.from_trajectories(episodes)


@pytest.mark.parametrize("final_missing", [False, True])
def test_measured_in_the_critics_units(final_missing: bool) -> None:
    critic, dataset = make_data(final_missing=final_missing)
    normalizer = Normalizer.fit(dataset)
    found = measure_history_correlation(critic, dataset, normalizer, 0.5, 1.0)
    residuals = []
    for episode in dataset:
        steps = 29 if final_missing else 30
        observations = torch.from_numpy(episode.observations[: steps + 1])
        values = critic.value((observations - normalizer.mean) / normalizer.std).detach().double().numpy()
        rewards = (episode.rewards[:steps].astype(np.float64) + 1.0) * 0.5
        ended = episode.terminated
        residuals.append((compute_residuals(values, rewards, DISCOUNT, terminated=ended), ended))
    assert found == pytest.approx(compute_history_correlation(residuals, DISCOUNT))
    assert found is not None and found > 0.3


def test_a_part_of_large_data_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    critic, dataset = make_data()
    monkeypatch.setattr("vdt.critic.history_correlation.MOST_STEPS", 1300)
    seen: list[int] = []
    whole = type(dataset).__getitem__
    monkeypatch.setattr(type(dataset), "__getitem__", lambda self, index: seen.append(index) or whole(self, index))
    assert measure_history_correlation(critic, dataset, Normalizer.fit(dataset), 1.0, 0.0) is not None
    assert len(seen) == len(set(seen)) == 44  # of 30 steps

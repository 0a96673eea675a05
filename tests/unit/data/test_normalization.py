"""The one crossing between raw and normalised observations, and the critic's reward scale."""

import numpy as np
import pytest
import torch

from support.builders import make_dataset
from vdt.data.normalization import RETURN_SCALE_UNITS, Normalizer, RewardStatistics
from vdt.data.reward_scale import compute_reward_scale, describe_reward_scale
from vdt.data.statistics import describe_observation_doubts
from vdt.data.trajectory import Trajectory, TrajectoryDataset


def test_golden_numbers() -> None:
    # rows 0, 2, 4 (mean 2, variance (4 + 0 + 4) / 3) and a dimension that never moves
    observations = np.float32([[0, 7], [2, 7], [4, 7]])
    trajectory = Trajectory(observations, np.zeros((2, 1), np.float32), np.zeros(2, np.float32), False)
    normalizer = Normalizer.fit(TrajectoryDataset.from_trajectories([trajectory]))
    torch.testing.assert_close(normalizer.mean, torch.tensor([2.0, 7.0]))
    torch.testing.assert_close(normalizer.std, torch.tensor([(8 / 3) ** 0.5, 1.0]))
    seen = normalizer.normalize(torch.tensor([4.0, 9.0]))
    torch.testing.assert_close(seen, torch.tensor([2 / (8 / 3) ** 0.5, 2.0]))


def test_every_row_counts_the_last_observation_too() -> None:
    dataset = make_dataset()
    seen = Normalizer.fit(dataset).normalize(torch.from_numpy(dataset.observations))
    torch.testing.assert_close(seen.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(seen.std(0, correction=0), torch.ones(2), atol=1e-5, rtol=0)


def test_a_floor_keeps_noise_small_and_still_moves_alone() -> None:
    observations = np.float32([[0, 7, 0.25], [2, 7, 0.5], [4, 7, 0.25]])
    trajectory = Trajectory(observations, np.zeros((2, 1), np.float32), np.zeros(2, np.float32), False)
    dataset = TrajectoryDataset.from_trajectories([trajectory])
    torch.testing.assert_close(Normalizer.fit(dataset, 0.5).std, torch.tensor([(8 / 3) ** 0.5, 1.0, 0.5]))


def test_components_in_tiny_units_are_named() -> None:
    observations = np.float32([[0, 7, 1e-7, 0.1], [2, 7, 3e-7, 0.1], [4, 7, 2e-7, 0.1]])
    trajectory = Trajectory(observations, np.zeros((2, 1), np.float32), np.zeros(2, np.float32), False)
    dataset = TrajectoryDataset.from_trajectories([trajectory])
    tiny, still = describe_observation_doubts(dataset)
    assert "below 1e-06, are not scaled" in tiny and tiny.endswith("Counted from 0: 2")
    assert "never change" in still and still.endswith("Counted from 0: 1, 3")
    assert Normalizer.fit(dataset).std[2] == 1.0, "as ever"
    assert describe_observation_doubts(make_dataset()) == []
    trajectory = Trajectory(np.float32([[0.1, 2.0]] * 3), np.zeros((2, 1), np.float32), np.zeros(2, np.float32), False)
    (said,) = describe_observation_doubts(TrajectoryDataset.from_trajectories([trajectory]))
    assert said == still.replace("1, 3", "0, 1"), "what never changes has no tiny unit"


@pytest.mark.parametrize("offset", [0.0, 100.0, 5.4123e6])
def test_offsets_that_hide_what_varies_are_named(offset: float) -> None:
    """As metres of a northing: float32 tells half a metre apart there, and the deviation is 0.3 m."""
    rows = np.random.default_rng(0).normal((0, offset), 0.3, (200, 2))
    trajectory = Trajectory(rows.astype(np.float32), np.zeros((199, 1), np.float32), np.zeros(199, np.float32), False)
    said = describe_observation_doubts(TrajectoryDataset.from_trajectories([trajectory]))
    assert ["rounds away" in one and one.endswith("Counted from 0: 1") for one in said] == [True] * (offset > 1000)


def test_observations_of_any_shape_are_normalised_by_their_last_dimension() -> None:
    normalizer = Normalizer(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0]))
    raw = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
    seen = normalizer.normalize(raw)
    torch.testing.assert_close(seen * normalizer.std + normalizer.mean, raw)


def test_observations_are_clipped_where_they_exceed_and_nowhere_else() -> None:
    normalizer = Normalizer(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 1.0]), clip=10.0)
    raw = torch.tensor([[6.0, -9.9], [6.1, -1e6], [1.3, 0.7]])
    expected = torch.tensor([[10.0, -9.9], [10.0, -10.0], [0.6, 0.7]])
    torch.testing.assert_close(normalizer.to(torch.device("cpu")).normalize(raw), expected)
    free = Normalizer(normalizer.mean, normalizer.std)
    assert torch.equal(free.normalize(raw)[2], normalizer.normalize(raw)[2]) and free.normalize(raw)[1, 1] == -1e6
    assert Normalizer.fit(make_dataset(), clip=3.0).clip == 3.0


def test_state_rebuilds_the_normaliser() -> None:
    normalizer = Normalizer.fit(make_dataset())
    again = Normalizer(**normalizer.state_dict()).to(torch.device("cpu"))
    assert torch.equal(again.mean, normalizer.mean) and torch.equal(again.std, normalizer.std)


def make_rewarded(*episodes: list[float]) -> TrajectoryDataset:
    return TrajectoryDataset.from_trajectories(
        Trajectory(np.zeros((len(r) + 1, 1), np.float32), np.zeros((len(r), 1), np.float32), np.float32(r), False)
        for r in episodes
    )


def test_reward_statistics_golden() -> None:
    # over the scale of 10: 0.1, 0.3 and 0.2, so mean 0.2 and variance (0.01 + 0.01) / 3; final observations have no reward
    statistics = RewardStatistics.fit(make_rewarded([1.0, 3.0], [2.0]), 10.0)
    assert (statistics.mean, statistics.std) == (pytest.approx(0.2), pytest.approx((0.02 / 3) ** 0.5))
    rewards = torch.tensor([[0.1, 0.3], [0.2, 5.0]])
    seen = statistics.standardize(rewards)
    torch.testing.assert_close(seen[0], torch.tensor([-(1.5**0.5), 1.5**0.5]))
    torch.testing.assert_close(statistics.restore(seen), rewards)


def test_constant_rewards_are_only_centred() -> None:
    statistics = RewardStatistics.fit(make_rewarded([0.1] * 5, [0.1] * 3), 1.0)
    assert statistics.std == 1.0 and statistics.mean == pytest.approx(0.1)
    assert RewardStatistics.fit(make_rewarded([0.0, 0.0]), 1.0) == RETURN_SCALE_UNITS
    one_bit_apart = [1000.0, float(np.nextafter(np.float32(1000), np.float32(2000)))]
    assert RewardStatistics.fit(make_rewarded(one_bit_apart), 1.0).std == 1.0


@pytest.mark.parametrize(
    ("scaling", "returns", "expected"),
    [
        ("return_range", [200.0, 2200.0, 700.0], 0.5),  # 1000 / (2200 - 200)
        ("return_range", [-50.0, -10.0], 25.0),  # 1000 / 40
        ("return_range", [3.0, 3.0], 1.0),  # no spread, nothing to scale by
        ("return_range", [-2000.0, -1980.0], 50.0),  # 1 % apart is a range still: 1000 / 20
        ("return_range", [20.0, 20.0 + 6e-7], 1000 / (20.0 + 6e-7)),  # nearly equal: 1000 / 20, not 1.7e9
        ("return_range", [-1000.0, -996.0], 1.0),  # 1000 / 1000, not 250
        ("none", [200.0, 2200.0], 1.0),
    ],
)
def test_reward_scale(scaling: str, returns: list[float], expected: float) -> None:
    assert compute_reward_scale(scaling, np.array(returns)) == expected


def test_a_scale_that_is_not_the_ranges_is_said() -> None:
    (said,) = describe_reward_scale("return_range", np.array([-1000.0, -996.0]))
    assert "differ by 4 only" in said and "reward scale is 1, not 1000 / 4" in said
    assert len(describe_reward_scale("return_range", np.array([20.0, 20.0 + 6e-7]))) == 1
    for scaling, returns in (("none", [1.0, 1.001]), ("return_range", [1.0, 2.0]), ("return_range", [3.0, 3.0, 2.9])):
        assert describe_reward_scale(scaling, np.array(returns)) == []

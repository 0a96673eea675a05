"""The policy's equations (M3): weights and their calibration, behaviour loss, Q term, heads."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from reference.policy_losses import behavior_loss_loop
from support.builders import make_config
from vdt.critic.critic import Critic
from vdt.policy.baseline_losses import compute_magnitude_policy_loss
from vdt.policy.losses import (
    AdvantageWeighting,
    PolicyLosses,
    calibrate_advantage_weighting,
    compute_advantage_weights,
    compute_behavior_loss,
    compute_effective_sample_fraction,
    compute_next_observation_loss,
    compute_policy_loss,
    compute_q_term,
    compute_reward_loss,
    compute_spread,
    masked_mean,
)

# Weights


def test_advantage_weights_golden() -> None:
    # exp(1 * 0), exp(1 * ln 2), exp(1 * 10) clipped at 4
    weights = compute_advantage_weights(torch.tensor([0.0, math.log(2), 10.0]), 1.0, 4.0)
    torch.testing.assert_close(weights, torch.tensor([1.0, 2.0, 4.0]))
    # eta 2: exp(-2 ln 2) = 1/4
    weights = compute_advantage_weights(torch.tensor([-math.log(2)]), 2.0, 4.0)
    torch.testing.assert_close(weights, torch.tensor([0.25]))


def test_weights_are_divided_by_their_mean_over_the_data() -> None:
    weights = AdvantageWeighting(1.0, 4.0, mean_weight=2.0).compute_weights(torch.tensor([0.0, math.log(2), 10.0]))
    torch.testing.assert_close(weights, torch.tensor([0.5, 1.0, 2.0]))


def test_weights_of_huge_advantages_are_finite() -> None:
    weights = compute_advantage_weights(torch.tensor([1e6, -1e6]), 10.0, 100.0)
    assert weights.tolist() == pytest.approx([100.0, 0.0])


def test_temperature_zero_is_uniform() -> None:
    assert compute_advantage_weights(torch.randn(9), 0.0, 100.0).tolist() == [1.0] * 9
    weighting = calibrate_advantage_weighting(torch.randn(9), 0.0, 100.0, 0.9)
    assert weighting.compute_weights(torch.randn(5)).tolist() == [1.0] * 5


def test_effective_sample_fraction_golden() -> None:
    # (1 + 1 + 2)^2 / (3 * (1 + 1 + 4)) = 16 / 18
    assert compute_effective_sample_fraction(torch.tensor([1.0, 1.0, 2.0])) == pytest.approx(16 / 18)
    assert compute_effective_sample_fraction(torch.full((7,), 3.0)) == pytest.approx(1.0)
    assert compute_effective_sample_fraction(torch.tensor([0.0, 0.0, 5.0, 0.0])) == pytest.approx(0.25)


def make_advantages(scale: float = 1.0) -> Tensor:
    return scale * torch.randn(20_000, generator=torch.Generator().manual_seed(0))


def test_calibration_takes_the_temperature_per_standard_deviation() -> None:
    # standard deviation 2, so 0.5 per deviation is 0.25 per unit; log-normal weights: fraction exp(-0.5^2) = 0.78 > 0.5
    weighting = calibrate_advantage_weighting(make_advantages(2.0), 0.5, 100.0, 0.5)
    assert weighting.inverse_temperature == pytest.approx(0.25, rel=0.02)
    assert weighting.mean_weight == pytest.approx(math.exp(0.5**2 / 2), rel=0.02)  # mean of a log-normal
    weights = weighting.compute_weights(make_advantages(2.0))
    assert float(weights.mean()) == pytest.approx(1.0, abs=1e-4)
    assert compute_effective_sample_fraction(weights) == pytest.approx(math.exp(-(0.5**2)), rel=0.02)


def test_a_spread_that_tails_do_not_move() -> None:
    # quartiles 1 and 3 of 0 … 4; one outlier makes the standard deviation anything
    assert compute_spread(torch.tensor([0.0, 1, 2, 3, 4]), "iqr") == pytest.approx(2 / 1.34898, rel=1e-5)
    assert compute_spread(torch.tensor([0.0, 1, 2, 3, 4e6]), "iqr") == pytest.approx(2 / 1.34898, rel=1e-5)
    assert compute_spread(torch.tensor([0.0, 1, 2, 3, 4]), "std") == pytest.approx(2.5**0.5)
    normal = make_advantages(2.0)
    assert compute_spread(normal, "iqr") == pytest.approx(compute_spread(normal, "std"), rel=0.02)
    tailed = torch.cat([normal, torch.full((len(normal) // 100,), 200.0)])
    weightings = [calibrate_advantage_weighting(tailed, 0.1, 100.0, 0.0, scale=scale) for scale in ("iqr", "std")]
    assert weightings[0].inverse_temperature == pytest.approx(0.1 / 2.0, rel=0.05)
    assert weightings[1].inverse_temperature < 0.1 / 10


def test_calibration_lowers_the_temperature_until_enough_samples_count() -> None:
    # exp(-eta^2) = 0.6 at eta = sqrt(-ln 0.6) = 0.715 per deviation; 3 was asked for
    weighting = calibrate_advantage_weighting(make_advantages(), 3.0, 1e6, 0.6)
    assert weighting.inverse_temperature == pytest.approx(math.sqrt(-math.log(0.6)), rel=0.03)
    weights = weighting.compute_weights(make_advantages())
    assert compute_effective_sample_fraction(weights) == pytest.approx(0.6, abs=1e-3)
    assert float(weights.mean()) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("mean", [0.0, 0.3, 0.5, 0.6])
def test_clipped_weights_are_no_way_around_the_floor(mean: float) -> None:
    """Where V lags behind Q most weights are clipped at a large temperature, and the effective fraction is high again."""
    advantages = torch.randn(20_000, generator=torch.Generator().manual_seed(0)) + mean
    weighting = calibrate_advantage_weighting(advantages, 10.0, 100.0, 0.5)
    assert weighting.inverse_temperature == pytest.approx(0.83, abs=0.02)
    assert compute_effective_sample_fraction(weighting.compute_weights(advantages)) == pytest.approx(0.5, abs=0.001)
    assert calibrate_advantage_weighting(advantages, 0.5, 100.0, 0.5).inverse_temperature == pytest.approx(
        0.5, rel=0.02
    )


@pytest.mark.parametrize("eta", [0.5, 3.0])
def test_calibrated_weights_do_not_depend_on_the_unit_of_reward(eta: float) -> None:
    plain, large = make_advantages(), make_advantages(1000.0)
    first = calibrate_advantage_weighting(plain, eta, 20.0, 0.5).compute_weights(plain)
    second = calibrate_advantage_weighting(large, eta, 20.0, 0.5).compute_weights(large)
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)


def test_calibration_survives_advantages_without_spread() -> None:
    weights = calibrate_advantage_weighting(torch.zeros(50), 3.0, 100.0, 0.5).compute_weights(torch.zeros(5))
    assert weights.tolist() == pytest.approx([1.0] * 5)


# Behaviour loss


def test_behavior_loss_golden() -> None:
    # squared errors summed over dimensions: 1 and 4 + 4; weights 2 and 0.5: (2 * 1 + 0.5 * 8) / 2 real steps
    predicted, actions = torch.tensor([[[1.0, 0.0], [2.0, 2.0]]]), torch.zeros(1, 2, 2)
    weights = torch.tensor([[2.0, 0.5]])
    assert float(compute_behavior_loss(predicted, actions, weights, torch.ones(1, 2))) == 3.0
    # only the first step is real: 2 * 1 / 1
    assert float(compute_behavior_loss(predicted, actions, weights, torch.tensor([[1.0, 0.0]]))) == 2.0


def test_behavior_loss_equals_the_loop_with_a_weight_per_token() -> None:
    torch.manual_seed(0)
    predicted, actions, advantages = torch.randn(4, 5, 3), torch.randn(4, 5, 3), torch.randn(4, 5)
    mask = (torch.arange(5) < torch.tensor([[5], [2], [1], [4]])).float()
    weights = AdvantageWeighting(1.5, 3.0, 1.0).compute_weights(advantages)
    expected = behavior_loss_loop(predicted, actions, advantages, mask, 1.5, 3.0)
    assert float(compute_behavior_loss(predicted, actions, weights, mask)) == pytest.approx(expected, rel=1e-5)
    shuffled = compute_behavior_loss(predicted, actions, weights.flip(1), mask)  # each weight belongs to its own token
    assert float(shuffled) != pytest.approx(expected, rel=1e-2)


def test_no_gradient_flows_into_the_weights() -> None:
    weights = torch.ones(1, 2, requires_grad=True)
    predicted = torch.randn(1, 2, 3, requires_grad=True)
    compute_behavior_loss(predicted, torch.zeros(1, 2, 3), weights, torch.ones(1, 2)).backward()
    assert weights.grad is None and predicted.grad is not None


def test_masked_mean_golden() -> None:
    # (1 + 2 + 4) / 3, the 100 is padding; nothing real gives 0 and not NaN
    values, mask = torch.tensor([[1.0, 2.0], [4.0, 100.0]]), torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    assert float(masked_mean(values, mask)) == pytest.approx(7 / 3)
    assert float(masked_mean(values, torch.zeros(2, 2))) == 0.0


# Q term


def test_q_term_golden() -> None:
    # Q = 3 a1 + 4 a2: gradient (3, 4), its norm 5. Real steps have Q = 7 and 3: mean 5, over 5 = 1. The 100s are padding.
    actions = torch.tensor([[[1.0, 1.0], [1.0, 0.0], [100.0, 100.0]]], requires_grad=True)
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    term = compute_q_term(actions @ torch.tensor([3.0, 4.0]), actions, mask)
    assert term.item() == pytest.approx(1.0)
    term.backward()
    # each of 2 real steps: (3, 4) / 5 / 2
    assert actions.grad is not None
    torch.testing.assert_close(actions.grad, torch.tensor([[[0.3, 0.4], [0.3, 0.4], [0.0, 0.0]]]))


def test_q_term_of_unequal_gradients_golden() -> None:
    # Q = a at one step and 7 a at the other: g = sqrt((1 + 49) / 2) = 5
    actions = torch.tensor([[[2.0], [1.0]]], requires_grad=True)
    term = compute_q_term(actions[..., 0] * torch.tensor([1.0, 7.0]), actions, torch.ones(1, 2))
    assert term.item() == pytest.approx((2 + 7) / 2 / 5)
    term.backward()
    assert actions.grad is not None
    torch.testing.assert_close(actions.grad, torch.tensor([[[0.1], [0.7]]]))  # 1 / 5 / 2, 7 / 5 / 2


def test_q_terms_gradient_is_the_literal_one() -> None:
    """d/dphi of -lambda * mean(min_i Q_i(s, pi)) / g, with g held constant, for networks."""
    torch.manual_seed(0)
    critic = Critic(3, 2, make_config().critic)
    policy = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2), torch.nn.Tanh())
    observations = torch.randn(4, 6, 3)
    mask = (torch.arange(6) < torch.tensor([[6], [1], [3], [5]])).float()
    coefficient = 0.3

    actions = policy(observations)
    (-coefficient * compute_q_term(critic.compute_min_q(observations, actions), actions, mask)).backward()
    got = [p.grad.clone() for p in policy.parameters()]
    policy.zero_grad()

    actions = policy(observations)
    squares = []  # of dQ/da, one real step at a time
    for b, k in mask.nonzero().tolist():
        action = actions[b, k].detach().requires_grad_()
        critic.compute_min_q(observations[b, k][None], action[None]).sum().backward()
        squares.append(action.grad.square().sum())
    g = torch.stack(squares).mean().sqrt()
    mean_q = critic.compute_min_q(observations, actions)[mask > 0].mean()
    (-coefficient * mean_q / g).backward()
    for mine, parameter in zip(got, policy.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, atol=1e-6, rtol=1e-4)
    term = compute_q_term(critic.compute_min_q(observations, actions), actions, mask)
    assert term.item() == pytest.approx((mean_q / g).item(), rel=1e-4)


@pytest.mark.parametrize("coefficient", [0.1, 0.5])
@pytest.mark.parametrize("slope", [0.001, 1000.0])
def test_q_term_shifts_the_minimiser_by_half_its_coefficient(coefficient: float, slope: float) -> None:
    # argmin ||a - b||^2 - lambda Q / g: 2 (a - b) = lambda grad Q / g, so a = b + lambda / 2 along (0.6, 0.8)
    data = torch.tensor([[[0.1, -0.2]]])
    actions = data.clone().requires_grad_()
    optimizer = torch.optim.SGD([actions], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        min_q = slope * (actions @ torch.tensor([3.0, 4.0]))
        loss = compute_behavior_loss(actions, data, torch.ones(1, 1), torch.ones(1, 1))
        (loss - coefficient * compute_q_term(min_q, actions, torch.ones(1, 1))).backward()
        optimizer.step()
    expected = data + coefficient / 2 * torch.tensor([0.6, 0.8])
    torch.testing.assert_close(actions.detach(), expected, atol=1e-5, rtol=1e-4)


def test_q_term_leaves_no_gradient_in_the_critic() -> None:
    critic = Critic(3, 2, make_config().critic).requires_grad_(True)  # as during online tuning
    actions = torch.rand(2, 3, 2, requires_grad=True)
    compute_q_term(critic.compute_min_q(torch.randn(2, 3, 3), actions), actions, torch.ones(2, 3)).backward()
    assert all(p.grad is None for p in critic.parameters())


def test_a_flat_q_moves_nothing() -> None:
    actions = torch.rand(1, 2, 2, requires_grad=True)
    term = compute_q_term((actions * 0).sum(-1) + 5, actions, torch.ones(1, 2))
    term.backward()
    assert math.isfinite(term.item()) and actions.grad is not None and not actions.grad.any()


# Heads of the look-ahead


def make_step() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One real step and one of padding, two action dimensions, Q(a) = 3 a_0 + 4 a_1."""
    predicted = torch.tensor([[[0.5, 0.0], [7.0, 7.0]]], requires_grad=True)
    min_q = (predicted * torch.tensor([3.0, 4.0])).sum(-1)
    return predicted, torch.zeros(1, 2, 2), torch.tensor([[2.0, 9.0]]), min_q, torch.tensor([[1.0, 0.0]])


def test_policy_loss_golden() -> None:
    # w ||pi - a||^2 = 2 * 0.25; Q = 1.5, g = 5: (0.5 - 0.5 * 0.3) / 2; its gradient (2 * 2 * 0.5, 0) / 2 - 0.5 (3, 4) / 5 / 2
    predicted, *rest = make_step()
    losses = compute_policy_loss(predicted, *rest, q_coefficient=0.5)
    assert [losses.total.item(), losses.behavior.item(), losses.q_term.item()] == pytest.approx([0.175, 0.5, 0.3])
    losses.total.backward()
    assert predicted.grad is not None
    torch.testing.assert_close(predicted.grad[0], torch.tensor([[0.85, -0.2], [0.0, 0.0]]))


def test_policy_loss_by_magnitude_golden() -> None:
    # 0.5 / 2 - 0.5 * 1.5 / 1.5, and with Q as it is 0.5 / 2 - 0.5 * 1.5
    totals = [
        compute_magnitude_policy_loss(*make_step(), q_coefficient=0.5, normalization=word).total.item()
        for word in ("magnitude", "none")
    ]
    assert totals == pytest.approx([-0.25, -0.5])


@pytest.mark.parametrize("compute", [compute_policy_loss, compute_magnitude_policy_loss])
def test_policy_losses_whose_terms_are_off(compute: Callable[..., PolicyLosses]) -> None:
    predicted, actions, weights, _, mask = make_step()
    losses = compute(predicted, actions, weights, None, mask, q_coefficient=0.0)
    assert [losses.total.item(), losses.q_term.item()] == [0.25, 0.0]
    nothing = torch.full_like(weights, torch.nan)  # is not looked at
    losses = compute(predicted, actions, nothing, None, mask, q_coefficient=0.0, behavior_coefficient=0.0)
    assert [losses.total.item(), losses.behavior.item()] == [0.0, 0.0]


def test_head_losses_golden() -> None:
    # observations: errors (1, 3) -> (1 + 9) / 2 = 5; the second step is padding
    predicted, mask = torch.tensor([[[1.0, 3.0], [50.0, 50.0]]]), torch.tensor([[1.0, 0.0]])
    assert float(compute_next_observation_loss(predicted, torch.zeros(1, 2, 2), mask)) == 5.0
    # rewards: 3^2
    assert float(compute_reward_loss(torch.tensor([[3.0, 50.0]]), torch.zeros(1, 2), mask)) == 9.0


def test_weights_of_one_advantage_and_of_underflowing_ones_are_finite() -> None:
    assert compute_spread(torch.tensor([3.0]), "std") == 0.0
    assert calibrate_advantage_weighting(torch.tensor([0.0]), 1.0, 100.0, 0.5).compute_weights(torch.zeros(1)) == 1.0
    far = torch.tensor([-200.0, -200.1, -199.9])  # exp of each, per deviation, is 0 in single precision
    weights = calibrate_advantage_weighting(far, 1.0, 100.0, 0.5).compute_weights(far)
    assert torch.isfinite(weights).all() and weights.max() > 0

"""The stochastic head: its density, its draws, its place in a policy and in a rollout."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from reference.method_terms import log_density_loop
from support.builders import make_actor_critic, make_config, make_dataset
from vdt.agent.agent import Agent, PlannerSettings
from vdt.environments import make_environment
from vdt.environments.rollout import collect_trajectories
from vdt.policy.gaussian import GaussianHead, NormalGaussian, SquashedGaussian, choose_actions
from vdt.policy.networks import make_policy_network

CONFIG = make_config(method="odt")


def make_gaussian(*shape: int, seed: int = 0) -> SquashedGaussian:
    torch.manual_seed(seed)
    return SquashedGaussian(torch.randn(*shape), torch.randn(*shape) - 1, torch.tensor(0.5))


def test_density_equals_the_literal_one() -> None:
    gaussian, actions = make_gaussian(5, 3), torch.rand(5, 3) * 1.9 - 0.95
    expected = [
        log_density_loop(a.tolist(), m.tolist(), s.tolist())
        for a, m, s in zip(actions, gaussian.means, gaussian.log_stds, strict=True)
    ]
    np.testing.assert_allclose(gaussian.compute_log_density(actions), expected, rtol=1e-4)


def test_density_integrates_to_one() -> None:
    gaussian = SquashedGaussian(torch.tensor([0.4]), torch.tensor([-0.7]), torch.tensor(1.0))
    edges = torch.linspace(-1, 1, 200_001, dtype=torch.float64)
    middles = ((edges[1:] + edges[:-1]) / 2).float()[:, None]
    assert float(gaussian.compute_log_density(middles).exp().mean() * 2) == pytest.approx(1.0, abs=1e-3)


def test_draws_have_the_density_they_say() -> None:
    actions, said = make_gaussian(7, 4, 2).sample(torch.Generator().manual_seed(3))
    assert actions.abs().max() <= 1 and said.shape == (7, 4)
    inside = (actions.abs() < 0.99).all(-1)
    torch.testing.assert_close(
        make_gaussian(7, 4, 2).compute_log_density(actions)[inside], said[inside], atol=1e-3, rtol=1e-3
    )


def test_draws_come_from_the_generator_and_spread_as_they_should() -> None:
    wide = SquashedGaussian(torch.full((20_000, 1), 0.3), torch.tensor(-1.0), torch.tensor(1.0))
    first, _ = wide.sample(torch.Generator().manual_seed(1))
    torch.manual_seed(99)
    again, _ = wide.sample(torch.Generator().manual_seed(1))
    assert torch.equal(first, again)
    raw = torch.atanh(first)
    assert float(raw.mean()) == pytest.approx(0.3, abs=0.01)
    assert float(raw.std()) == pytest.approx(math.exp(-1), rel=0.02)


def test_gradients_pass_through_draws() -> None:
    means, log_stds = torch.zeros(3, 2, requires_grad=True), torch.zeros(3, 2, requires_grad=True)
    actions, densities = SquashedGaussian(means, log_stds, torch.tensor(1.0)).sample()
    for value in (actions, densities):
        gradients = torch.autograd.grad(value.sum(), (means, log_stds), retain_graph=True)
        assert all(gradient.any() for gradient in gradients)
    (moved,) = torch.autograd.grad(actions.sum(), means)
    torch.testing.assert_close(moved, 1 - actions.detach().square())  # of tanh


def test_standard_deviations_keep_to_odts_range() -> None:
    head = GaussianHead(2, 1, 1.0)
    for bias, log_std in ((-100.0, -5.0), (100.0, 2.0)):
        head.predict_log_std.bias.data.fill_(bias)
        assert float(head(torch.zeros(2), torch.zeros(1)).log_stds.detach()) == pytest.approx(log_std)


def test_actions_at_the_edge_have_a_finite_density() -> None:
    gaussian = SquashedGaussian(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor(1.0))
    assert gaussian.compute_log_density(torch.tensor([[1.0, -1.0]])).isfinite().all()


def test_normal_density_equals_the_formula_and_draws_are_clipped() -> None:
    # N(0.5; 0.2, 0.3^2) = exp(-0.5) / (0.3 sqrt(2 pi)), N(-1; 0.9, 1) = exp(-1.805) / sqrt(2 pi): log of the product
    gaussian = NormalGaussian(torch.tensor([0.2, 0.9]), torch.tensor([0.3, 1.0]).log())
    expected = -0.5 - math.log(0.3) - 1.805 - math.log(2 * math.pi)
    assert float(gaussian.compute_log_density(torch.tensor([0.5, -1.0]))) == pytest.approx(expected, rel=1e-5)
    wide = NormalGaussian(torch.full((20_000, 1), 0.5), torch.tensor(-1.0))
    drawn, said = wide.sample(torch.Generator().manual_seed(1))
    inside = drawn[:, 0].abs() < 1  # 8.7 % are not: P(z > 0.5 e)
    assert float(inside.float().mean()) == pytest.approx(0.913, abs=0.01) and float(drawn.max()) == 1
    torch.testing.assert_close(wide.compute_log_density(drawn)[inside], said[inside])


@pytest.mark.parametrize("kind", ["transformer", "mlp"])
def test_a_normal_heads_middle_is_its_action_and_its_deviations_are_free(kind: str) -> None:
    torch.manual_seed(0)
    policy = make_policy_network(2, 3, 8, dataclasses.replace(CONFIG.policy, kind=kind, head="normal")).eval()
    output = policy(torch.randn(3, 4, 2), torch.randn(3, 4, 3), torch.randn(3, 4), torch.arange(4).expand(3, 4))
    assert torch.equal(output.actions, output.distribution.means)
    assert torch.equal(output.distribution.log_stds, torch.zeros(3, 4, 3))  # 1 at the start, whatever is observed
    assert policy.gaussian.log_std.shape == (3,)


@pytest.mark.parametrize("kind", ["transformer", "mlp"])
def test_the_deterministic_action_is_the_middle(kind: str) -> None:
    torch.manual_seed(0)
    policy = make_policy_network(2, 1, 8, dataclasses.replace(CONFIG.policy, kind=kind)).eval()
    inputs = (torch.randn(3, 4, 2), torch.randn(3, 4, 1), torch.randn(3, 4), torch.arange(4).expand(3, 4))
    output = policy(*inputs)
    torch.testing.assert_close(output.actions, torch.tanh(output.distribution.means))
    assert output.distribution.temperature.item() == pytest.approx(0.1)
    plain = make_policy_network(2, 1, 8, dataclasses.replace(CONFIG.policy, kind=kind, head="deterministic"))
    assert plain(*inputs).distribution is None and plain.gaussian is None
    drawn = choose_actions(output.actions, output.distribution, explore=True)
    assert not torch.equal(drawn, output.actions) and drawn.shape == output.actions.shape
    assert choose_actions(output.actions, output.distribution, explore=False) is output.actions
    assert choose_actions(output.actions, None, explore=True) is output.actions


def test_exploring_draws_and_evaluating_does_not() -> None:
    actor_critic = make_actor_critic(CONFIG, make_dataset())
    settings = PlannerSettings((12.0,))

    def act(explore: bool, seed: int) -> np.ndarray:
        torch.manual_seed(seed)
        agent = Agent(actor_critic, settings, explore=explore)
        return collect_trajectories(agent, [make_environment(CONFIG.task)], [4])[0].actions

    assert (act(False, 0) == act(False, 1)).all()
    assert (act(True, 0) != act(True, 1)).any()
    assert (act(True, 1) == act(True, 1)).all()

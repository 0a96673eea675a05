"""Terms of the methods beside VDT against their literal versions."""

import dataclasses
import math

import pytest
import torch

from reference.method_terms import (
    best_episodes_loop,
    conservative_loss_loop,
    likelihood_loss_loop,
    log_density_loop,
    scaled_q_term_loop,
)
from support.builders import make_actor_critic, make_buffer, make_config, make_dataset, make_tiny_sampler
from vdt.agent.actor_critic import ActorCritic
from vdt.critic.losses import compute_conservative_loss
from vdt.data.batches import SequenceBatch
from vdt.policy.baseline_losses import (
    compute_displacement_term,
    compute_likelihood_loss,
    compute_scaled_q_term,
    compute_temperature_loss,
)
from vdt.policy.gaussian import NormalGaussian, SquashedGaussian
from vdt.policy.losses import AdvantageWeighting
from vdt.training.offline import calibrate_weighting
from vdt.training.update import compute_policy_losses, compute_weights, make_policy_optimizer, take_policy_step

MASK = (torch.arange(4) < torch.tensor([[4], [1], [3]])).float()


def make_parts(method: str, weighting: AdvantageWeighting, **changes: object) -> tuple[ActorCritic, SequenceBatch]:
    config = make_config(changes, method=method)
    actor_critic = make_actor_critic(config, make_dataset(), weighting)
    if config.critic.bootstrap == "policy":
        actor_critic.add_target_policy()
    torch.manual_seed(5)
    return actor_critic, make_tiny_sampler(make_buffer(make_dataset())).sample_sequences(9, 4)


UNIFORM = AdvantageWeighting(0.0, 100.0, 1.0)

# Share of the data


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.4, 0.75, 0.999])
def test_best_share_equals_the_loop(fraction: float) -> None:
    data = make_dataset((5, 1, 7, 3, 6, 2, 4, 4))
    kept = data.keep_best(fraction)
    expected = best_episodes_loop(data.episode_returns.tolist(), data.lengths.tolist(), fraction)
    assert [t.episode_return for t in kept] == [data[e].episode_return for e in expected]
    assert kept.steps <= fraction * data.steps or len(kept) == 1
    assert data.keep_best(1.0) is data


# Losses


def test_normal_heads_loss_is_the_weighted_likelihood() -> None:
    weighting = AdvantageWeighting(2.0, 1.5, 1.0)
    actor_critic, batch = make_parts("iql", weighting)
    actor_critic.policy.gaussian.log_std.data.fill_(-0.4)
    losses, weights = compute_policy_losses(actor_critic, batch, actor_critic.config.actor)
    assert weights.max() <= 1.5 and weights.std() > 0
    means = actor_critic.policy(batch.observations, batch.actions, batch.returns_to_go, batch.timesteps).actions
    variance = math.exp(-0.8)
    errors = (batch.actions - means).square().sum(-1) / (2 * variance)
    densities = -errors - batch.actions.shape[-1] * (0.5 * math.log(2 * math.pi) - 0.4)
    expected = likelihood_loss_loop(densities.tolist(), weights.tolist(), batch.mask.tolist())
    assert losses.total.item() == losses.behavior.item() == pytest.approx(expected, rel=1e-4)
    assert losses.entropy is None


@pytest.mark.parametrize("normalization", ["gradient", "magnitude", "none"])
def test_normal_heads_q_term_is_that_of_the_mean_action(normalization: str) -> None:
    changes = {"actor.q_coefficient": 0.5, "actor.q_normalization": normalization, "policy.dropout": 0.0}
    terms = []
    for head in ("normal", "deterministic"):
        actor_critic, batch = make_parts("iql", UNIFORM, **changes, **{"policy.head": head})
        losses, _ = compute_policy_losses(actor_critic, batch, actor_critic.config.actor)
        terms.append((losses.q_term.item(), losses.total.item(), losses.behavior.item()))
        if head == "normal":  # a displacement beside a likelihood is per twice the variance
            deviation = float(actor_critic.policy.gaussian.log_std.detach().exp().square().mean())
            scale = 1 / (2 * deviation) if normalization == "gradient" else 1.0
    assert terms[0][0] == pytest.approx(terms[1][0] * scale, rel=1e-5)
    assert terms[0][1] == pytest.approx(terms[0][2] - 0.5 * terms[0][0], rel=1e-5)


@pytest.mark.parametrize("kind", ["normal", "squashed"])
@pytest.mark.parametrize("deviation", [0.1, 0.3])
def test_beside_a_likelihood_lambda_is_a_displacement_too(kind: str, deviation: float) -> None:
    """Data at (0.1, -0.2), Q rising along (3, 4): the mean action ends lambda/2 along (0.6, 0.8), whatever the width."""
    data, mask = torch.tensor([[[0.1, -0.2]]]), torch.ones(1, 1)
    means = (data if kind == "normal" else torch.atanh(data)).clone().requires_grad_()
    width = torch.full_like(data, math.log(deviation))
    optimizer = torch.optim.SGD([means], lr=0.1 * deviation**2)
    for _ in range(400):
        optimizer.zero_grad()
        gaussian = (
            NormalGaussian(means, width) if kind == "normal" else SquashedGaussian(means, width, torch.tensor(0.0))
        )
        actions = means if kind == "normal" else torch.tanh(means)
        term = compute_displacement_term(gaussian, actions @ torch.tensor([3.0, 4.0]), actions, mask)
        (compute_likelihood_loss(gaussian.compute_log_density(data), mask, mask) - 0.1 * term).backward()
        optimizer.step()
    moved = (means if kind == "normal" else torch.tanh(means)).detach() - data
    torch.testing.assert_close(moved, torch.tensor([[[0.03, 0.04]]]), atol=2e-4 if kind == "normal" else 2e-3, rtol=0)


def test_a_squashed_gaussian_may_follow_the_q_gradient_at_its_mean() -> None:
    changes = {"policy.head": "gaussian", "actor.q_coefficient": 0.3, "policy.dropout": 0.0}
    actor_critic, batch = make_parts("vdt", UNIFORM, **changes)
    terms = []
    for _ in range(2):  # draws differ, the Q term does not
        losses, _ = compute_policy_losses(actor_critic, batch, actor_critic.config.actor)
        terms.append((losses.q_term.item(), losses.entropy.item()))
    assert terms[0][0] == terms[1][0] and terms[0][1] != terms[1][1]
    output = actor_critic.policy(batch.observations, batch.actions, batch.returns_to_go, batch.timesteps)
    q = actor_critic.critic.compute_min_q(batch.observations, output.actions)
    expected = compute_displacement_term(output.distribution, q, output.actions, batch.mask)
    assert terms[0][0] == pytest.approx(expected.item(), rel=1e-5)
    losses.total.backward()
    assert all(p.grad is None for p in actor_critic.critic.parameters())


def test_the_actor_follows_the_first_q_itself_and_leaves_it_alone() -> None:
    actor_critic, batch = make_parts("td3bc", UNIFORM)
    assert actor_critic.config.actor.q_source == "q1"
    losses, _ = compute_policy_losses(actor_critic, batch, actor_critic.config.actor)
    actions = actor_critic.policy(batch.observations, batch.actions, batch.returns_to_go, batch.timesteps).actions
    q = actor_critic.critic.q(batch.observations, actions)[0]
    expected = scaled_q_term_loop(q.tolist(), batch.mask.tolist())
    assert losses.q_term.item() == pytest.approx(expected, rel=1e-4)
    targets = actor_critic.critic.compute_min_q(batch.observations, actions)
    assert losses.q_term.item() != pytest.approx(scaled_q_term_loop(targets.tolist(), batch.mask.tolist()), rel=1e-3)
    losses.total.backward()
    assert all(p.grad is None for p in actor_critic.critic.parameters())
    assert all(p.grad is not None for p in actor_critic.policy.parameters())


def test_likelihood_loss_equals_the_loop() -> None:
    torch.manual_seed(0)
    densities, weights = torch.randn(3, 4), torch.rand(3, 4)
    expected = likelihood_loss_loop(densities.tolist(), weights.tolist(), MASK.tolist())
    assert float(compute_likelihood_loss(densities, weights, MASK)) == pytest.approx(expected, rel=1e-5)


def test_scaled_q_term_equals_the_loop_and_holds_its_scale() -> None:
    torch.manual_seed(0)
    q = (torch.randn(3, 4) * 50 + 10).requires_grad_()
    term = compute_scaled_q_term(q, MASK, "magnitude")
    assert term.item() == pytest.approx(scaled_q_term_loop(q.tolist(), MASK.tolist()), rel=1e-5)
    term.backward()
    magnitude = float(q.detach()[MASK > 0].abs().mean())
    assert q.grad is not None
    torch.testing.assert_close(q.grad, MASK / (8 * magnitude))  # 8 real steps; mean |Q| is held constant
    assert compute_scaled_q_term(q, MASK, "none").item() == pytest.approx(float(q.detach()[MASK > 0].mean()), rel=1e-5)


@pytest.mark.parametrize(("entropy", "direction"), [(-1.0, -1), (-5.0, 1)])
def test_temperature_falls_while_entropy_is_above_its_target(entropy: float, direction: int) -> None:
    temperature, measured = torch.tensor(0.5, requires_grad=True), torch.tensor(entropy, requires_grad=True)
    loss = compute_temperature_loss(temperature, measured, 3)  # the target is -3
    assert loss.item() == pytest.approx(0.5 * (entropy + 3))
    loss.backward()
    assert temperature.grad is not None and -float(temperature.grad) * direction > 0
    assert measured.grad is None


def test_conservative_loss_equals_the_loop() -> None:
    torch.manual_seed(0)
    q, proposed, densities = torch.randn(2, 5), torch.randn(2, 6, 5), torch.randn(6, 5, requires_grad=True)
    expected = conservative_loss_loop(q.tolist(), proposed.tolist(), densities.tolist())
    loss = compute_conservative_loss(q, proposed, densities)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert not loss.requires_grad


# Objectives of whole methods


@pytest.mark.parametrize("coefficient", [1.0, 2.0])
def test_td3bc_objective_is_the_papers(coefficient: float) -> None:
    """-2.5 mean Q / mean |Q| + mean squared error over dimensions."""
    actor_critic, batch = make_parts("td3bc", UNIFORM, **{"actor.behavior_coefficient": coefficient})
    losses, _ = compute_policy_losses(actor_critic, batch, actor_critic.config.actor)
    actions = actor_critic.policy(batch.observations, batch.actions, batch.returns_to_go, batch.timesteps).actions
    q1 = actor_critic.critic.q(batch.observations, actions)[0]
    real = batch.mask > 0
    error = (actions - batch.actions)[real].square().mean()
    expected = coefficient * error - 2.5 * scaled_q_term_loop(q1.tolist(), batch.mask.tolist())
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_magnitude_divides_no_q_by_the_action_dimensions() -> None:
    config = make_config({"task.action_size": 2}, method="td3bc")
    data = make_dataset((5, 4), action_size=2)
    actor_critic = make_actor_critic(config, data, UNIFORM)
    batch = make_tiny_sampler(make_buffer(data)).sample_sequences(6, 4)
    losses, _ = compute_policy_losses(actor_critic, batch, config.actor)
    assert losses.total.item() == pytest.approx((losses.behavior / 2 - 2.5 * losses.q_term).item(), rel=1e-5)


def test_awac_weights_are_by_the_advantage_over_the_policys_own_action() -> None:
    actor_critic, batch = make_parts("awac", AdvantageWeighting(3.0, 100.0, 1.0))
    output = actor_critic.policy(batch.observations, batch.actions, batch.returns_to_go, batch.timesteps)
    weights = compute_weights(actor_critic, batch, output)
    q = actor_critic.critic.target_q(batch.observations, batch.actions).detach()
    own = actor_critic.critic.target_q(batch.observations, output.actions).detach()
    for b, k in batch.mask.nonzero().tolist():
        advantage = min(q[:, b, k].tolist()) - min(own[:, b, k].tolist())
        assert float(weights[b, k]) == pytest.approx(min(math.exp(3 * advantage), 100.0), rel=1e-4)
    assert not weights.requires_grad


def test_iql_takes_its_temperature_as_it_is() -> None:
    actor_critic, batch = make_parts("iql", AdvantageWeighting(3.0, 100.0, 1.0))
    sampler = make_tiny_sampler(make_buffer(make_dataset()))
    assert (
        calibrate_weighting(actor_critic.config, actor_critic.critic, sampler) == actor_critic.weighting
    )  # nothing is fitted
    output = actor_critic.policy(batch.observations, batch.actions, batch.returns_to_go, batch.timesteps)
    weights = compute_weights(actor_critic, batch, output)
    advantages = actor_critic.critic.compute_advantages(batch.observations, batch.actions)
    torch.testing.assert_close(weights, (3 * advantages).exp().clamp(max=100.0))


def make_seeded_losses(
    actor_critic: ActorCritic, batch: SequenceBatch
) -> tuple[object, torch.Tensor, torch.Tensor, object]:
    """Losses, and the draw and density that they used."""
    torch.manual_seed(8)
    losses, _ = compute_policy_losses(actor_critic, batch, actor_critic.config.actor)
    torch.manual_seed(8)
    output = actor_critic.policy(batch.observations, batch.actions, batch.returns_to_go, batch.timesteps)
    return (losses, *output.distribution.sample(), output.distribution)


def test_odt_objective_is_the_papers() -> None:
    """Negative log-likelihood - temperature * entropy, and the temperature's own loss."""
    actor_critic, batch = make_parts("odt", UNIFORM, **{"policy.dropout": 0.0})
    losses, _, densities, gaussian = make_seeded_losses(actor_critic, batch)
    real = batch.mask.nonzero().tolist()
    logs = [
        log_density_loop(batch.actions[b, k].tolist(), gaussian.means[b, k].tolist(), gaussian.log_stds[b, k].tolist())
        for b, k in real
    ]
    entropy = -sum(densities[b, k].item() for b, k in real) / len(real)
    likelihood = -sum(logs) / len(logs)
    assert losses.behavior.item() == pytest.approx(likelihood, rel=1e-4)
    assert losses.entropy.item() == pytest.approx(entropy, rel=1e-4)
    assert losses.total.item() == pytest.approx(likelihood - 0.1 * entropy + 0.1 * (entropy + 1), rel=1e-4)


def test_cql_actor_is_sacs() -> None:
    """Temperature * log pi - Q at drawn actions; no imitation."""
    actor_critic, batch = make_parts("cql", UNIFORM)
    losses, actions, densities, _ = make_seeded_losses(actor_critic, batch)
    real = batch.mask > 0
    q = actor_critic.critic.compute_min_q(batch.observations, actions)
    expected = (1.0 * densities - q)[real].mean() + 1.0 * (-densities[real].mean() + 1)
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-4)
    assert losses.behavior.item() == 0


def test_temperature_reaches_its_loss_alone() -> None:
    actor_critic, batch = make_parts("odt", UNIFORM, **{"policy.dropout": 0.0, "actor.gradient_clip": 1e-3})
    parameter = actor_critic.policy.gaussian.log_temperature
    losses, _, _, _ = make_seeded_losses(actor_critic, batch)
    losses.total.backward()
    # d/d log alpha of alpha (H + A) is alpha (H + A)
    wanted = 0.1 * (losses.entropy.item() + 1)
    assert float(parameter.grad) == pytest.approx(wanted, rel=1e-4)
    torch.manual_seed(8)
    take_policy_step(
        actor_critic, torch.optim.SGD(actor_critic.policy.parameters(), lr=0.0), batch, actor_critic.config.actor
    )
    assert float(parameter.grad) == pytest.approx(wanted, rel=1e-4)  # and is not clipped with the network's


def test_behaviour_that_is_off_is_not_computed() -> None:
    actor_critic, batch = make_parts("cql", UNIFORM)
    spoilt = dataclasses.replace(batch, actions=torch.full_like(batch.actions, math.nan))
    actor_critic.policy.eval()
    losses, _ = compute_policy_losses(actor_critic, spoilt, actor_critic.config.actor)
    assert losses.total.isfinite()


def test_stochastic_policies_report_entropy_and_temperature_and_others_do_not() -> None:
    for method, expected in (("odt", True), ("bc", False)):
        actor_critic, batch = make_parts(method, UNIFORM)
        metrics = take_policy_step(
            actor_critic, make_policy_optimizer(actor_critic, 1e-3, 0.0), batch, actor_critic.config.actor
        )
        assert ("entropy" in metrics, "temperature" in metrics) == (expected, expected)

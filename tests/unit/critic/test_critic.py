"""The critic's equations (M1, M2), its networks, and where gradients go."""

import dataclasses

import pytest
import torch
from torch import nn

from reference.networks import make_separate_networks
from support.builders import make_config
from vdt.critic.critic import Critic
from vdt.critic.losses import compute_expectile_loss, compute_q_loss, compute_q_targets, compute_value_loss
from vdt.critic.networks import MLPEnsemble, TwinQ, ValueNetwork
from vdt.data.batches import TransitionBatch

CONFIG = make_config().critic


def make_critic(seed: int = 0, **changes: object) -> Critic:
    """A critic whose targets differ from its Q, as in the middle of training."""
    torch.manual_seed(seed)
    critic = Critic(3, 2, dataclasses.replace(CONFIG, **changes))  # type: ignore[arg-type]
    for parameter in critic.target_q.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    return critic


def make_batch(size: int = 16, seed: int = 1) -> TransitionBatch:
    torch.manual_seed(seed)
    discounts = torch.where(torch.rand(size) < 0.3, 0.0, 0.81)
    return TransitionBatch(
        torch.randn(size, 3), torch.randn(size, 2), torch.randn(size), torch.randn(size, 3), discounts
    )


# M1


def test_expectile_loss_golden() -> None:
    # 0.7 * 2^2 where Q is above V, 0.3 * 1^2 where it is below
    torch.testing.assert_close(compute_expectile_loss(torch.tensor([2.0, -1.0]), 0.7), torch.tensor([2.8, 0.3]))
    # 0.5: half the squared error on both sides
    torch.testing.assert_close(compute_expectile_loss(torch.tensor([2.0, -2.0]), 0.5), torch.tensor([2.0, 2.0]))


def test_value_loss_golden() -> None:
    # min over the twins [1, 2]; errors [1, -2]; (0.7 * 1 + 0.3 * 4) / 2
    target_q = torch.tensor([[1.0, 5.0], [3.0, 2.0]])
    assert float(compute_value_loss(target_q, torch.tensor([0.0, 4.0]), 0.7)) == pytest.approx(0.95)


@pytest.mark.parametrize(("expectile", "expected"), [(0.5, 0.5), (0.9, 0.9), (0.1, 0.1)])
def test_value_loss_is_smallest_at_the_expectile(expectile: float, expected: float) -> None:
    # Q is 0 or 1 equally often: 0.9 (1 - v) = 0.1 v at v = 0.9
    target_q = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    grid = torch.linspace(0, 1, 101)
    losses = torch.stack([compute_value_loss(target_q, v.expand(2), expectile) for v in grid])
    assert float(grid[losses.argmin()]) == pytest.approx(expected, abs=0.011)


# M2


def test_q_targets_golden() -> None:
    # 2 + 0.25 * 8; after a real end the value does not count
    targets = compute_q_targets(torch.tensor([2.0, 2.0]), torch.tensor([0.25, 0.0]), torch.tensor([8.0, 8.0]))
    assert targets.tolist() == [4.0, 2.0]


def test_q_loss_golden() -> None:
    # twins [1, 2] and [3, 4] against 2, 2: (1 + 0) / 2 + (1 + 4) / 2
    assert float(compute_q_loss(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([2.0, 2.0]))) == 3.0


class First(nn.Module):
    """V is an observation's first number."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return observations[..., 0]


class Apart(nn.Module):
    """The twins are the first number plus and minus the action."""

    def forward(self, observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        return torch.stack([observations[..., 0] + actions[..., 0], observations[..., 0] - actions[..., 0]])


def test_losses_of_a_batch_golden() -> None:
    critic = Critic(1, 1, dataclasses.replace(CONFIG, expectile=0.7))
    critic.value, critic.q, critic.target_q = First(), Apart(), Apart()  # type: ignore[assignment]
    states = torch.tensor([[1.0], [2.0]])
    # V = 1, 2; twins (2, 4) and (0, 0); y = 1 + 0.5 * 4 and 1 + 0
    batch = TransitionBatch(states, states, torch.ones(2), torch.tensor([[4.0], [9.0]]), torch.tensor([0.5, 0.0]))
    losses = critic.compute_losses(batch)
    assert losses.value_loss.item() == pytest.approx((0.3 * 1 + 0.3 * 4) / 2)  # min 0, 0 lies below V
    assert losses.q_loss.item() == pytest.approx((1 + 9) / 2 + (9 + 1) / 2)
    assert [losses.q_mean.item(), losses.advantage_mean.item(), losses.advantage_std.item()] == [0.0, -1.5, 0.5]


def test_each_loss_trains_its_own_network() -> None:
    critic, batch = make_critic(), make_batch()
    losses = critic.compute_losses(batch)
    losses.value_loss.backward()
    assert all(p.grad is not None for p in critic.value.parameters())
    assert all(p.grad is None for p in [*critic.q.parameters(), *critic.target_q.parameters()])
    critic.zero_grad()
    critic.compute_losses(batch).q_loss.backward()
    assert all(p.grad is not None for p in critic.q.parameters())
    assert all(p.grad is None for p in [*critic.value.parameters(), *critic.target_q.parameters()])


def test_min_q_and_advantages_use_the_targets() -> None:
    critic, batch = make_critic(), make_batch()
    target_q = critic.target_q(batch.observations, batch.actions)
    smaller = torch.minimum(target_q[0], target_q[1])
    min_q = critic.compute_min_q(batch.observations, batch.actions)
    torch.testing.assert_close(min_q, smaller)
    assert not torch.allclose(min_q, critic.q(batch.observations, batch.actions).amin(0))
    advantages = critic.compute_advantages(batch.observations, batch.actions)
    torch.testing.assert_close(advantages, smaller - critic.value(batch.observations))
    assert not advantages.requires_grad


# Networks


@pytest.mark.parametrize(("activation", "layer"), [("relu", nn.ReLU), ("mish", nn.Mish)])
@pytest.mark.parametrize("hidden_layers", [1, 2, 3])
def test_ensemble_equals_separate_networks(activation: str, layer: type[nn.Module], hidden_layers: int) -> None:
    torch.manual_seed(0)
    ensemble = MLPEnsemble(3, 4, 8, hidden_layers, activation)
    inputs = torch.randn(10, 4)
    expected = torch.stack([net(inputs)[:, 0] for net in make_separate_networks(ensemble, layer)])
    torch.testing.assert_close(ensemble(inputs), expected)
    assert not torch.allclose(expected[0], expected[1])  # members start different


@pytest.mark.parametrize("members", [1, 2, 5])
def test_the_smallest_of_all_members_counts(members: int) -> None:
    critic = make_critic(members=members)
    observations, actions = torch.randn(6, 3), torch.randn(6, 2)
    q = critic.target_q(observations, actions)
    assert q.shape == (members, 6)
    assert torch.equal(critic.compute_min_q(observations, actions), q.min(0).values)
    torch.testing.assert_close(critic.compute_q1(observations, actions), critic.q(observations, actions)[0])


def test_layer_norms_stand_before_the_activations() -> None:
    torch.manual_seed(0)
    ensemble, inputs = MLPEnsemble(2, 4, 8, 2, "relu", layer_norm=True), torch.randn(10, 4)
    for parameter in (*ensemble.gains, *ensemble.shifts):
        parameter.data += 0.3 * torch.randn_like(parameter)
    for member in range(2):
        hidden = inputs
        for layer in range(2):
            norm = nn.LayerNorm(8)
            norm.weight.data, norm.bias.data = ensemble.gains[layer][member, 0], ensemble.shifts[layer][member, 0]
            hidden = norm(hidden @ ensemble.weights[layer][member] + ensemble.biases[layer][member]).relu()
        expected = (hidden @ ensemble.weights[2][member] + ensemble.biases[2][member])[:, 0]
        torch.testing.assert_close(ensemble(inputs)[member], expected)
    torch.testing.assert_close(ensemble.evaluate_first(inputs), ensemble(inputs)[0])


def test_initial_weights_are_spread_like_torchs_linear_layers() -> None:
    torch.manual_seed(0)
    ensemble = MLPEnsemble(2, 16, 64, 2, "relu")
    for weight, bias in zip(ensemble.weights, ensemble.biases, strict=True):
        bound = weight.shape[1] ** -0.5
        assert 0.8 * bound < weight.abs().max().item() <= bound
        assert bias.abs().max().item() <= bound


def test_leading_dimensions_are_kept() -> None:
    torch.manual_seed(0)
    twin, value = TwinQ(3, 2, 8, 2, "relu"), ValueNetwork(3, 8, 2, "relu")
    observations, actions = torch.randn(4, 5, 3), torch.randn(4, 5, 2)
    q = twin(observations, actions)
    assert (q.shape, value(observations).shape) == ((2, 4, 5), (4, 5))
    torch.testing.assert_close(q[:, 1, 2], twin(observations[1, 2:3], actions[1, 2:3])[:, 0])
    torch.testing.assert_close(value(observations)[3, 4], value(observations[3, 4:5])[0])


def test_losses_detach_their_targets_themselves() -> None:
    target_q, value = torch.randn(2, 4, requires_grad=True), torch.randn(4, requires_grad=True)
    q, targets = torch.randn(2, 4, requires_grad=True), torch.randn(4, requires_grad=True)
    (compute_value_loss(target_q, value, 0.7) + compute_q_loss(q, targets)).backward()
    assert target_q.grad is None and targets.grad is None
    assert value.grad is not None and q.grad is not None


def test_target_networks_start_equal_and_are_not_trained() -> None:
    critic = Critic(3, 2, CONFIG)
    for a, b in zip(critic.q.parameters(), critic.target_q.parameters(), strict=True):
        assert torch.equal(a, b) and a is not b and not b.requires_grad
    trainable = {id(p) for p in critic.trainable_parameters()}
    assert trainable == {id(p) for p in [*critic.q.parameters(), *critic.value.parameters()]}


@pytest.mark.parametrize("members", [2, 3])
def test_doubt_is_the_distance_of_the_extreme_target_qs(members: int) -> None:
    critic = make_critic(members=members)
    observations, actions = torch.randn(5, 3), torch.randn(5, 2)
    q = torch.stack([critic.target_q(observations[k : k + 1], actions[k : k + 1])[:, 0] for k in range(5)])
    assert q.shape == (5, members)
    expected = torch.tensor([max(row) - min(row) for row in q.tolist()])
    torch.testing.assert_close(critic.compute_disagreement(observations, actions), expected)

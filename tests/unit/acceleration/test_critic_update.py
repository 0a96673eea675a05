"""The critic's update written out, and on static buffers, against the textbook: autograd, Adam, a loop over the targets."""

import copy
import dataclasses
import io

import pytest
import torch

from support.builders import assert_identical, clone_state, make_config
from vdt.acceleration.capture import CapturedCriticUpdate
from vdt.acceleration.convert import accelerate, make_critic_update
from vdt.acceleration.critic_passes import flatten_parameters
from vdt.acceleration.critic_update import FusedCriticUpdate, compute_q_gradient, compute_value_gradient
from vdt.critic.critic import Critic, CriticUpdate
from vdt.critic.losses import compute_q_loss, compute_value_loss
from vdt.data.batches import TransitionBatch

CONFIG = make_config({"critic.hidden_size": 24, "critic.target_update_rate": 0.1, "critic.expectile": 0.7}).critic
RATE = 1e-3


def make_critic(**changes: object) -> Critic:
    torch.manual_seed(0)
    critic = Critic(3, 2, dataclasses.replace(CONFIG, **changes))  # type: ignore[arg-type]
    for parameter in critic.target_q.parameters():  # targets that are behind, as in the middle of training
        parameter.data += 0.1 * torch.randn_like(parameter)
    return critic


def make_batch(rows: int, seed: int) -> TransitionBatch:
    random = torch.Generator().manual_seed(seed)
    observations, after = (torch.randn(rows, 3, generator=random) for _ in range(2))
    discounts = 0.9 * torch.randint(0, 2, (rows,), generator=random)
    actions = 2 * torch.rand(rows, 2, generator=random) - 1
    return TransitionBatch(observations, actions, torch.randn(rows, generator=random), after, discounts)


@pytest.mark.parametrize("hidden_layers", [1, 2, 3])
@pytest.mark.parametrize("activation", ["relu", "mish"])
@pytest.mark.parametrize("kind", [FusedCriticUpdate, CapturedCriticUpdate])
def test_updates_equal_autograd_and_adam(kind: type[CriticUpdate], activation: str, hidden_layers: int) -> None:
    ours = make_critic(activation=activation, hidden_layers=hidden_layers)
    theirs, start = copy.deepcopy(ours), clone_state(ours)
    update, plain = kind(ours, RATE), CriticUpdate(theirs, RATE)
    assert_identical(clone_state(ours), start)  # laying the parameters out changes none of them
    for step in range(20):
        batch = make_batch(32 if step < 10 else 17, step)  # another size is another set of buffers
        metrics, expected = vars(update.update(batch)), vars(plain.update(batch))
        assert metrics.keys() == expected.keys()
        for name, value in metrics.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=name)
        if step == 0:
            for mine, autograds in zip(ours.trainable_parameters(), theirs.trainable_parameters(), strict=True):
                torch.testing.assert_close(mine.grad, autograds.grad, rtol=1e-5, atol=1e-6)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=0, atol=1e-6)
        assert not torch.equal(value, start[name])


@pytest.mark.parametrize("kind", [CriticUpdate, FusedCriticUpdate, CapturedCriticUpdate])
def test_metrics_are_those_before_the_step(kind: type[CriticUpdate]) -> None:
    critic, batch = make_critic(), make_batch(16, 1)
    before = copy.deepcopy(critic)
    metrics = vars(kind(critic, RATE).update(batch))
    with torch.no_grad():
        min_q = torch.minimum(*before.target_q(batch.observations, batch.actions))
        advantage = min_q - before.value(batch.observations)
    assert float(metrics["q_mean"]) == pytest.approx(float(min_q.mean()), rel=1e-5)
    assert float(metrics["advantage_mean"]) == pytest.approx(float(advantage.mean()), abs=1e-6)
    assert float(metrics["advantage_std"]) == pytest.approx(float(advantage.std(correction=0)), rel=1e-5)


@pytest.mark.parametrize("kind", [CriticUpdate, FusedCriticUpdate, CapturedCriticUpdate])
def test_metrics_of_one_update_are_not_overwritten_by_the_next(kind: type[CriticUpdate]) -> None:
    critic = make_critic()
    optimizer = kind(critic, RATE)
    first = vars(optimizer.update(make_batch(8, 1)))
    kept = {name: float(value) for name, value in first.items()}
    optimizer.update(make_batch(8, 2))
    assert {name: float(value) for name, value in first.items()} == kept


@pytest.mark.parametrize("kind", [CriticUpdate, FusedCriticUpdate, CapturedCriticUpdate])
def test_a_batch_of_one_gives_numbers(kind: type[CriticUpdate]) -> None:
    metrics = vars(kind(make_critic(), RATE).update(make_batch(1, 1)))
    assert all(value.isfinite() for value in metrics.values())


def test_gradients_of_the_losses_are_autograds() -> None:
    torch.manual_seed(0)
    target_q, value = torch.randn(2, 9), torch.randn(9, requires_grad=True)
    q, targets = torch.randn(2, 9, requires_grad=True), torch.randn(9)
    (expected,) = torch.autograd.grad(compute_value_loss(target_q, value, 0.7), value)
    torch.testing.assert_close(compute_value_gradient(target_q, value.detach(), 0.7), expected)
    (expected,) = torch.autograd.grad(compute_q_loss(q, targets), q)
    torch.testing.assert_close(compute_q_gradient(q.detach(), targets), expected)


def test_updates_of_five_members_equal_autograd() -> None:
    ours, batch = make_critic(members=5), make_batch(16, 3)
    theirs = copy.deepcopy(ours)
    for update in (FusedCriticUpdate(ours, RATE), CriticUpdate(theirs, RATE)):
        for _ in range(5):
            update.update(batch)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=0, atol=1e-6)


def test_layer_norms_are_trained_by_autograd_and_this_is_said(caplog: pytest.LogCaptureFixture) -> None:
    critic, runtime = make_critic(layer_norm=True), make_config().runtime
    with caplog.at_level("INFO", logger="vdt"):
        update = make_critic_update(accelerate(critic, runtime), RATE, runtime)
    assert type(update) is CriticUpdate and "layer_norm is trained by autograd" in caplog.text
    before = clone_state(critic)
    update.update(make_batch(16, 3))
    assert all(not torch.equal(critic.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize("kind", [FusedCriticUpdate, CapturedCriticUpdate])
def test_descend_follows_autograd_on_the_same_vectors(kind: type[CriticUpdate]) -> None:
    ours, batch = make_critic(), make_batch(16, 3)
    theirs = copy.deepcopy(ours)
    update, plain = kind(ours, RATE), CriticUpdate(theirs, RATE)
    for _ in range(3):
        losses = ours.compute_losses(batch)
        update.descend(losses.value_loss + losses.q_loss)
        update.update_targets()
        plain.update(batch)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [CriticUpdate, FusedCriticUpdate, CapturedCriticUpdate])
def test_targets_move_by_their_rate_after_the_step(kind: type[CriticUpdate]) -> None:
    critic, batch = make_critic(target_update_rate=0.25), make_batch(16, 1)
    before = clone_state(critic.target_q)
    kind(critic, RATE).update(batch)
    for name, value in critic.target_q.state_dict().items():
        torch.testing.assert_close(value, 0.75 * before[name] + 0.25 * critic.q.state_dict()[name])  # the rest stays


@pytest.mark.parametrize("kind", [CriticUpdate, FusedCriticUpdate, CapturedCriticUpdate])
def test_a_saved_update_goes_on_to_the_bit(kind: type[CriticUpdate]) -> None:
    critic = make_critic()
    optimizer = kind(critic, RATE)
    optimizer.update(make_batch(16, 1))
    file = io.BytesIO()
    torch.save({"critic": critic.state_dict(), "optimizer": optimizer.state_dict()}, file)
    optimizer.update(make_batch(16, 2))
    file.seek(0)
    state, again = torch.load(file, weights_only=True), make_critic()
    resumed = kind(again, RATE)
    again.load_state_dict(state["critic"])
    resumed.load_state_dict(state["optimizer"])
    resumed.update(make_batch(16, 2))
    assert_identical(clone_state(again), clone_state(critic))


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize(
    ("before", "after"), [(FusedCriticUpdate, CapturedCriticUpdate), (CapturedCriticUpdate, FusedCriticUpdate)]
)
def test_an_update_goes_on_as_that_of_another_device(
    before: type[CriticUpdate], after: type[CriticUpdate], steps: int
) -> None:
    critic = make_critic()
    optimizer = before(critic, RATE)
    for step in range(steps):
        optimizer.update(make_batch(16, step))
    file, again = io.BytesIO(), make_critic()
    torch.save({"critic": critic.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    state, resumed = torch.load(file, weights_only=True), after(again, 0.5)
    again.load_state_dict(state["critic"])
    resumed.load_state_dict(state["optimizer"])
    for step in range(2):
        optimizer.update(make_batch(16, 9 + step))
        resumed.update(make_batch(16, 9 + step))
    for name, value in critic.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=1e-6)


def test_flattened_parameters_share_one_vector() -> None:
    critic = make_critic()
    parameters = critic.trainable_parameters()
    flat = flatten_parameters(parameters, gradients=True)
    flat.fill_(2.0)
    assert flat.grad is not None
    flat.grad.fill_(3.0)
    for parameter in parameters:
        assert bool((parameter == 2).all()) and parameter.grad is not None and bool((parameter.grad == 3).all())
        assert parameter.data_ptr() % 64 == flat.data_ptr() % 64, "each begins a cache line"

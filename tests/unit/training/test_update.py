"""One gradient step: the laws of the policy's objective (M3) and where gradients go."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from reference.policy_losses import behavior_loss_loop, decision_transformer_loss_loop, poster_loss_loop
from support.builders import (
    RecordingTracker,
    assert_identical,
    clone_state,
    make_actor_critic,
    make_buffer,
    make_config,
    make_dataset,
    make_store,
    make_tiny_sampler,
)
from vdt.agent.actor_critic import ActorCritic
from vdt.checkpoint.store import DivergenceError, load_state
from vdt.config.layers import parse_overrides
from vdt.data.batches import SequenceBatch, TransitionBatch
from vdt.data.normalization import RewardStatistics
from vdt.experiments.resolve import resolve_config
from vdt.policy.losses import AdvantageWeighting
from vdt.system.home import ROOT
from vdt.training.loop import read_metrics, run_gradient_steps
from vdt.training.offline import calibrate_weighting
from vdt.training.update import (
    PolicyUpdate,
    choose_losses,
    compute_learning_rate,
    compute_policy_losses,
    compute_weight_statistics,
    make_policy_optimizer,
    set_learning_rate,
    take_policy_step,
)

CONFIG = make_config({"policy.dropout": 0.0, "actor.q_coefficient": 0.3, "actor.gradient_clip": 0.0})
IMAGINES_NOTHING = {"planner.env_model": "none", "planner.planning_horizon": 1, "evaluation.lookahead_horizon": 0}
UNIFORM = AdvantageWeighting(0.0, 100.0, 1.0)
WEIGHTED = AdvantageWeighting(1.5, 3.0, 1.2)


def make_parts(weighting: AdvantageWeighting = WEIGHTED) -> tuple[ActorCritic, SequenceBatch, TransitionBatch]:
    dataset = make_dataset((5, 1, 7, 3, 6, 2))
    sampler = make_tiny_sampler(make_buffer(dataset))
    actor_critic = make_actor_critic(CONFIG, dataset, weighting)
    for parameter in actor_critic.policy.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return actor_critic, sampler.sample_sequences(12, 4), sampler.sample_transitions(12)


def gradients(module: nn.Module, loss: Tensor) -> list[Tensor]:
    module.zero_grad()
    loss.backward()
    return [p.grad.clone() if p.grad is not None else torch.zeros_like(p) for p in module.parameters()]


def assert_all_close(first: list[Tensor], second: list[Tensor]) -> None:
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


# M3, the whole objective


def test_lambda_zero_with_uniform_weights_is_exactly_the_decision_transformer_loss() -> None:
    actor_critic, batch, _ = make_parts(UNIFORM)
    config = dataclasses.replace(
        CONFIG.actor, q_coefficient=0.0, next_observation_coefficient=1.0, reward_coefficient=1.0
    )
    losses, weights = compute_policy_losses(actor_critic, batch, config)
    output = actor_critic.policy(batch.observations, batch.actions, batch.returns_to_go, batch.timesteps)
    expected = decision_transformer_loss_loop(output, batch)
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert_all_close(gradients(actor_critic.policy, losses.total), gradients(actor_critic.policy, expected))
    assert (weights == 1).all()


def test_objective_is_the_sum_of_its_terms() -> None:
    actor_critic, batch, _ = make_parts()
    config = dataclasses.replace(CONFIG.actor, next_observation_coefficient=0.5, reward_coefficient=0.25)
    losses, _ = compute_policy_losses(actor_critic, batch, config)
    expected = losses.behavior - 0.3 * losses.q_term + 0.5 * losses.next_observation + 0.25 * losses.reward  # A = 1
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-6)
    with torch.no_grad():
        output = actor_critic.policy(batch.observations, batch.actions, batch.returns_to_go, batch.timesteps)
    advantages = actor_critic.critic.compute_advantages(batch.observations, batch.actions)
    loop = behavior_loss_loop(output.actions, batch.actions, advantages, batch.mask, 1.5, 3.0) / 1.2
    assert losses.behavior.item() == pytest.approx(loop, rel=1e-5)


def test_the_posters_loss_to_the_letter() -> None:
    """The settings are those of docs/method.md; no weight is clipped, fitted or divided, and Q is not scaled."""
    page = (ROOT / "docs" / "method.md").read_text().split("**The poster's loss to the letter**")[1]
    settings = parse_overrides(" ".join(page.split('--set "')[1].split('"')[0].split()))
    eta, coefficient, size = 30.0, 0.7, 2
    given = {"actor.inverse_temperature": eta, "actor.q_coefficient": coefficient / size, "task.action_size": size}
    words = " ".join(f"{key}={value}" for key, value in {**settings, **given}.items())
    [resolve_config("walker2d-medium-v2", preset=preset, overrides=words) for preset in ("laptop", "paper")]  # accepted
    config = make_config({**settings, **given, **IMAGINES_NOTHING, "policy.dropout": 0.0})
    dataset = make_dataset(action_size=size)
    sampler = make_tiny_sampler(make_buffer(dataset))
    actor_critic = make_actor_critic(config, dataset, UNIFORM)
    list(actor_critic.critic.value.parameters())[-1].sub_(0.5)  # a low V: large advantages
    actor_critic.weighting = calibrate_weighting(config, actor_critic.critic, sampler)
    batch = sampler.sample_sequences(12, 4)
    losses, weights = compute_policy_losses(actor_critic, batch, config.actor)
    assert weights.max() > 100, "more than the largest weight of vdt"
    critic = actor_critic.critic
    with torch.no_grad():
        predicted = actor_critic.policy(batch.observations, batch.actions, batch.returns_to_go, batch.timesteps).actions
        q = critic.compute_min_q(batch.observations, predicted)
        advantages = critic.compute_advantages(batch.observations, batch.actions)
    expected = poster_loss_loop(predicted, batch.actions, advantages, q, batch.mask, eta, coefficient)
    assert losses.total.item() * size == pytest.approx(expected, rel=1e-5)


def test_reward_loss_is_in_standardised_units() -> None:
    """Rewards of 0.003 +- 0.001 weigh as much as any others: errors are divided by the data's standard deviation."""
    actor_critic, batch, _ = make_parts(UNIFORM)
    actor_critic.reward_statistics = RewardStatistics(0.5, 0.001)
    losses, _ = compute_policy_losses(actor_critic, batch, CONFIG.actor)
    with torch.no_grad():
        output = actor_critic.policy(batch.observations, batch.actions, batch.returns_to_go, batch.timesteps)
    assert output.rewards is not None and losses.reward is not None
    errors = output.rewards.double() - (batch.rewards.double() - 0.5) / 0.001
    expected = float((errors.square() * batch.mask).sum() / batch.mask.sum())
    assert losses.reward.item() == pytest.approx(expected, rel=1e-4)


def test_q_term_raises_the_critics_value_of_the_policys_actions() -> None:
    actor_critic, batch, _ = make_parts(UNIFORM)
    config = dataclasses.replace(
        CONFIG.actor, q_coefficient=50.0, next_observation_coefficient=0.0, reward_coefficient=0.0, gradient_clip=0.0
    )
    optimizer = make_policy_optimizer(actor_critic, 1e-2, 0.0)

    def value() -> float:
        with torch.no_grad():
            output = actor_critic.policy(batch.observations, batch.actions, batch.returns_to_go, batch.timesteps)
            min_q = actor_critic.critic.compute_min_q(batch.observations, output.actions)
        return float(min_q[batch.mask > 0].mean())

    grid = torch.linspace(-1, 1, 41)[:, None, None, None].expand(-1, *batch.actions.shape)
    best = actor_critic.critic.compute_min_q(batch.observations.expand(41, -1, -1, -1), grid).detach().amax(0)
    before, highest = value(), float(best[batch.mask > 0].mean())
    for _ in range(20):
        take_policy_step(actor_critic, optimizer, batch, config)
    assert value() > before + 0.2 * (highest - before)


def test_action_terms_are_divided_by_the_number_of_action_dimensions() -> None:
    # two action dimensions that are copies of one: the mean over dimensions is the same
    config = make_config({"task.action_size": 2, "policy.dropout": 0.0})
    dataset = make_dataset((5, 4), action_size=2)
    actor_critic = make_actor_critic(config, dataset, UNIFORM)
    batch = make_tiny_sampler(make_buffer(dataset)).sample_sequences(6, 4)
    off = dataclasses.replace(config.actor, q_coefficient=0.0, next_observation_coefficient=0.0, reward_coefficient=0.0)
    losses, _ = compute_policy_losses(actor_critic, batch, off)
    assert losses.total.item() == pytest.approx(losses.behavior.item() / 2, rel=1e-6)


# Padding


def test_padding_changes_no_loss_and_no_gradient() -> None:
    actor_critic, batch, _ = make_parts()
    assert (batch.mask == 0).any()
    rubbish = torch.Generator().manual_seed(9)

    def spoil(value: Tensor) -> Tensor:
        padded = (batch.mask == 0).reshape(*batch.mask.shape, *[1] * (value.dim() - 2))
        if value.dtype == torch.int64:
            return torch.where(padded, 3, value)
        return torch.where(padded, 5 * torch.randn(value.shape, generator=rubbish), value)

    spoilt = dataclasses.replace(
        batch, **{name: spoil(value) for name, value in vars(batch).items() if "mask" not in name}
    )
    assert not torch.equal(spoilt.observations, batch.observations)
    first, _ = compute_policy_losses(actor_critic, batch, CONFIG.actor)
    wanted = gradients(actor_critic.policy, first.total)
    second, _ = compute_policy_losses(actor_critic, spoilt, CONFIG.actor)
    for name, value in vars(first).items():
        torch.testing.assert_close(getattr(second, name), value, msg=name)
    assert_all_close(gradients(actor_critic.policy, second.total), wanted)


def test_a_longer_window_around_the_same_steps_changes_nothing() -> None:
    actor_critic, _, _ = make_parts()
    sampler = make_tiny_sampler(make_buffer(make_dataset((3, 3))))
    short, long = (sampler.gather_sequences(torch.tensor([0, 4]), length) for length in (3, 4))
    first, _ = compute_policy_losses(actor_critic, short, CONFIG.actor)
    wanted = gradients(actor_critic.policy, first.total)
    second, _ = compute_policy_losses(actor_critic, long, CONFIG.actor)
    torch.testing.assert_close(second.total, first.total)
    assert_all_close(gradients(actor_critic.policy, second.total), wanted)


# Where gradients go


@pytest.mark.parametrize("frozen", [True, False])  # offline and online
def test_policy_update_leaves_the_critic_bit_for_bit(frozen: bool) -> None:
    actor_critic, batch, _ = make_parts()
    actor_critic.critic.requires_grad_(not frozen)
    before, policy = clone_state(actor_critic.critic), clone_state(actor_critic.policy)
    PolicyUpdate(actor_critic, CONFIG.actor, 1e-2)(batch)
    assert_identical(clone_state(actor_critic.critic), before)
    assert all(p.grad is None for p in actor_critic.critic.parameters())
    assert any(not torch.equal(value, policy[name]) for name, value in actor_critic.policy.state_dict().items())
    assert actor_critic.gradient_steps == 1


def test_terms_that_are_off_are_not_even_computed() -> None:
    actor_critic, batch, _ = make_parts(UNIFORM)
    config = dataclasses.replace(CONFIG.actor, q_coefficient=0.0)
    healthy, _ = compute_policy_losses(actor_critic, batch, config)
    for parameter in actor_critic.critic.parameters():
        parameter.data.fill_(math.nan)  # whoever asks the critic gets NaN
    losses, _ = compute_policy_losses(actor_critic, batch, config)
    assert torch.equal(losses.total, healthy.total)
    with_q, _ = compute_policy_losses(actor_critic, batch, CONFIG.actor)
    assert with_q.total.isnan()
    actor_critic.weighting = WEIGHTED
    weighted, _ = compute_policy_losses(actor_critic, batch, config)
    assert weighted.total.isnan()


def test_memoryless_policy_learns_with_the_same_update() -> None:
    config = make_config(method="bc")
    dataset = make_dataset()
    actor_critic = make_actor_critic(config, dataset, UNIFORM)
    batch = make_tiny_sampler(make_buffer(dataset)).sample_sequences(12, 4)
    optimizer = make_policy_optimizer(actor_critic, 1e-2, 0.0)
    losses = [float(take_policy_step(actor_critic, optimizer, batch, config.actor)["total_loss"]) for _ in range(40)]
    assert losses[-1] < 0.8 * losses[0]


# Optimizers, rates, numbers


def test_learning_rate_golden() -> None:
    # warm-up 10 of 110: 1/10, 10/10; then half a cosine: 1 at 10, 1/2 at 60, 0 at 110
    rates = [compute_learning_rate(step, 110, 10, 2.0) for step in (1, 10, 60, 110)]
    assert rates == pytest.approx([0.2, 2.0, 1.0, 0.0])
    assert compute_learning_rate(1, 10, 0, 2.0) > 1.9  # no warm-up
    assert [compute_learning_rate(s, 5, 10, 1.0) for s in (1, 5)] == [0.1, 0.5]  # a warm-up that is never finished


def test_constant_learning_rate_golden() -> None:
    # warm-up 10: 1/10, 10/10; then the peak to the end
    rates = [compute_learning_rate(step, 110, 10, 2.0, "constant") for step in (1, 10, 60, 110)]
    assert rates == pytest.approx([0.2, 2.0, 2.0, 2.0])


def test_warm_start_leaves_the_q_term_out_and_follows_the_data() -> None:
    config = dataclasses.replace(CONFIG.actor, behavior_coefficient=0.0, q_coefficient=1.0, warm_start_steps=3)
    first, last, later = (choose_losses(config, step) for step in (1, 3, 4))
    assert (first.behavior_coefficient, first.q_coefficient) == (1.0, 0.0)
    assert first == last and later is config


def test_gradient_is_clipped_to_its_norm() -> None:
    actor_critic, batch, _ = make_parts(UNIFORM)
    config = dataclasses.replace(CONFIG.actor, gradient_clip=1e-3)
    metrics = take_policy_step(actor_critic, torch.optim.SGD(actor_critic.policy.parameters(), lr=0.0), batch, config)
    squares = sum(float(p.grad.square().sum()) for p in actor_critic.policy.parameters() if p.grad is not None)
    assert math.sqrt(squares) == pytest.approx(1e-3, rel=1e-2)
    assert float(metrics["gradient_norm"]) > 1e-2  # the norm before clipping
    metrics = take_policy_step(
        actor_critic, torch.optim.SGD(actor_critic.policy.parameters(), lr=0.0), batch, CONFIG.actor
    )  # 0 = off
    squares = sum(float(p.grad.square().sum()) for p in actor_critic.policy.parameters() if p.grad is not None)
    assert math.sqrt(squares) == pytest.approx(float(metrics["gradient_norm"]), rel=1e-4)


def test_weight_decay_is_for_matrices_only() -> None:
    actor_critic, _, _ = make_parts()
    optimizer = make_policy_optimizer(actor_critic, 0.1, 0.5)
    for group in optimizer.param_groups:
        assert {p.dim() >= 2 for p in group["params"]} == {group["weight_decay"] > 0}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(actor_critic.policy.parameters()))
    set_learning_rate(optimizer, 0.25)
    assert [g["lr"] for g in optimizer.param_groups] == [0.25, 0.25]


def test_weight_statistics_golden() -> None:
    # real weights 1, 1, 2; the 9 is padding: mean 4/3, fraction 16 / (3 * 6); clipped at 6 / 3 = 2: one of three
    weights, mask = torch.tensor([[1.0, 1.0], [2.0, 9.0]]), torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    statistics = compute_weight_statistics(weights, mask, AdvantageWeighting(1.0, 6.0, mean_weight=3.0))
    assert float(statistics["weight_clipped_share"]) == pytest.approx(1 / 3)
    assert float(statistics["weight_mean"]) == pytest.approx(4 / 3)
    assert float(statistics["weight_max"]) == 2.0
    for factor, fraction in ((1.0, 16 / 18), (1e-30, 16 / 18), (0.0, 0.0)):  # of small weights the squares are 0
        statistics = compute_weight_statistics(factor * weights, mask, AdvantageWeighting(1.0, 6.0, mean_weight=3.0))
        assert float(statistics["weight_effective_fraction"]) == pytest.approx(fraction)


def test_training_mode_is_restored_after_acting() -> None:
    actor_critic, batch, _ = make_parts()
    actor_critic.policy.eval()
    PolicyUpdate(actor_critic, CONFIG.actor, 1e-3)(batch)
    assert actor_critic.policy.training


def test_a_number_that_goes_wrong_stops_training_and_is_named(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    assert read_metrics("critic", 7, {"q_loss": torch.tensor(2.0)}, store) == {"critic/q_loss": 2.0}
    path = store.save(5, {"step": 5})
    for bad in (math.nan, math.inf):
        with pytest.raises(DivergenceError, match=rf"critic/q_loss is {bad} at critic gradient step 7; .*{path.name}"):
            read_metrics("critic", 7, {"value_loss": torch.tensor(1.0), "q_loss": torch.tensor(bad)}, store)


def test_run_gradient_steps_is_told_each_step_once(tmp_path: Path) -> None:
    tracker, seen = RecordingTracker(), []

    def update(step: int) -> dict[str, Tensor]:
        seen.append(step)
        return {"loss": torch.tensor(float(step))}

    store, state = make_store(tmp_path, every=4), {"step": 2, "metrics": {}}
    last = run_gradient_steps("x", 10, state, update, lambda step: {"step": step}, tracker, store)
    assert seen == list(range(3, 11))
    assert load_state(last)["metrics"] == {"x/loss": 10.0}
    assert tracker.metrics == [(step, {"x/loss": float(step)}) for step in seen]
    # each 4 steps since the last save: 4 and 8, then the final one, each with its own numbers
    assert [(step, numbers) for _, _, step, numbers in tracker.checkpoints] == [
        (4, {"x/loss": 4.0}),
        (8, {"x/loss": 8.0}),
        (10, {"x/loss": 10.0}),
    ]


def test_a_step_killed_after_its_last_checkpoint_is_only_closed(tmp_path: Path) -> None:
    """Its final numbers come from the checkpoint, not from nowhere."""
    tracker, store = RecordingTracker(), make_store(tmp_path)
    state = {"step": 10, "metrics": {"x/loss": 7.0}}
    run_gradient_steps(
        "x", 10, state, lambda step: pytest.fail("no step is left"), lambda step: {"step": step}, tracker, store
    )
    assert [(name, step, numbers) for name, _, step, numbers in tracker.checkpoints] == [("x-10", 10, {"x/loss": 7.0})]

"""Critic and actor trained together: targets, proposals, what follows what, and that a kill costs nothing."""

import copy
import math
from pathlib import Path

import pytest
import torch

from reference.method_terms import conservative_loss_loop, log_density_loop
from support.builders import (
    Interrupted,
    InterruptingTracker,
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
from vdt.acceleration.critic_update import FusedCriticUpdate
from vdt.agent.actor_critic import ActorCritic
from vdt.checkpoint.store import load_state
from vdt.data.sampling import Sampler, find_bootstrap_rows, gather_contexts
from vdt.tracking import NullTracker
from vdt.training.critic_pretraining import pretrain_critic
from vdt.training.joint import blur_actions, make_proposals, spread_critic_steps, take_critic_step
from vdt.training.offline import train_actor
from vdt.training.online import tune_online
from vdt.training.seeding import seed_buffer

DATASET = make_dataset((5, 1, 7, 3, 6, 2, 4, 4))
JOINT = ("td3bc", "awac", "cql", "qt")
KILLED = ("td3bc", "cql", "iql")  # a deterministic one, a stochastic one, and one whose critic takes turns by a setting
TURNS = {"critic.gradient_steps": 45, "critic.order": "together"}


def disturb(policy: torch.nn.Module) -> None:
    for parameter in policy.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)


def make_joint(method: str, **changes: object) -> tuple[ActorCritic, Sampler, FusedCriticUpdate]:
    config = make_config(changes, method=method)
    actor_critic = make_actor_critic(config, DATASET)
    if config.policy.kind == "transformer":
        disturb(actor_critic.policy)  # its actions depend on the history
    actor_critic.add_target_policy()
    disturb(actor_critic.policy)  # it is ahead of its copy, as in the middle of training
    return actor_critic, make_tiny_sampler(make_buffer(DATASET)), FusedCriticUpdate(actor_critic.critic, 1e-2)


# Turns


def test_turns_golden() -> None:
    assert spread_critic_steps(7, 3) == [2, 2, 3]
    assert spread_critic_steps(2, 4) == [0, 1, 0, 1]
    assert spread_critic_steps(0, 3) == [0, 0, 0]
    assert spread_critic_steps(7, 0) == []
    assert sum(spread_critic_steps(20_000, 1_500)) == 20_000


# One step


@pytest.mark.parametrize("method", ["td3bc", "awac", "qt"])
def test_target_is_the_following_policys_value(method: str) -> None:
    """y = n-step reward + discount * min target Q(s', pi'(history up to s')), one transition at a time."""
    plain = {"critic.target_action_noise": 0.0, "policy.head": "deterministic"}
    actor_critic, sampler, optimizer = make_joint(method, **plain)
    assert actor_critic.acting_context == (actor_critic.config.policy.context_length if method == "qt" else 1)
    again = Sampler(sampler.buffer, "length", torch.Generator().set_state(sampler.generator.get_state()))
    rows = again.sample_rows(actor_critic.config.critic.batch_size)
    batch, before = again.gather_transitions(rows), copy.deepcopy(actor_critic)
    metrics = take_critic_step(actor_critic, optimizer, sampler)
    moments, squares = find_bootstrap_rows(again.buffer, rows), [0.0, 0.0]
    assert before.target_policy is not None
    for i, row in enumerate(moments):
        h = gather_contexts(again.buffer, row[None], actor_critic.acting_context)
        end = int(h.present) + 1
        inputs = (x[:, :end] for x in (h.observations, h.actions, h.returns_to_go, h.timesteps))
        with torch.no_grad():
            action = before.target_policy(*inputs).actions[:, -1]
            value = min(before.critic.target_q(batch.bootstrap_observations[i][None], action).flatten().tolist())
            q = before.critic.q(batch.observations[i : i + 1], batch.actions[i : i + 1])
        target = float(batch.n_step_rewards[i]) + float(batch.bootstrap_discounts[i]) * value
        squares = [square + (float(x) - target) ** 2 / len(moments) for square, x in zip(squares, q, strict=True)]
    assert metrics["q_loss"].item() == pytest.approx(sum(squares), rel=1e-4)


def test_windows_have_the_targets_of_their_moments() -> None:
    """One pass over shared contexts gives what a pass over the steps up to each moment gives."""
    plain = {"critic.window_steps": 4, "critic.target_action_noise": 0.0}
    actor_critic, sampler, optimizer = make_joint("qt", **plain)
    again = Sampler(sampler.buffer, "length", torch.Generator().set_state(sampler.generator.get_state()))
    size, context = actor_critic.config.critic.batch_size, actor_critic.acting_context
    batch, after, _ = again.sample_transitions_in_context(size, context, present=False, window_steps=4)
    assert after.present.shape == (size // 4, 4) and len(batch.actions) == size
    before, square = copy.deepcopy(actor_critic), torch.zeros(2)
    metrics = take_critic_step(actor_critic, optimizer, sampler)
    assert before.target_policy is not None
    for i in range(size):
        end = int(after.present[i // 4, i % 4]) + 1
        inputs = (after.observations, after.actions, after.returns_to_go, after.timesteps)
        with torch.no_grad():
            action = before.target_policy(*(x[i // 4, None, :end] for x in inputs)).actions[:, -1]
            value = before.critic.target_q(batch.bootstrap_observations[i][None], action).min()
            q = before.critic.q(batch.observations[i : i + 1], batch.actions[i : i + 1])
        target = batch.n_step_rewards[i] + batch.bootstrap_discounts[i] * value
        square += torch.stack([(x.squeeze() - target) ** 2 for x in q]) / size
    assert metrics["q_loss"].item() == pytest.approx(float(square.sum()), rel=1e-4)


def test_windows_meet_all_transitions() -> None:
    """Those inside an episode equally often; the outermost have a little of what their neighbours lack."""
    width, lengths = 8, (40, 2)
    sampler = make_tiny_sampler(make_buffer(make_dataset(lengths)))
    draws, outermost = 40_000, (width + 1) * (width + 2) / (6 * width)
    rows = sampler._surround(sampler.sample_rows(draws, with_target=True), width)
    assert rows.shape == (draws, width) and bool((rows.diff(dim=1) <= 1).all()) and bool((rows.diff(dim=1) >= 0).all())
    counts = torch.bincount(rows.flatten(), minlength=sum(lengths) + 1).double() / (draws * width / sum(lengths))
    assert counts[7:33].numpy() == pytest.approx(1, abs=0.05) and float(counts[40]) == 0  # a final observation
    assert counts[[0, 39]].tolist() == pytest.approx([outermost] * 2, abs=0.1)
    assert float(counts[:40].sum()) == pytest.approx(40, abs=0.4) and float(counts[41:].sum()) == pytest.approx(
        2, abs=0.4
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_following_policy_has_the_precision_of_training(precision: str) -> None:
    actor_critic, sampler, _ = make_joint("qt", **{"runtime.precision": precision})
    contexts = gather_contexts(sampler.buffer, torch.arange(4), actor_critic.acting_context)
    assert actor_critic.target_policy is not None
    seen: list[torch.dtype] = []
    for module in actor_critic.target_policy.modules():
        if not list(module.children()):
            module.register_forward_hook(
                lambda _m, _i, o: seen.append(o.dtype) if isinstance(o, torch.Tensor) else None
            )
    with torch.no_grad():
        actions, _ = actor_critic.ask_target_policy(contexts)
    assert actions.dtype == torch.float32
    assert (torch.bfloat16 in seen) == (precision == "bfloat16")


@pytest.mark.parametrize("method", JOINT)
def test_a_step_trains_q_and_moves_both_targets_and_nothing_else(method: str) -> None:
    actor_critic, sampler, optimizer = make_joint(method, **{"critic.target_every": 1})
    critic, rate = actor_critic.critic, actor_critic.config.critic.target_update_rate
    assert actor_critic.target_policy is not None
    parts = (actor_critic.policy, actor_critic.target_policy, critic.q, critic.target_q, critic.value)
    policy, target_policy, q, target_q, value = (clone_state(part) for part in parts)
    take_critic_step(actor_critic, optimizer, sampler)
    assert_identical(clone_state(actor_critic.policy), policy)
    assert_identical(clone_state(critic.value), value)  # V has no part in it
    for name, old in target_policy.items():
        torch.testing.assert_close(actor_critic.target_policy.state_dict()[name], old + rate * (policy[name] - old))
    for name, old in target_q.items():
        now = critic.q.state_dict()[name]
        assert not torch.equal(now, q[name])
        torch.testing.assert_close(critic.target_q.state_dict()[name], old + rate * (now - old))
    frozen = (
        *actor_critic.target_policy.parameters(),
        *critic.target_q.parameters(),
        *actor_critic.policy.parameters(),
    )
    assert all(p.grad is None for p in frozen) and not actor_critic.target_policy.training


def test_targets_move_at_every_second_step_alone() -> None:
    actor_critic, sampler, optimizer = make_joint("td3bc")
    critic, target_policy = actor_critic.critic, actor_critic.target_policy
    assert actor_critic.config.critic.target_every == 2 and target_policy is not None
    moved = []
    for _ in range(4):
        before = clone_state(critic.target_q), clone_state(target_policy)
        take_critic_step(actor_critic, optimizer, sampler)
        now = clone_state(critic.target_q), clone_state(target_policy)
        moved.append([any(not torch.equal(b[name], n[name]) for name in b) for b, n in zip(before, now, strict=True)])
    assert moved == [[False, False], [True, True]] * 2


def test_noise_on_the_target_action_is_clipped() -> None:
    actions = torch.tensor([0.0, 0.9, -0.2]).repeat(10_000, 1)
    blurred = blur_actions(actions, 0.2, torch.Generator().manual_seed(0))
    moved = blurred - actions
    assert moved.abs().max().item() <= 0.5 + 1e-6 and blurred.abs().max().item() <= 1
    assert moved[:, 0].std().item() == pytest.approx(0.2, rel=0.05)  # clipped beyond 2.5 deviations
    assert (moved[:, 0].abs() > 0.4999).any() and (blurred[:, 1] == 1).any()
    assert torch.equal(blurred, blur_actions(actions, 0.2, torch.Generator().manual_seed(0)))


def test_noise_changes_the_target() -> None:
    losses = []
    for noise in (0.0, 0.5):
        actor_critic, sampler, optimizer = make_joint("td3bc", **{"critic.target_action_noise": noise})
        losses.append(take_critic_step(actor_critic, optimizer, sampler)["q_loss"].item())
    assert losses[0] != losses[1]


def test_proposals_are_uniform_or_the_policys_with_their_densities() -> None:
    actor_critic, sampler, _ = make_joint("cql")
    rows = sampler.sample_rows(6)
    _, gaussian = actor_critic.ask_target_policy(gather_contexts(sampler.buffer, rows, 1))
    assert gaussian is not None
    proposals = make_proposals((gaussian,), torch.zeros(6, 1), 500, torch.Generator().manual_seed(0))
    assert proposals.actions.shape == (1000, 6, 1) and proposals.log_densities.shape == (1000, 6)
    uniform = proposals.actions[:500]
    assert (uniform.mean().abs() < 0.05) and uniform.min() < -0.95 and uniform.max() > 0.95
    assert (proposals.log_densities[:500] - math.log(0.5)).abs().max() < 1e-6
    for p, b in ((500, 0), (777, 3), (999, 5)):
        action = proposals.actions[p, b].tolist()
        expected = log_density_loop(action, gaussian.means[b].tolist(), gaussian.log_stds[b].tolist())
        assert proposals.log_densities[p, b].item() == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_conservative_term_of_a_step_is_the_literal_one_and_presses_q_down() -> None:
    actor_critic, sampler, _ = make_joint("cql")
    rows = sampler.sample_rows(8)
    batch = sampler.gather_transitions(rows)
    _, gaussian = actor_critic.ask_target_policy(gather_contexts(sampler.buffer, rows, 1))
    assert gaussian is not None
    proposals = make_proposals((gaussian,), batch.actions, 3, torch.Generator().manual_seed(0))
    losses = actor_critic.critic.compute_policy_value_losses(batch, batch.actions, proposals)
    q = actor_critic.critic.q(batch.observations, batch.actions)
    proposed = torch.stack([actor_critic.critic.q(batch.observations, actions) for actions in proposals.actions], 1)
    expected = conservative_loss_loop(q.tolist(), proposed.tolist(), proposals.log_densities.tolist())
    assert losses.conservative_loss.item() == pytest.approx(expected, rel=1e-4)
    assert losses.q_mean.item() == pytest.approx(q.amin(0).mean().item()) and not losses.q_mean.requires_grad


def test_cqls_step_is_that_of_drawn_actions_and_a_weighted_term() -> None:
    """Draws after and before the step, in this order; proposals at both ends; five times the conservative term."""
    actor_critic, sampler, optimizer = make_joint("cql")
    again = Sampler(sampler.buffer, "length", torch.Generator().set_state(sampler.generator.get_state()))
    settings, critic = actor_critic.config.critic, copy.deepcopy(actor_critic.critic)
    rows = again.sample_rows(settings.batch_size)
    batch = again.gather_transitions(rows)
    _, later = actor_critic.ask_target_policy(gather_contexts(again.buffer, find_bootstrap_rows(again.buffer, rows), 1))
    _, now = actor_critic.ask_target_policy(gather_contexts(again.buffer, rows, 1))
    assert now is not None and later is not None
    actions, _ = later.sample(again.generator)
    proposals = make_proposals((now, later), batch.actions, settings.conservative_samples, again.generator)
    losses = critic.compute_policy_value_losses(batch, actions, proposals)
    FusedCriticUpdate(critic, 1e-2).descend(losses.q_loss + 5 * losses.conservative_loss)
    take_critic_step(actor_critic, optimizer, sampler)
    for name, value in critic.q.state_dict().items():
        torch.testing.assert_close(actor_critic.critic.q.state_dict()[name], value)


def test_conservative_coefficient_lowers_q_off_the_data() -> None:
    gaps = []
    for coefficient in (0.0, 5.0):
        actor_critic, sampler, optimizer = make_joint("cql", **{"critic.conservative_coefficient": coefficient})
        metrics = [take_critic_step(actor_critic, optimizer, sampler) for _ in range(60)][-1]
        assert (metrics["conservative_loss"].item() == 0) == (coefficient == 0)  # off is not computed
        batch = sampler.sample_transitions(200)
        with torch.no_grad():
            elsewhere = actor_critic.critic.q(batch.observations, 2 * torch.rand_like(batch.actions) - 1)
            gaps.append(float((elsewhere - actor_critic.critic.q(batch.observations, batch.actions)).mean()))
    assert gaps[1] < gaps[0]


# Whole trainings


def train(method: str, folder: Path, tracker: NullTracker, every: int = 1_000_000) -> Path:
    config = make_config(TURNS, method=method)
    critic = pretrain_critic(config, DATASET, NullTracker(), make_store(folder / "critic"))
    assert load_state(critic)["step"] == 0  # the critic waits for the actor
    return train_actor(config, DATASET, critic, tracker, make_store(folder / "actor", every=every))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {method: train(method, tmp_path_factory.mktemp(method), NullTracker()) for method in KILLED}


@pytest.mark.parametrize("method", KILLED)
def test_interrupted_and_resumed_training_is_the_undisturbed_one(
    method: str, undisturbed: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        train(method, tmp_path, InterruptingTracker(25), every=10)
    torch.manual_seed(999)
    tracker = RecordingTracker()
    resumed = train(method, tmp_path, tracker, every=10)
    assert tracker.metrics[0][0] == 21
    assert_identical(load_state(resumed), load_state(undisturbed[method]))


@pytest.mark.parametrize("method", KILLED)
def test_checkpoint_holds_all_of_it(method: str, undisturbed: dict[str, Path]) -> None:
    state = load_state(undisturbed[method])
    assert {"critic_optimizer", "optimizer", "random"} <= set(state)
    moments = state["critic_optimizer"]["state"].values()
    assert moments and all(float(m["step"]) == 45 for m in moments)
    actor_critic = ActorCritic.from_state(state["actor_critic"], torch.device("cpu"))
    assert_identical(actor_critic.state_dict(), state["actor_critic"])
    if method == "iql":
        return
    assert actor_critic.target_policy is not None and not any(
        p.requires_grad for p in actor_critic.target_policy.parameters()
    )
    assert any(
        not torch.equal(a, b)
        for a, b in zip(actor_critic.target_policy.parameters(), actor_critic.policy.parameters(), strict=True)
    )


@pytest.mark.parametrize("method", KILLED)
def test_interrupted_and_resumed_tuning_is_the_undisturbed_one(
    method: str, undisturbed: dict[str, Path], tmp_path: Path
) -> None:
    settings = {
        "buffer_trajectories": 6,
        "environment_steps": 40,
        "critic_steps_per_iteration": 3,
        "actor_steps_per_iteration": 2,
    }
    config = make_config({**TURNS, **{f"online.{key}": value for key, value in settings.items()}}, method=method)
    agent = undisturbed[method]
    buffer = seed_buffer(config, DATASET, tmp_path / "buffer.hdf5")
    whole = load_state(tune_online(config, agent, buffer, DATASET, NullTracker(), make_store(tmp_path / "whole")))
    with pytest.raises(Interrupted):
        tune_online(config, agent, buffer, DATASET, InterruptingTracker(28), make_store(tmp_path / "cut", every=12))
    torch.manual_seed(77)
    tracker = RecordingTracker()
    resumed = tune_online(config, agent, buffer, DATASET, tracker, make_store(tmp_path / "cut", every=12))
    assert tracker.metrics[0][0] > 12
    assert_identical(load_state(resumed), whole)
    before, after = load_state(agent)["actor_critic"], whole["actor_critic"]
    for part in ("policy", "critic") if method == "iql" else ("policy", "critic", "target_policy"):
        changed = [not torch.equal(after[part][name], old) for name, old in before[part].items()]
        assert any(changed), part

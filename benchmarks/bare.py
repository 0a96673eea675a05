"""What the pipeline's loops are compared with: the same arithmetic written down as plainly as PyTorch allows."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdt.agent.actor_critic import ActorCritic
from vdt.config.schema import Config
from vdt.data.batches import SequenceBatch, TransitionBatch
from vdt.policy.decision_transformer import DecisionTransformer

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "mish": nn.Mish}


def make_mlp(inputs: int, config: Config) -> nn.Sequential:
    """Linear layers and PyTorch's own activation, one output."""
    width, layers = config.critic.hidden_size, []
    for size in [inputs] + [width] * (config.critic.hidden_layers - 1):
        layers += [nn.Linear(size, width), ACTIVATIONS[config.critic.activation]()]
    return nn.Sequential(*layers, nn.Linear(width, 1))


def make_critic_loop(config: Config, batch: TransitionBatch) -> Callable[[], object]:
    """An update of two Q networks and V with three Adams and PyTorch's own activation, on one prepared batch."""
    task, critic = config.task, config.critic
    device = batch.observations.device
    first, second, old_first, old_second = (
        make_mlp(task.observation_size + task.action_size, config).to(device) for _ in range(4)
    )
    value = make_mlp(task.observation_size, config).to(device)
    optimizers = [torch.optim.Adam(net.parameters(), lr=critic.learning_rate) for net in (first, second, value)]

    def update() -> None:
        pairs = torch.cat([batch.observations, batch.actions], 1)
        with torch.no_grad():
            target_q = torch.minimum(old_first(pairs), old_second(pairs))[:, 0]
            bootstrap = value(batch.bootstrap_observations)[:, 0]
            targets = batch.n_step_rewards + batch.bootstrap_discounts * bootstrap
        error = target_q - value(batch.observations)[:, 0]
        value_loss = (torch.where(error < 0, 1 - critic.expectile, critic.expectile) * error.square()).mean()
        losses = [F.mse_loss(first(pairs)[:, 0], targets), F.mse_loss(second(pairs)[:, 0], targets), value_loss]
        for optimizer, loss in zip(optimizers, losses, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            for old, new in ((old_first, first), (old_second, second)):
                for target, source in zip(old.parameters(), new.parameters(), strict=True):
                    target.lerp_(source, critic.target_update_rate)

    return update


def make_actor_loop(actor_critic: ActorCritic, batch: SequenceBatch, *, guided: bool) -> Callable[[], object]:
    """A step of the same transformer, with PyTorch's Linear, on one prepared batch: no sampling, no masks, no metrics.

    Args:
        actor_critic: sizes and, if guided, the critic.
        batch: the only one.
        guided: with advantage weights and the Q term (VDT), or without (DT).
    """
    config = actor_critic.config
    task, actor = config.task, config.actor
    policy = DecisionTransformer(task.observation_size, task.action_size, task.horizon, config.policy)
    policy = policy.to(batch.observations.device).train()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=actor.learning_rate, fused=True)
    critic = actor_critic.critic

    def update() -> None:
        output = policy(batch.observations, batch.actions, batch.returns_to_go, batch.timesteps)
        error: Tensor = (output.actions - batch.actions).square().sum(-1)
        loss = error.mean()
        if guided:
            with torch.no_grad():
                data_q = critic.target_q(batch.observations, batch.actions).amin(0)
                weights = actor_critic.weighting.compute_weights(data_q - critic.value(batch.observations))
            min_q = critic.target_q(batch.observations, output.actions).amin(0)
            loss = (weights * error).mean() - actor.q_coefficient * min_q.mean() / min_q.detach().abs().mean()
        loss = loss + F.mse_loss(output.next_observations, batch.next_observations)
        loss = loss + F.mse_loss(output.rewards, batch.rewards)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(policy.parameters(), actor.gradient_clip)
        optimizer.step()

    return update

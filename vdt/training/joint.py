"""Joint training of critic and actor: Q of the current policy, through a copy that follows it slowly (TD3, SAC, QT)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vdt.agent.actor_critic import ActorCritic
from vdt.critic.critic import CriticUpdate
from vdt.critic.losses import Proposals
from vdt.data.sampling import CriticSampler
from vdt.policy.gaussian import Gaussian
from vdt.training.update import Metrics

TARGET_NOISE_CLIP = 0.5  # TD3


def spread_critic_steps(critic_steps: int, actor_steps: int) -> list[int]:
    """Return how many critic steps come before each of the actor's, spread evenly; none if there are none of the actor's."""
    return [critic_steps * (k + 1) // actor_steps - critic_steps * k // actor_steps for k in range(actor_steps)]


def blur_actions(actions: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Add clipped Gaussian noise to actions in [-1, 1] of any shape (TD3's target policy smoothing)."""
    standard = torch.randn(actions.shape, generator=generator, device=actions.device)
    return (actions + (noise * standard).clamp(-TARGET_NOISE_CLIP, TARGET_NOISE_CLIP)).clamp(-1, 1)


def make_proposals(gaussians: Sequence[Gaussian], actions: Tensor, count: int, generator: torch.Generator) -> Proposals:
    """Make the actions whose Q the CQL term lowers: `count` uniform ones, and `count` from each Gaussian.

    Args:
        gaussians: over (B, A).
        actions: (B, A), for their shape alone.
        count: of each kind.
        generator: draws.
    """
    shape = (count, *actions.shape)
    uniform = 2 * torch.rand(shape, generator=generator, device=actions.device) - 1
    drawn = [(uniform, actions.new_full(shape[:-1], -actions.shape[-1] * math.log(2)))]  # density 1/2 per dimension
    for gaussian in gaussians:
        drawn.append(dataclasses.replace(gaussian, means=gaussian.means.expand(shape)).sample(generator))
    return Proposals(torch.cat([a for a, _ in drawn]), torch.cat([d for _, d in drawn]))


def update_policy_critic(actor_critic: ActorCritic, critic_update: CriticUpdate, sampler: CriticSampler) -> Metrics:
    """Take one step on M2 with the target policy's value as the bootstrap, and CQL's term; move all targets in their turn."""
    config, generator, proposals = actor_critic.config.critic, sampler.generator, None
    windows = actor_critic.config.critic_window
    conservative, context = config.conservative_coefficient > 0, actor_critic.acting_context
    batch, after, before = sampler.sample_transitions_in_context(
        config.batch_size, context, present=conservative, window_steps=windows
    )
    with torch.no_grad():
        actions, gaussian = actor_critic.ask_target_policy(after)
        if gaussian is not None:
            actions, _ = gaussian.sample(generator)
        elif config.target_action_noise > 0:
            actions = blur_actions(actions, config.target_action_noise, generator)
        if before is not None:
            _, present = actor_critic.ask_target_policy(before)
            assert gaussian is not None and present is not None
            proposals = make_proposals((present, gaussian), batch.actions, config.conservative_samples, generator)
    losses = actor_critic.critic.compute_policy_value_losses(batch, actions, proposals)
    critic_update.descend(losses.q_loss + config.conservative_coefficient * losses.conservative_loss)
    actor_critic.critic_steps += 1
    if actor_critic.critic_steps % config.target_every == 0:
        critic_update.update_targets()
        actor_critic.update_target_policy()
    return {name: value.detach() for name, value in vars(losses).items()}


def take_critic_step(actor_critic: ActorCritic, critic_update: CriticUpdate, sampler: CriticSampler) -> Metrics:
    """Take one critic step of the kind that `critic.bootstrap` names."""
    if actor_critic.target_policy is not None:
        return update_policy_critic(actor_critic, critic_update, sampler)
    return vars(critic_update.update(sampler.sample_transitions(actor_critic.config.critic.batch_size)))

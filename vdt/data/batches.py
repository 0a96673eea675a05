"""Batches for training: observations are normalised, rewards and returns scaled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class TransitionBatch:
    """Independent n-step transitions for the critic.

    Attributes:
        observations: (B, S).
        actions: (B, A).
        n_step_rewards: (B,) sum of discount^k r_{t+k} over the steps taken, k < n.
        bootstrap_observations: (B, S) observation after the last of those steps.
        bootstrap_discounts: (B,) discount^k for k steps taken, or 0 after termination, so the critic needs no flags.
    """

    observations: Tensor
    actions: Tensor
    n_step_rewards: Tensor
    bootstrap_observations: Tensor
    bootstrap_discounts: Tensor


@dataclass(frozen=True)
class ContextBatch:
    """Contexts of a policy at B given moments: up to K steps that end there, then padding without influence.

    Attributes:
        observations: (B, K, S).
        actions: (B, K, A); the value at the present step is no part of the context.
        returns_to_go: (B, K), undiscounted, divided by the policy's return scale.
        timesteps: (B, K) int64, steps since the start of the episode.
        present: (B,) int64, index of the present step; or (B, W), indices of W present steps that share one context.
    """

    observations: Tensor
    actions: Tensor
    returns_to_go: Tensor
    timesteps: Tensor
    present: Tensor

    def at_present(self, values: Tensor) -> Tensor:
        """Select the present steps: (B, K, ...) -> (B, ...), or (B * W, ...) in the order of contexts."""
        contexts = torch.arange(len(values), device=values.device)
        if self.present.dim() == 1:
            return values[contexts, self.present]
        return values[contexts[:, None], self.present].flatten(0, 1)


@dataclass(frozen=True)
class SequenceBatch:
    """Sub-trajectories for the policy, padded **on the right**.

    Padding holds finite numbers without meaning. No real step depends on it: attention is causal, and losses multiply
    by the mask.

    Attributes:
        observations: (B, K, S).
        actions: (B, K, A).
        rewards: (B, K), divided by the policy's return scale.
        returns_to_go: (B, K), undiscounted, divided by the policy's return scale.
        timesteps: (B, K) int64, steps since the start of the episode.
        mask: (B, K) float, 1 for a real step, 0 for padding.
        next_observations: (B, K, S) observation after each step.
        next_observation_mask: (B, K) float, the mask without the steps whose next observation is missing.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    returns_to_go: Tensor
    timesteps: Tensor
    mask: Tensor
    next_observations: Tensor
    next_observation_mask: Tensor


Batch = TypeVar("Batch", TransitionBatch, ContextBatch)


def concatenate(batches: Sequence[Batch]) -> Batch:
    """Concatenate batches of one kind and of one shape but for B, in this order."""
    first = batches[0]
    return type(first)(**{f.name: torch.cat([getattr(batch, f.name) for batch in batches]) for f in fields(first)})

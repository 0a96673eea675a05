"""Limits of the numbers that a policy is given: beyond them float32 overflows inside the networks, and actions are NaN."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vdt.agent.actor_critic import ActorCritic
from vdt.data.numbers import LARGEST_FLOAT
from vdt.data.trajectory import FloatArray

LARGEST = 1e12  # in the networks' units; layer norms square up to 1e18, which a million steps of such rewards reach


@dataclass(frozen=True)
class InputLimits:
    """Largest absolute values that a policy accepts, in the environment's units.

    Attributes:
        observations: (S,), one for each number of an observation.
        returns: of a target return, and of each reward.
    """

    observations: FloatArray
    returns: FloatArray

    @classmethod
    def from_actor_critic(cls, actor_critic: ActorCritic) -> InputLimits:
        """Compute the limits of a policy. What is clipped or ignored may be any finite number."""
        normalizer, task = actor_critic.normalizer, actor_critic.config.task
        mean, std = (rows.cpu().numpy().astype(np.float64) for rows in (normalizer.mean, normalizer.std))
        observations = np.full_like(std, LARGEST_FLOAT) if normalizer.clip > 0 else np.abs(mean) + LARGEST * std
        returns = LARGEST_FLOAT if actor_critic.config.policy.kind == "mlp" else LARGEST * task.return_scale
        return cls(*(np.minimum(limit, LARGEST_FLOAT).astype(np.float32) for limit in (observations, returns)))

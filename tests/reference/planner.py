"""Algorithm 3 literally: one candidate of one episode at a time, one sequence per call of the policy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


@torch.no_grad()
def score_candidate_loop(
    policy: nn.Module,
    compute_min_q: Callable[[Tensor, Tensor], Tensor],
    observations: list[Tensor],
    actions: list[Tensor],
    returns_to_go: list[float],
    first_timestep: int,
    *,
    discount: float,
    planning_horizon: int,
    context_length: int,
) -> tuple[Tensor, float]:
    """Proposed action (A,) and score of one candidate; `actions` lacks the present one.

    The policy is its own environment model; imagined returns-to-go shrink by its predicted reward (M6).
    """
    observations, actions, returns_to_go = list(observations), list(actions), list(returns_to_go)
    timesteps = [first_timestep + i for i in range(len(observations))]
    proposal, first = None, len(observations)
    score = 0.0
    for i in range(planning_horizon):
        window = slice(max(0, first - context_length), None)  # imagined steps are added, nothing is forgotten for them
        seen = torch.stack(observations[window])[None]
        to_go = torch.tensor(returns_to_go[window])[None]
        time = torch.tensor(timesteps[window])[None]
        unknown = torch.zeros(policy.predict_action[0].out_features)
        action = policy(seen, torch.stack([*actions, unknown][window])[None], to_go, time).actions[0, -1]
        proposal = action if proposal is None else proposal
        score += discount**i * float(compute_min_q(observations[-1][None], action[None]))
        imagined = policy(seen, torch.stack([*actions, action][window])[None], to_go, time)
        actions.append(action)
        observations.append(imagined.next_observations[0, -1])
        returns_to_go.append(returns_to_go[-1] - float(imagined.rewards[0, -1]))
        timesteps.append(timesteps[-1] + 1)
    assert proposal is not None
    return proposal, score

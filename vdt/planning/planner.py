"""Algorithm 3: every candidate return proposes an action, the critic looks ahead and chooses (M5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vdt.planning.env_model import EnvModel, Sequences
from vdt.policy.history import History


@dataclass(frozen=True)
class Plan:
    """What was chosen for N episodes.

    Attributes:
        actions: (N, A).
        chosen: (N,) int64, index of the candidate that won.
        scores: (N, M) look-ahead scores; zero where there was nothing to choose.
    """

    actions: Tensor
    chosen: Tensor
    scores: Tensor


def expand_candidates(history: History) -> Sequences:
    """Repeat each episode's history for its M candidates: N episodes -> C = N * M sequences, candidates adjacent."""
    assert history.observations is not None and history.actions is not None and history.returns_to_go is not None
    episodes, candidates, length = history.returns_to_go.shape
    return Sequences(
        history.observations.repeat_interleave(candidates, 0),
        history.actions.repeat_interleave(candidates, 0),
        history.returns_to_go.reshape(episodes * candidates, length),
        history.timesteps().expand(episodes * candidates, length),
    )


@torch.inference_mode()
def plan(
    history: History,
    policy: nn.Module,
    compute_min_q: Callable[[Tensor, Tensor], Tensor],
    *,
    discount: float,
    planning_horizon: int,
    env_model: EnvModel | None = None,
    environments: Sequence[Any] = (),
) -> Plan:
    """Choose one action per episode; all candidates of all episodes advance as one batch.

    Args:
        history: N episodes with M returns-to-go each; the current step's action is still open.
        policy: predicts actions; returns `PolicyOutput`.
        compute_min_q: the smaller target Q of normalised observations (C, S) and actions (C, A), (C,).
        discount: of the score.
        planning_horizon: E, number of terms of the score.
        env_model: predicts imagined steps; needed if E > 1.
        environments: the N acting environments, for a model that copies their states.
    """
    assert history.returns_to_go is not None
    episodes, candidates, _ = history.returns_to_go.shape
    sequences = expand_candidates(history)
    proposals = _propose(policy, sequences)
    first = proposals.unflatten(0, (episodes, candidates))
    if candidates == 1:
        nothing = torch.zeros(episodes, dtype=torch.int64, device=proposals.device)
        return Plan(first[:, 0], nothing, torch.zeros(episodes, 1, device=proposals.device))
    if planning_horizon > 1:
        assert env_model is not None
        env_model.begin(environments, candidates)
    scores = torch.zeros(episodes * candidates, device=proposals.device)
    alive = torch.ones_like(scores)
    for i in range(planning_horizon):
        # score the imagined step: gamma^i min_j Q_j(s_{t+i}, a_{t+i})
        scores = scores + discount**i * alive * compute_min_q(sequences.observations[:, -1], proposals)
        if i + 1 < planning_horizon:
            # imagine the next observation, shrink the return-to-go, propose the next action
            assert env_model is not None
            sequences = sequences.with_last_action(proposals)
            observations, rewards, goes_on = env_model.predict(sequences)
            alive = alive * goes_on
            sequences = sequences.append(observations, rewards, history.context_length)
            proposals = _propose(policy, sequences)
    table = scores.unflatten(0, (episodes, candidates))
    chosen = table.argmax(1)
    return Plan(first[torch.arange(episodes, device=chosen.device), chosen], chosen, table)


def _propose(policy: nn.Module, sequences: Sequences) -> Tensor:
    """The action at the last step of each sequence, (C, A)."""
    output = policy(sequences.observations, sequences.actions, sequences.returns_to_go, sequences.timesteps)
    actions: Tensor = output.actions[:, -1]
    return actions

"""Planner, Algorithm 3: every candidate return proposes an action, the critic scores them and one is chosen (M5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vdt.planning.env_model import EnvModel
from vdt.planning.imagination import ContextCache, imagine
from vdt.planning.selection import Selection
from vdt.policy.decision_transformer import ActingPolicy
from vdt.policy.history import History


@dataclass(frozen=True)
class Plan:
    """Actions chosen for N episodes.

    Attributes:
        actions: (N, A).
        chosen: (N,) int64, index of the candidate that won.
        scores: (N, M) look-ahead scores; zero where there was no choice.
    """

    actions: Tensor
    chosen: Tensor
    scores: Tensor


@torch.inference_mode()
def plan(
    history: History,
    policy: ActingPolicy,
    compute_min_q: Callable[[Tensor, Tensor], Tensor],
    *,
    discount: float,
    planning_horizon: int,
    env_model: EnvModel | None = None,
    environments: Sequence[Any] = (),
    cache: ContextCache | None = None,
    explore: bool = False,
    selection: Selection | None = None,
    compute_disagreement: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Plan:
    """Choose one action per episode; all candidates of all episodes advance as one batch.

    Terms of the score after an imagined end of the episode are 0: `alive` is 1 up to it. M5 as written has no ends.

    Args:
        history: N episodes with M returns-to-go each; the current step's action is still open.
        policy: proposes actions, and predicts next steps for a learned model.
        compute_min_q: the smaller target Q of normalised observations (E, C, S) and actions (E, C, A), (E, C).
        discount: of the score.
        planning_horizon: E, number of terms of the score.
        env_model: predicts imagined steps; needed if E > 1.
        environments: the N acting environments, for a model that copies their states.
        cache: of earlier decisions in the same episodes, with room for E - 1 imagined steps.
        explore: whether a stochastic policy draws its actions.
        selection: chooses by the scores; none is the highest one.
        compute_disagreement: |Q_1 - Q_2|, arguments as of `compute_min_q`; needed where the selection does.
    """
    assert history.returns_to_go is not None
    episodes, candidates, _ = history.returns_to_go.shape
    imagination = imagine(policy, history, planning_horizon - 1, cache, explore=explore)
    first = imagination.actions.unflatten(0, (episodes, candidates))
    if candidates == 1:
        nothing = torch.zeros(episodes, dtype=torch.int64, device=first.device)
        return Plan(first[:, 0], nothing, torch.zeros(episodes, 1, device=first.device))
    selection = selection or Selection()
    settled = selection.settled
    if settled is not None:
        places = torch.arange(episodes, device=first.device)
        return Plan(first[places, settled], settled, first.new_zeros(episodes, candidates))
    if planning_horizon > 1:
        assert env_model is not None
        env_model.begin(environments, candidates)
    observations, actions, alive = (
        [imagination.observations],
        [imagination.actions],
        [first.new_ones(len(imagination.actions))],
    )
    for _ in range(planning_horizon - 1):
        # imagine the next observation, shrink the return-to-go, propose the next action
        assert env_model is not None
        seen, rewards, goes_on = env_model.predict(imagination)
        imagination.advance(seen, rewards)
        observations.append(seen)
        actions.append(imagination.actions)
        alive.append(alive[-1] * goes_on)
    # score all imagined steps at once: the sum of gamma^i min_j Q_j(s_{t+i}, a_{t+i})
    inputs = torch.stack(observations), torch.stack(actions)

    def add_up(terms: Tensor) -> Tensor:
        discounted = torch.stack([discount**i * term for i, term in enumerate(torch.stack(alive) * terms)])
        added: Tensor = discounted.sum(0).unflatten(0, (episodes, candidates))
        return added

    table, disagreements = add_up(compute_min_q(*inputs)), None
    if selection.needs_disagreements:
        assert compute_disagreement is not None
        disagreements = add_up(compute_disagreement(*inputs))
    chosen = selection.choose(table, disagreements)
    return Plan(first[torch.arange(episodes, device=chosen.device), chosen], chosen, table)

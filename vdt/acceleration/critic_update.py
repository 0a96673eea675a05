"""One gradient step of the critic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vdt.acceleration.critic_passes import EnsemblePass, flatten_parameters
from vdt.acceleration.torch_overhead import compile_pass, skip_compiler, take_step
from vdt.critic.critic import Critic
from vdt.critic.losses import (
    CriticLosses,
    compute_q_gradient,
    compute_q_loss,
    compute_q_targets,
    compute_value_gradient,
    compute_value_loss,
)
from vdt.data.batches import TransitionBatch


class CriticOptimizer:
    """Adam for Q and V together (their losses share no parameter), and the targets that follow."""

    def __init__(self, critic: Critic, learning_rate: float, *, compiled: bool = False) -> None:
        """From here on the critic's parameters are views of two vectors: what is trained, and the targets.

        `compiled`: `update` goes through torch.compile.
        """
        self.critic = critic
        trained = flatten_parameters(critic.trainable_parameters(), gradients=True)
        self.targets = flatten_parameters(list(critic.target_q.parameters()), gradients=False)
        self.trained, self.followed = trained, trained[: len(self.targets)]  # Q comes before V
        skip_compiler()
        self.adam = torch.optim.Adam([trained], lr=learning_rate, fused=True)
        self.passes: tuple[EnsemblePass, EnsemblePass, EnsemblePass] | None = None
        self.compute_gradients = compile_pass(self._compute_gradients) if compiled else self._compute_gradients

    def descend(self, loss: Tensor) -> None:
        """Descend along autograd's gradient of `loss`, then let the target networks follow."""
        assert self.trained.grad is not None
        self.trained.grad.zero_()
        loss.backward()
        self._step()

    @torch.no_grad()
    def update(self, batch: TransitionBatch) -> CriticLosses:
        """One step on M1 + M2, then the target networks follow; the losses are those before the step."""
        losses = self.compute_gradients(batch, *self._get_passes(len(batch.observations)))
        self._step()
        return losses

    def _compute_gradients(
        self, batch: TransitionBatch, q_pass: EnsemblePass, target_pass: EnsemblePass, value_pass: EnsemblePass
    ) -> CriticLosses:
        rows, expectile = len(batch.observations), self.critic.config.expectile
        inputs = torch.cat([batch.observations, batch.actions], 1)
        value, bootstrap_values = value_pass.forward(torch.cat([batch.observations, batch.bootstrap_observations]))[
            0
        ].split(rows)
        target_q = target_pass.forward(inputs)
        targets = compute_q_targets(batch.n_step_rewards, batch.bootstrap_discounts, bootstrap_values)
        q = q_pass.forward(inputs)
        q_pass.backward(compute_q_gradient(q, targets))
        value_pass.backward(compute_value_gradient(target_q, value, expectile).unsqueeze(0))
        min_q = target_q.amin(0)
        advantage = min_q - value
        return CriticLosses(
            value_loss=compute_value_loss(target_q, value, expectile),
            q_loss=compute_q_loss(q, targets),
            q_mean=min_q.mean(),
            advantage_mean=advantage.mean(),
            advantage_std=advantage.std(correction=0),
        )

    def state_dict(self) -> dict[str, Any]:
        """Adam's."""
        return self.adam.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` stopped."""
        self.adam.load_state_dict(state)

    @torch.no_grad()
    def _step(self) -> None:
        take_step(self.adam)
        self.targets.lerp_(self.followed, self.critic.config.target_update_rate)

    def _get_passes(self, rows: int) -> tuple[EnsemblePass, EnsemblePass, EnsemblePass]:
        if self.passes is None or self.passes[0].trained_rows != rows:
            critic = self.critic
            self.passes = (
                EnsemblePass(critic.q.ensemble, rows, rows),
                EnsemblePass(critic.target_q.ensemble, rows),
                EnsemblePass(critic.value.ensemble, 2 * rows, rows),
            )
        return self.passes

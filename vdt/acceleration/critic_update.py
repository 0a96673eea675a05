"""Critic update with every pass written out: the numbers of `CriticUpdate`, in half the time on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from vdt.acceleration.critic_passes import EnsemblePass, flatten_parameters
from vdt.acceleration.torch_overhead import skip_compiler, take_step
from vdt.critic.critic import CriticUpdate
from vdt.critic.losses import (
    CriticLosses,
    compute_expectile_weights,
    compute_q_loss,
    compute_q_targets,
    compute_value_loss,
)
from vdt.data.batches import TransitionBatch


def compute_value_gradient(target_q: Tensor, value: Tensor, expectile: float) -> Tensor:
    """Differentiate `compute_value_loss` by V, (B,)."""
    error = target_q.amin(0) - value
    return compute_expectile_weights(error, expectile) * error * (-2 / len(value))


def compute_q_gradient(q: Tensor, targets: Tensor) -> Tensor:
    """Differentiate `compute_q_loss` by Q, (2, B)."""
    return (q - targets) * (2 / len(targets))


class FusedCriticUpdate(CriticUpdate):
    """`CriticUpdate` without autograd's graph, on parameters in two vectors: the trained ones, and the targets.

    With one vector, Adam and the targets' move take one call each.
    """

    passes: tuple[EnsemblePass, EnsemblePass, EnsemblePass] | None = None

    def make_adam(self, learning_rate: float) -> torch.optim.Optimizer:
        """Concatenate the critic's parameters into the two vectors, and make the optimizer of the first."""
        self.trained = flatten_parameters(self.critic.trainable_parameters(), gradients=True)
        self.targets = flatten_parameters(list(self.critic.target_q.parameters()), gradients=False)
        self.followed = self.trained[: len(self.targets)]  # Q comes before V
        skip_compiler()
        return torch.optim.Adam([self.trained], lr=learning_rate, fused=True)

    def descend(self, loss: Tensor) -> None:
        """Step along autograd's gradient of a loss of this critic."""
        assert self.trained.grad is not None
        self.trained.grad.zero_()
        loss.backward()
        take_step(self.adam)

    @torch.no_grad()
    def update_targets(self) -> None:
        """Move the critic's targets."""
        self.targets.lerp_(self.followed, self.critic.config.target_update_rate)

    @torch.no_grad()
    def update(self, batch: TransitionBatch) -> CriticLosses:
        """Take one step on M1 + M2, then move the targets; the losses are those before the step."""
        losses = self._compute_gradients(batch, *self._get_passes(len(batch.observations)))
        take_step(self.adam)
        self.update_targets()
        return losses

    def _compute_gradients(
        self, batch: TransitionBatch, q_pass: EnsemblePass, target_pass: EnsemblePass, value_pass: EnsemblePass
    ) -> CriticLosses:
        rows, expectile = len(batch.observations), self.critic.config.expectile
        inputs = torch.cat([batch.observations, batch.actions], 1)
        # one pass of V over both observations; only the first half is trained
        both = value_pass.forward(torch.cat([batch.observations, batch.bootstrap_observations]))[0]
        value, bootstrap_values = both.split(rows)
        target_q = target_pass.forward(inputs)
        targets = compute_q_targets(batch.n_step_rewards, batch.bootstrap_discounts, bootstrap_values)
        q = q_pass.forward(inputs)
        q_pass.backward(compute_q_gradient(q, targets))
        value_pass.backward(compute_value_gradient(target_q, value, expectile).unsqueeze(0))
        value_loss, q_loss = compute_value_loss(target_q, value, expectile), compute_q_loss(q, targets)
        return CriticLosses.summarize(value_loss, q_loss, target_q, value)

    def _get_passes(self, rows: int) -> tuple[EnsemblePass, EnsemblePass, EnsemblePass]:
        if self.passes is None or self.passes[0].trained_rows != rows:
            critic = self.critic
            self.passes = (
                EnsemblePass(critic.q.ensemble, rows, rows),
                EnsemblePass(critic.target_q.ensemble, rows),
                EnsemblePass(critic.value.ensemble, 2 * rows, rows),
            )
        return self.passes

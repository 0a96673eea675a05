"""Critic update with every pass written out: the numbers of `CriticUpdate`, in half the time on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vdt.acceleration.critic_passes import EnsemblePass, flatten_parameters
from vdt.acceleration.torch_overhead import skip_compiler, take_step
from vdt.checkpoint.optimizer_state import load_optimizer
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
    """Differentiate `compute_q_loss` by Q, (N, B)."""
    return (q - targets) * (2 / len(targets))


def _find_place(parameter: Tensor) -> slice:
    """Return where a parameter lies in the vector that it is a view of."""
    return slice(parameter.storage_offset(), parameter.storage_offset() + parameter.numel())


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

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state, a part for each parameter, as on other devices."""
        state = self.adam.state_dict()
        parameters = self.critic.trainable_parameters()
        (flat,) = state["state"].values() or ({},)
        parts = {index: self._cut(flat, parameter) for index, parameter in enumerate(parameters)} if flat else {}
        return {"state": parts, "param_groups": [{**state["param_groups"][0], "params": list(range(len(parameters)))}]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` stopped."""
        flat: dict[str, Tensor] = {}
        for index, parameter in enumerate(self.critic.trainable_parameters()):
            for name, value in state["state"].get(index, {}).items():
                if name == "step":
                    flat[name] = value
                else:
                    flat.setdefault(name, torch.zeros_like(self.trained))[_find_place(parameter)] = value.flatten()
        (group,) = state["param_groups"]
        load_optimizer(self.adam, {"state": {0: flat} if flat else {}, "param_groups": [{**group, "params": [0]}]})

    @staticmethod
    def _cut(flat: Mapping[str, Tensor], parameter: Tensor) -> dict[str, Tensor]:
        """Return one parameter's part of Adam's state, with a counter of its own."""
        place, shape = _find_place(parameter), parameter.shape
        return {name: v.clone() if name == "step" else v[place].view(shape) for name, v in flat.items()}

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

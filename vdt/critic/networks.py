"""Twin Q and V networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "mish": F.mish}


class MLPEnsemble(nn.Module):
    """Ensemble of multilayer perceptrons with one scalar output each, evaluated as one batched matrix product."""

    def __init__(
        self,
        members: int,
        input_size: int,
        hidden_size: int,
        hidden_layers: int,
        activation: str,
        *,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        sizes = [input_size] + [hidden_size] * hidden_layers + [1]
        self.activation, self.layer_norm = activation, layer_norm
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for inputs, outputs in pairwise(sizes):
            bound = 1.0 / math.sqrt(inputs)  # torch.nn.Linear's default
            self.weights.append(nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.empty(members, 1, outputs).uniform_(-bound, bound)))
        if layer_norm:
            shapes = [(members, 1, width) for width in sizes[1:-1]]
            self.gains = nn.ParameterList(nn.Parameter(torch.ones(shape)) for shape in shapes)
            self.shifts = nn.ParameterList(nn.Parameter(torch.zeros(shape)) for shape in shapes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Evaluate all members on the same inputs: (B, inputs) -> (members, B)."""
        return self._evaluate(inputs, *self._list_parameters())

    def evaluate_first(self, inputs: Tensor) -> Tensor:
        """Evaluate the first member without a gradient of its parameters: (B, inputs) -> (B,)."""
        first = ([parameter[:1].detach() for parameter in kind] for kind in self._list_parameters())
        return self._evaluate(inputs, *first)[0]

    def _list_parameters(self) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
        """Return weights, biases, and the gains and shifts of the layer norms, if there are any."""
        norms = (list(self.gains), list(self.shifts)) if self.layer_norm else ([], [])
        return list(self.weights), list(self.biases), *norms

    def _evaluate(
        self,
        inputs: Tensor,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        gains: Sequence[Tensor],
        shifts: Sequence[Tensor],
    ) -> Tensor:
        hidden = inputs.expand(len(weights[0]), -1, -1)
        for layer in range(len(weights) - 1):
            hidden = self.apply_layer(hidden, weights[layer], biases[layer])
            if self.layer_norm:
                hidden = gains[layer] * F.layer_norm(hidden, hidden.shape[-1:]) + shifts[layer]
            hidden = self.activate(hidden)
        return self.apply_layer(hidden, weights[-1], biases[-1]).squeeze(-1)

    def apply_layer(self, inputs: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
        """Multiply by a layer's weights and add its biases: (members, B, inputs) -> (members, B, outputs)."""
        return torch.baddbmm(biases, inputs, weights)

    def activate(self, hidden: Tensor) -> Tensor:
        """Apply the activation that the configuration names, to any shape."""
        return ACTIVATIONS[self.activation](hidden)


class TwinQ(nn.Module):
    """Two independent estimates of the discounted return after taking an action, or N (`critic.members`)."""

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden_size: int,
        hidden_layers: int,
        activation: str,
        *,
        members: int = 2,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        shape = (observation_size + action_size, hidden_size, hidden_layers, activation)
        self.ensemble = MLPEnsemble(members, *shape, layer_norm=layer_norm)

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Map observations and actions to all Q estimates: (..., S), (..., A) -> (N, ...)."""
        inputs = torch.cat([observations, actions], dim=-1)
        values: Tensor = self.ensemble(inputs.flatten(0, -2)).unflatten(1, inputs.shape[:-1])
        return values

    def evaluate_first(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Map to the first Q estimate, without a gradient of its parameters: (..., S), (..., A) -> (...)."""
        inputs = torch.cat([observations, actions], dim=-1)
        values: Tensor = self.ensemble.evaluate_first(inputs.flatten(0, -2)).unflatten(0, inputs.shape[:-1])
        return values


class ValueNetwork(nn.Module):
    """Expectile estimate of the discounted return from an observation."""

    def __init__(
        self,
        observation_size: int,
        hidden_size: int,
        hidden_layers: int,
        activation: str,
        *,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        shape = (observation_size, hidden_size, hidden_layers, activation)
        self.ensemble = MLPEnsemble(1, *shape, layer_norm=layer_norm)

    def forward(self, observations: Tensor) -> Tensor:
        """Map observations to values: (..., S) -> (...)."""
        values: Tensor = self.ensemble(observations.flatten(0, -2))[0].unflatten(0, observations.shape[:-1])
        return values

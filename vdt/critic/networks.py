"""Twin Q and V networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "mish": F.mish}


class MLPEnsemble(nn.Module):
    """Ensemble of multilayer perceptrons with one scalar output each, evaluated as one batched matrix product."""

    def __init__(self, members: int, input_size: int, hidden_size: int, hidden_layers: int, activation: str) -> None:
        super().__init__()
        sizes = [input_size] + [hidden_size] * hidden_layers + [1]
        self.activation = activation
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for inputs, outputs in pairwise(sizes):
            bound = 1.0 / math.sqrt(inputs)  # torch.nn.Linear's default
            self.weights.append(nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.empty(members, 1, outputs).uniform_(-bound, bound)))

    def forward(self, inputs: Tensor) -> Tensor:
        """Evaluate all members on the same inputs: (B, inputs) -> (members, B)."""
        hidden = inputs.expand(len(self.weights[0]), -1, -1)
        last = len(self.weights) - 1
        for layer in range(last):
            hidden = self.activate(self.apply_layer(layer, hidden))
        return self.apply_layer(last, hidden).squeeze(-1)

    def apply_layer(self, layer: int, inputs: Tensor) -> Tensor:
        """Multiply by a layer's weights and add its biases: (members, B, inputs) -> (members, B, outputs)."""
        return torch.baddbmm(self.biases[layer], inputs, self.weights[layer])

    def activate(self, hidden: Tensor) -> Tensor:
        """Apply the activation that the configuration names, to any shape."""
        return ACTIVATIONS[self.activation](hidden)


class TwinQ(nn.Module):
    """Two independent estimates of the discounted return after taking an action."""

    def __init__(
        self, observation_size: int, action_size: int, hidden_size: int, hidden_layers: int, activation: str
    ) -> None:
        super().__init__()
        self.ensemble = MLPEnsemble(2, observation_size + action_size, hidden_size, hidden_layers, activation)

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Map observations and actions to both Q estimates: (..., S), (..., A) -> (2, ...)."""
        inputs = torch.cat([observations, actions], dim=-1)
        values: Tensor = self.ensemble(inputs.flatten(0, -2)).unflatten(1, inputs.shape[:-1])
        return values


class ValueNetwork(nn.Module):
    """Expectile estimate of the discounted return from an observation."""

    def __init__(self, observation_size: int, hidden_size: int, hidden_layers: int, activation: str) -> None:
        super().__init__()
        self.ensemble = MLPEnsemble(1, observation_size, hidden_size, hidden_layers, activation)

    def forward(self, observations: Tensor) -> Tensor:
        """Map observations to values: (..., S) -> (...)."""
        values: Tensor = self.ensemble(observations.flatten(0, -2))[0].unflatten(0, observations.shape[:-1])
        return values

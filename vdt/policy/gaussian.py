"""Diagonal Gaussians over actions, the stochastic heads: squashed into [-1, 1] by tanh (ODT, SAC), or not (IQL)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdt.config.schema import PolicyConfig

LOG_STD_RANGE = (-5.0, 2.0)  # ODT
EDGE = 1 - 1e-6  # recorded actions at the edge have a finite likelihood; ODT


@dataclass(frozen=True)
class NormalGaussian:
    """Distribution N(mean, std^2) in each of A dimensions, not squashed; drawn actions are clipped to [-1, 1].

    Attributes:
        means: (..., A) in [-1, 1], the action without noise.
        log_stds: (..., A).
    """

    means: Tensor
    log_stds: Tensor

    def to_float32(self) -> NormalGaussian:
        """Return the same distribution in float32."""
        return NormalGaussian(self.means.float(), self.log_stds.float())

    def sample(self, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw one action for each mean, (..., A), and its log-density before it is clipped, (...)."""
        like = self.means
        noise = torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)
        raw = like + self.log_stds.exp() * noise
        return raw.clamp(-1, 1), self.compute_log_density(raw)

    def compute_variances(self) -> Tensor:
        """Compute the variance of the action before it is clipped, (..., A)."""
        return (2 * self.log_stds).exp()

    def compute_log_density(self, actions: Tensor) -> Tensor:
        """Compute the log-density of actions: (..., A) -> (...)."""
        return _compute_normal_log_densities(actions, self.means, self.log_stds).sum(-1)


@dataclass(frozen=True)
class SquashedGaussian:
    """Distribution of tanh(u), u ~ N(mean, std^2) in each of A dimensions.

    Attributes:
        means: (..., A) of u; the action without noise is tanh(means).
        log_stds: (..., A) of u.
        temperature: scalar, weight of the entropy term; learnt.
    """

    means: Tensor
    log_stds: Tensor
    temperature: Tensor

    def to_float32(self) -> SquashedGaussian:
        """Return the same distribution in float32."""
        return SquashedGaussian(self.means.float(), self.log_stds.float(), self.temperature.float())

    def sample(self, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw one action and its log-density for each mean: (..., A) and (...); gradients pass through both."""
        like = self.means
        noise = torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)
        raw = like + self.log_stds.exp() * noise
        return torch.tanh(raw), self._compute_log_density(raw)

    def compute_variances(self) -> Tensor:
        """Compute the variance of the action to first order: std^2 (1 - tanh^2 mean)^2, (..., A)."""
        return (2 * self.log_stds).exp() * (1 - torch.tanh(self.means).square()).square()

    def compute_log_density(self, actions: Tensor) -> Tensor:
        """Compute the log-density of actions in [-1, 1]: (..., A) -> (...)."""
        return self._compute_log_density(torch.atanh(actions.clamp(-EDGE, EDGE)))

    def _compute_log_density(self, raw: Tensor) -> Tensor:
        """Compute the log-density of tanh(u), with u given: (..., A) -> (...).

        It is the sum over dimensions of log N(u) - log(1 - tanh^2 u). The second term is computed as 2 (log 2 - u -
        softplus(-2 u)).
        """
        normal = _compute_normal_log_densities(raw, self.means, self.log_stds)
        stretch = 2 * (math.log(2) - raw - F.softplus(-2 * raw))
        return (normal - stretch).sum(-1)


Gaussian = SquashedGaussian | NormalGaussian


def _compute_normal_log_densities(values: Tensor, means: Tensor, log_stds: Tensor) -> Tensor:
    """Compute the log-density of each value under its own normal distribution, of the values' shape."""
    standard = (values - means) * torch.exp(-log_stds)
    return -0.5 * standard.square() - log_stds - 0.5 * math.log(2 * math.pi)


class GaussianHead(nn.Module):
    """Network head for standard deviations, and the temperature of the entropy term."""

    def __init__(self, features: int, action_size: int, initial_temperature: float) -> None:
        super().__init__()
        self.predict_log_std = nn.Linear(features, action_size)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(initial_temperature)))

    def forward(self, features: Tensor, means: Tensor) -> SquashedGaussian:
        """Map features (..., D) and means before the tanh (..., A) to a distribution over (..., A)."""
        low, high = LOG_STD_RANGE
        log_stds = low + (high - low) * torch.sigmoid(self.predict_log_std(features))
        return SquashedGaussian(means, log_stds, self.log_temperature.exp())


class NormalHead(nn.Module):
    """One standard deviation for each action dimension, whatever the observation (IQL, AWAC)."""

    def __init__(self, action_size: int) -> None:
        super().__init__()
        self.log_std = nn.Parameter(torch.zeros(action_size))

    def forward(self, features: Tensor, means: Tensor) -> NormalGaussian:
        """Map means before the tanh (..., A) to a distribution over (..., A); the features (..., D) are not read."""
        means = torch.tanh(means)
        return NormalGaussian(means, self.log_std.clamp(*LOG_STD_RANGE).expand_as(means))


def make_head(config: PolicyConfig, features: int, action_size: int) -> nn.Module | None:
    """Make the stochastic head that `policy.head` names, for features (..., D); none for a deterministic policy."""
    if config.head == "gaussian":
        return GaussianHead(features, action_size, config.initial_temperature)
    return NormalHead(action_size) if config.head == "normal" else None


def choose_actions(actions: Tensor, distribution: Gaussian | None, *, explore: bool) -> Tensor:
    """Return the policy's actions (..., A), or drawn ones where a stochastic policy explores."""
    return distribution.sample()[0] if explore and distribution is not None else actions

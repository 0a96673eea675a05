"""Embedding of a return-to-go as a token."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

FREQUENCIES = 5  # the finest period is an eighth of the data's range


class FourierReturn(nn.Module):
    """Embedding by sines and cosines of the return's place in the data's range (NeRF, Mildenhall et al., 2020).

    A linear embedding w r + b passes a layer norm, which leaves its direction alone. For returns far from 0 that is w's,
    whatever r is: 3 and 3.6 are told apart one eighth as well as 0.7 and 1.5, and 20 and 30 not at all. Here the norm is
    nearly constant and the direction turns evenly. Returns beyond the data's are taken for the nearest of its own.
    """

    low: Tensor
    high: Tensor

    def __init__(self, width: int) -> None:
        """Make the embedding of size `width`; `fit` sets the range, which is 0 to 1 before."""
        super().__init__()
        self.project = nn.Linear(2 * FREQUENCIES, width)
        self.register_buffer("low", torch.zeros(1))
        self.register_buffer("high", torch.ones(1))

    def fit(self, returns_to_go: Tensor) -> None:
        """Set the range to that of the data's returns-to-go, (N,), divided by the return scale."""
        low, high = float(returns_to_go.min()), float(returns_to_go.max())
        self.low.fill_(low)
        self.high.fill_(high if high > low else low + 1.0)

    def forward(self, returns_to_go: Tensor) -> Tensor:
        """Embed returns-to-go: (..., 1) -> (..., D)."""
        place = ((returns_to_go - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
        angles = torch.cat([place * (math.pi * 2**octave) for octave in range(FREQUENCIES)], -1)
        tokens: Tensor = self.project(torch.cat([angles.sin(), angles.cos()], -1))
        return tokens


def make_return_embedding(kind: str, width: int) -> nn.Module:
    """Make the embedding that `policy.return_embedding` names, (..., 1) -> (..., `width`)."""
    return FourierReturn(width) if kind == "fourier" else nn.Linear(1, width)


def fit_return_embedding(policy: nn.Module, find_range: Callable[[], Tensor]) -> None:
    """Fit the policy's embedding to the data's returns-to-go, if it has one that is fitted.

    Args:
        policy: any.
        find_range: gives the lowest and the highest of them, (2,); called only where it is needed.
    """
    embedding = getattr(policy, "embed_return", None)
    if isinstance(embedding, FourierReturn):
        embedding.fit(find_range())

"""The networks written out: one perceptron at a time, attention with its mask."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vdt.critic.networks import MLPEnsemble
from vdt.policy.transformer import CausalSelfAttention


def make_separate_networks(ensemble: MLPEnsemble, activation: type[nn.Module]) -> list[nn.Sequential]:
    """Each member as its own chain of linear layers."""
    networks = []
    for member in range(ensemble.weights[0].shape[0]):
        layers: list[nn.Module] = []
        for weight, bias in zip(ensemble.weights, ensemble.biases, strict=True):
            linear = nn.Linear(weight.shape[1], weight.shape[2])
            linear.weight.data.copy_(weight[member].T)
            linear.bias.data.copy_(bias[member, 0])
            layers += [linear, activation()]
        networks.append(nn.Sequential(*layers[:-1]))
    return networks


def attend_explicitly(attention: CausalSelfAttention, tokens: Tensor) -> Tensor:
    """softmax(q k / sqrt(d)) v, one head and one token at a time, over the past only: (B, L, D) -> (B, L, D)."""
    batch, length, width = tokens.shape
    size = width // attention.heads
    query, key, value = attention.project_in(tokens).split(width, dim=-1)
    mixed = torch.zeros_like(tokens)
    for b in range(batch):
        for head in range(attention.heads):
            part = slice(head * size, (head + 1) * size)
            for now in range(length):
                scores = [query[b, now, part] @ key[b, past, part] / math.sqrt(size) for past in range(now + 1)]
                weights = torch.softmax(torch.stack(scores), 0)
                mixed[b, now, part] = sum(w * value[b, past, part] for past, w in enumerate(weights))
    out: Tensor = attention.project_out(mixed)
    return out

"""Conversion of networks and their updates to faster ones: the same parameters, names and numbers (`runtime.acceleration`).

Nothing of `vdt/critic` and `vdt/policy` depends on this. On a CPU layers change their class, and the critic's update
has its backward pass written out. On a GPU the plain layers stay, and whole steps become CUDA graphs (`capture`).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdt.acceleration.capture import CapturedCriticUpdate
from vdt.acceleration.critic_update import FusedCriticUpdate
from vdt.acceleration.linear import FastEnsemble, FastFeedForward, FastLinear
from vdt.acceleration.threads import SteadyLayerNorm, SteadyLinear
from vdt.acceleration.torch_overhead import compile_pass, skip_compiler, take_step
from vdt.config.schema import RuntimeConfig
from vdt.critic.critic import Critic, CriticUpdate
from vdt.critic.networks import MLPEnsemble
from vdt.policy.decision_transformer import DecisionTransformer
from vdt.policy.return_embedding import FourierReturn
from vdt.policy.transformer import Block, CausalSelfAttention

logger = logging.getLogger(__name__)

Network = TypeVar("Network", bound=nn.Module)


def attend_in_float32(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *, is_causal: bool = False
) -> Tensor:
    """Apply attention under autocast in float32, which on a CPU is three times as fast as bfloat16."""
    if torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(query.float(), key.float(), value.float(), mask, is_causal=is_causal)
    return F.scaled_dot_product_attention(query, key, value, mask, is_causal=is_causal)


class FastAttention(CausalSelfAttention):
    """`CausalSelfAttention` that stays in float32."""

    attend = staticmethod(attend_in_float32)


# Class -> its replacement; and class -> those of its layers that change too. The policy's heads are too narrow for
# oneDNN to gain; those of few outputs become steady (`vdt/acceleration/threads.py`).
FAST: Mapping[type[nn.Module], type[nn.Module]] = {
    MLPEnsemble: FastEnsemble,
    CausalSelfAttention: FastAttention,
    nn.LayerNorm: SteadyLayerNorm,
    nn.Linear: SteadyLinear,
}
FAST_LAYERS: Mapping[type[nn.Module], Mapping[str, type[nn.Module]]] = {
    CausalSelfAttention: {"project_in": FastLinear, "project_out": FastLinear},
    Block: {"feedforward": FastFeedForward},
    DecisionTransformer: {"embed_return": FastLinear, "embed_observation": FastLinear, "embed_action": FastLinear},
    FourierReturn: {"project": FastLinear},
}


def is_captured(runtime: RuntimeConfig, device: torch.device) -> bool:
    """Return whether training steps become CUDA graphs."""
    return runtime.acceleration == "auto" and device.type == "cuda" and not runtime.compile


def accelerate(network: Network, runtime: RuntimeConfig) -> Network:
    """Swap the classes of a network's layers in place, if it is on a CPU; return the same network."""
    if runtime.acceleration == "off" or next(network.parameters()).device.type != "cpu":
        return network
    for part in list(network.modules()):
        for name, fast in FAST_LAYERS.get(type(part), {}).items():
            layer = getattr(part, name)
            if issubclass(fast, type(layer)):  # an embedding may be of several kinds
                layer.__class__ = fast
        part.__class__ = FAST.get(type(part), type(part))
    return network


def make_critic_update(critic: Critic, learning_rate: float, runtime: RuntimeConfig) -> CriticUpdate:
    """Make the fastest update of a critic for its device; each computes the step of `CriticUpdate`."""
    device = next(critic.parameters()).device
    if runtime.compile:
        update = CriticUpdate(critic, learning_rate)
        update.compute_losses = compile_pass(critic.compute_losses)
        return update
    if is_captured(runtime, device):
        return CapturedCriticUpdate(critic, learning_rate)
    if runtime.acceleration == "auto" and device.type == "cpu":
        if not critic.config.layer_norm:
            return FusedCriticUpdate(critic, learning_rate)
        logger.info("critic: layer_norm is trained by autograd, in about twice the time")
    return CriticUpdate(critic, learning_rate)


def make_adamw(
    groups: Iterable[dict[str, Any]], learning_rate: float, runtime: RuntimeConfig, device: torch.device
) -> torch.optim.Optimizer:
    """Make AdamW; accelerated, as one kernel and without PyTorch's wrappers of a step; on a GPU ready for a graph."""
    if runtime.acceleration == "off":
        return torch.optim.AdamW(groups, lr=learning_rate)
    skip_compiler()
    if is_captured(runtime, device):  # a graph keeps the rate of its capture, unless that is a tensor
        rate = torch.tensor(learning_rate, device=device)
        return torch.optim.AdamW(groups, lr=rate, fused=True, capturable=True)
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, fused=True)
    optimizer.step = functools.partial(take_step, optimizer)  # type: ignore[method-assign]
    return optimizer

"""Decision Transformer for acting: constant weights, plain functions instead of modules, code shared with the policy.

A decision consists of a few hundred small products, and calling a module costs as much as one of them. So each class
here holds the attributes that the `forward` of its namesake reads, under the same names, and reuses that function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdt.acceleration.linear import FrozenFeedForward, FrozenLinear
from vdt.config.schema import RuntimeConfig
from vdt.policy.decision_transformer import ActingPolicy, DecisionTransformer
from vdt.policy.return_embedding import FourierReturn
from vdt.policy.transformer import Block, CausalSelfAttention, CausalTransformer


def pass_through(tokens: Tensor) -> Tensor:
    """Return the tokens unchanged: dropout while acting."""
    return tokens


def freeze_norm(norm: nn.LayerNorm) -> Callable[[Tensor], Tensor]:
    """Make a function of the layer norm with its current weights."""
    shape, weight, bias, epsilon = norm.normalized_shape, norm.weight.detach(), norm.bias.detach(), norm.eps
    return lambda tokens: torch.layer_norm(tokens, shape, weight, bias, epsilon)


class FrozenAttention:
    """`CausalSelfAttention` with its current weights."""

    attend, dropout = staticmethod(F.scaled_dot_product_attention), staticmethod(pass_through)
    __call__: Any = CausalSelfAttention.forward

    def __init__(self, attention: CausalSelfAttention) -> None:
        self.heads = attention.heads
        self.project_in, self.project_out = FrozenLinear(attention.project_in), FrozenLinear(attention.project_out)


class FrozenBlock:
    """`Block` with its current weights."""

    dropout = staticmethod(pass_through)
    __call__: Any = Block.forward

    def __init__(self, block: Block) -> None:
        self.norm_attention, self.norm_feedforward = (
            freeze_norm(block.norm_attention),
            freeze_norm(block.norm_feedforward),
        )
        self.attention, self.feedforward = FrozenAttention(block.attention), FrozenFeedForward(block.feedforward)


class FrozenTransformer:
    """`CausalTransformer` with its current weights: two thirds of its time."""

    dropout = staticmethod(pass_through)
    __call__: Any = CausalTransformer.forward

    def __init__(self, transformer: CausalTransformer) -> None:
        self.norm_in, self.norm_out = freeze_norm(transformer.norm_in), freeze_norm(transformer.norm_out)
        self.blocks = [FrozenBlock(block) for block in transformer.blocks]
        self.make_caches = transformer.make_caches


class FrozenFourierReturn:
    """`FourierReturn` with its current weights."""

    __call__: Any = FourierReturn.forward

    def __init__(self, embedding: FourierReturn) -> None:
        self.low, self.high = embedding.low, embedding.high
        self.project = FrozenLinear(embedding.project)


def freeze_return_embedding(embedding: nn.Module) -> Callable[[Tensor], Tensor]:
    """Make a function of the return's embedding with its current weights."""
    if isinstance(embedding, FourierReturn):
        frozen: Callable[[Tensor], Tensor] = FrozenFourierReturn(embedding)
        return frozen
    assert isinstance(embedding, nn.Linear)
    return FrozenLinear(embedding)


class FrozenDecisionTransformer:
    """`DecisionTransformer` with its current weights, without a gradient."""

    forward: Any = DecisionTransformer.forward
    embed: Any = DecisionTransformer.embed
    embed_taken: Any = DecisionTransformer.embed_taken
    predict_choice: Any = DecisionTransformer.predict_choice
    predict_outcome: Any = DecisionTransformer.predict_outcome
    __call__: Any = DecisionTransformer.forward

    def __init__(self, policy: DecisionTransformer) -> None:
        self.horizon, self.gaussian = policy.horizon, policy.gaussian
        times = policy.embed_timestep.weight.detach()
        self.embed_timestep = lambda timesteps: F.embedding(timesteps, times)
        self.embed_return = freeze_return_embedding(policy.embed_return)
        self.embed_observation = FrozenLinear(policy.embed_observation)
        self.embed_action = FrozenLinear(policy.embed_action)
        self.transformer = FrozenTransformer(policy.transformer)
        first = policy.predict_action[0]
        assert isinstance(first, nn.Linear)
        self.predict_action = (FrozenLinear(first), torch.tanh)  # means before the tanh, and the tanh
        self.predict_change = FrozenLinear(policy.predict_change)
        self.predict_reward = FrozenLinear(policy.predict_reward)


def freeze(policy: nn.Module, runtime: RuntimeConfig) -> ActingPolicy:
    """Make the policy's substitute for acting until its weights change; return the policy itself where nothing is gained."""
    if runtime.acceleration == "off" or not isinstance(policy, DecisionTransformer):
        return policy
    return FrozenDecisionTransformer(policy)

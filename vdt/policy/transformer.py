"""A short causal transformer. B batch, L tokens, D embedding, H heads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdt.acceleration.linear import FeedForward, FixedFeedForward, FixedLinear, Layer, Linear


class KeyValueCache:
    """Keys and values of the tokens that one block has seen, so that later tokens need no second pass over them."""

    def __init__(self, held: Tensor) -> None:
        """Starts empty; `held` is room, (2, B, H, capacity in tokens, D/H)."""
        self.held = held
        self.length = 0

    def extend(self, keys_values: Tensor) -> Tensor:
        """Append (2, B, H, L, D/H) of new tokens; all that the block has seen, likewise."""
        count = keys_values.shape[3]
        self.held.narrow(3, self.length, count).copy_(keys_values)
        self.length += count
        return self.held.narrow(3, 0, self.length)

    def keep(self, rows: Tensor) -> None:
        """Drop sequences: `rows` is (B,) bool."""
        self.held = self.held[:, rows]


def make_mask(asking: int, seen: int, like: Tensor) -> Tensor | None:
    """What the last `asking` of `seen` tokens may not look at, to be added to the scores: (asking, seen).

    None where one asks, who may see all, and where all ask: attention has its own way for that.
    """
    return None if asking in (1, seen) else like.new_full((asking, seen), -torch.inf).triu_(seen - asking + 1)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, is_causal: bool) -> Tensor:
    """Scaled dot-product attention, (B, H, L, D/H) each; on a CPU in float32, which there is three times as fast as bfloat16."""
    if torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(query.float(), key.float(), value.float(), mask, is_causal=is_causal)
    return F.scaled_dot_product_attention(query, key, value, mask, is_causal=is_causal)


class AttentionPass:
    """Attention to the past. Padding sits on the right, so being causal is all the masking there is."""

    heads: int
    training: bool
    project_in: Layer
    project_out: Layer
    dropout: Layer

    def forward(
        self, tokens: Tensor, asking: int, cache: KeyValueCache | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """What the last `asking` of the tokens see: (B, L, D) -> (B, asking, D); `mask` as of `make_mask`."""
        batch, length, _ = tokens.shape
        split = self.project_in(tokens).view(batch, length, 3, self.heads, -1)
        split = split.permute(2, 0, 3, 1, 4)  # (3, B, H, L, D/H)
        query, key, value = split.unbind()
        if cache is not None:
            key, value = cache.extend(split[1:]).unbind()
        if asking < length:
            query = query.narrow(2, length - asking, asking)
        mixed = attend(query, key, value, mask, is_causal=asking == key.shape[2] > 1)
        out = self.project_out(mixed.transpose(1, 2).flatten(2))
        return self.dropout(out) if self.training else out


class BlockPass:
    """Attention, then a feed-forward network, each on a normalised copy and added back."""

    training: bool
    norm_attention: Layer
    attention: Callable[[Tensor, int, KeyValueCache | None, Tensor | None], Tensor]
    norm_feedforward: Layer
    feedforward: Layer
    dropout: Layer

    def forward(
        self, tokens: Tensor, asking: int, cache: KeyValueCache | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """What becomes of the last `asking` of the tokens: (B, L, D) -> (B, asking, D)."""
        attended = self.attention(self.norm_attention(tokens), asking, cache, mask)
        tokens = tokens.narrow(1, tokens.shape[1] - asking, asking) + attended
        fed = self.feedforward(self.norm_feedforward(tokens))
        return tokens + (self.dropout(fed) if self.training else fed)


class TransformerPass:
    """Blocks between two layer norms. Token l of the output has seen tokens 0..l."""

    training: bool
    norm_in: Layer
    dropout: Layer
    blocks: Collection[Callable[..., Tensor]]
    norm_out: Layer

    def forward(self, tokens: Tensor, caches: Sequence[KeyValueCache] = (), *, last_only: bool = False) -> Tensor:
        """(B, L, D) -> (B, L, D), or (B, 1, D) if nothing but the last token's output is asked for.

        With caches, the tokens continue those that they have seen, and the output is that of one pass over all of them.
        """
        length, before = tokens.shape[1], caches[0].length if caches else 0
        mask = make_mask(length, before + length, tokens)
        tokens = self.norm_in(tokens)
        tokens = self.dropout(tokens) if self.training else tokens
        for layer, block in enumerate(self.blocks):
            last = last_only and layer == len(self.blocks) - 1  # earlier blocks make keys of every token
            cache = caches[layer] if caches else None
            tokens = block(tokens, 1, cache) if last else block(tokens, length, cache, mask)
        return self.norm_out(tokens)


class CausalSelfAttention(AttentionPass, nn.Module):
    """`AttentionPass` that learns."""

    def __init__(self, embedding_size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.project_in: Linear = Linear(embedding_size, 3 * embedding_size)
        self.project_out: Linear = Linear(embedding_size, embedding_size)
        self.dropout = nn.Dropout(dropout)


class Block(BlockPass, nn.Module):
    """`BlockPass` that learns."""

    def __init__(self, embedding_size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_attention: nn.LayerNorm = nn.LayerNorm(embedding_size)
        self.attention: CausalSelfAttention = CausalSelfAttention(embedding_size, heads, dropout)
        self.norm_feedforward: nn.LayerNorm = nn.LayerNorm(embedding_size)
        self.feedforward: FeedForward = FeedForward(embedding_size, 4 * embedding_size, embedding_size)
        self.dropout = nn.Dropout(dropout)


class CausalTransformer(TransformerPass, nn.Module):
    """`TransformerPass` that learns."""

    def __init__(self, embedding_size: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_in: nn.LayerNorm = nn.LayerNorm(embedding_size)
        self.dropout = nn.Dropout(dropout)
        self.blocks: Any = nn.ModuleList(Block(embedding_size, heads, dropout) for _ in range(layers))
        self.norm_out: nn.LayerNorm = nn.LayerNorm(embedding_size)
        self.apply(_initialize)

    def make_caches(self, batch: int, capacity: int) -> list[KeyValueCache]:
        """Room for `capacity` tokens of `batch` sequences in every block."""
        like = self.norm_out.weight
        shape = (2, batch, self.heads, capacity, len(like) // self.heads)
        return [KeyValueCache(like.new_empty(shape)) for _ in self.blocks]


class FixedAttention(AttentionPass):
    """`AttentionPass` with weights that stay as they are."""

    training = False
    __call__ = AttentionPass.forward

    def __init__(self, attention: CausalSelfAttention) -> None:
        self.heads = attention.heads
        self.project_in, self.project_out = FixedLinear(attention.project_in), FixedLinear(attention.project_out)


class FixedBlock(BlockPass):
    """`BlockPass` with weights that stay as they are."""

    training = False
    __call__ = BlockPass.forward

    def __init__(self, block: Block) -> None:
        self.norm_attention, self.norm_feedforward = _fix_norm(block.norm_attention), _fix_norm(block.norm_feedforward)
        self.attention, self.feedforward = FixedAttention(block.attention), FixedFeedForward(block.feedforward)


class FixedTransformer(TransformerPass):
    """`TransformerPass` with the weights that a transformer has now: for acting, in two thirds of the time."""

    training = False
    __call__ = TransformerPass.forward

    def __init__(self, transformer: CausalTransformer) -> None:
        self.norm_in, self.norm_out = _fix_norm(transformer.norm_in), _fix_norm(transformer.norm_out)
        self.blocks = [FixedBlock(block) for block in transformer.blocks]


def _fix_norm(norm: nn.LayerNorm) -> Layer:
    shape, weight, bias, epsilon = norm.normalized_shape, norm.weight.detach(), norm.bias.detach(), norm.eps
    return lambda tokens: torch.layer_norm(tokens, shape, weight, bias, epsilon)


def _initialize(module: nn.Module) -> None:
    """GPT-2's rule: weights N(0, 0.02), biases zero."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)

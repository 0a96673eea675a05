"""A short causal transformer. B batch, L tokens, D embedding, H heads.

While acting, vdt/acceleration/acting.py runs each `forward` here with frozen weights and without modules. So a body uses
only those attributes of `self` that the frozen class of the same name has, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class KeyValueCache:
    """Keys and values of the tokens that one block has processed, so that later tokens need no second pass over them."""

    def __init__(self, held: Tensor) -> None:
        """Start empty; `held` is the storage, (2, B, H, capacity in tokens, D/H)."""
        self.held = held
        self.length = 0

    def extend(self, keys_values: Tensor) -> Tensor:
        """Append keys and values of new tokens, (2, B, H, L, D/H); return those of all tokens, likewise."""
        count = keys_values.shape[3]
        self.held.narrow(3, self.length, count).copy_(keys_values)
        self.length += count
        return self.held.narrow(3, 0, self.length)

    def select(self, rows: Tensor) -> None:
        """Drop sequences but those of `rows`, (B,) bool."""
        self.held = self.held[:, rows]


def make_mask(new: int, seen: int, like: Tensor) -> Tensor | None:
    """Make the additive mask for the scores of the last `new` of `seen` tokens, (new, seen): -inf where a key lies ahead.

    None where one token is new, which may attend to all, and where all are: attention has a mode of its own for that.
    """
    return None if new in (1, seen) else like.new_full((new, seen), -torch.inf).triu_(seen - new + 1)


class CausalSelfAttention(nn.Module):
    """Attention of each token to itself and the past. Padding is on the right, so the causal mask suffices."""

    attend: ClassVar[Callable[..., Tensor]] = staticmethod(F.scaled_dot_product_attention)

    def __init__(self, embedding_size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.project_in = nn.Linear(embedding_size, 3 * embedding_size)
        self.project_out = nn.Linear(embedding_size, embedding_size)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, tokens: Tensor, cache: KeyValueCache | None = None, mask: Tensor | None = None, *, last_only: bool = False
    ) -> Tensor:
        """Mix each token with those before it: (B, L, D) -> (B, L, D), or (B, 1, D) for the last token only.

        Args:
            tokens: (B, L, D).
            cache: of the tokens before these, which are then attended to.
            mask: from `make_mask`, where tokens continue a cache.
            last_only: whether only the last token is a query.
        """
        batch, length, _ = tokens.shape
        split = self.project_in(tokens).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind()  # (B, H, L, D/H) each
        if cache is not None:
            key, value = cache.extend(split[1:]).unbind()
        if last_only:
            query = query[:, :, -1:]
        is_causal = mask is None and bool(query.shape[2] > 1)  # a tensor where `vdt export` traces the module
        mixed = self.attend(query, key, value, mask, is_causal=is_causal)
        out: Tensor = self.dropout(self.project_out(mixed.transpose(1, 2).flatten(2)))
        return out


class Block(nn.Module):
    """Transformer block: attention, then a feed-forward network, each on a normalised copy and added back."""

    def __init__(self, embedding_size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(embedding_size)
        self.attention = CausalSelfAttention(embedding_size, heads, dropout)
        self.norm_feedforward = nn.LayerNorm(embedding_size)
        self.feedforward = nn.Sequential(
            nn.Linear(embedding_size, 4 * embedding_size), nn.ReLU(), nn.Linear(4 * embedding_size, embedding_size)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, tokens: Tensor, cache: KeyValueCache | None = None, mask: Tensor | None = None, *, last_only: bool = False
    ) -> Tensor:
        """Apply the block: (B, L, D) -> (B, L, D), or (B, 1, D) for the last token only; arguments as of the attention."""
        attended = self.attention(self.norm_attention(tokens), cache, mask, last_only=last_only)
        tokens = (tokens[:, -1:] if last_only else tokens) + attended
        fed: Tensor = self.dropout(self.feedforward(self.norm_feedforward(tokens)))
        return tokens + fed


class CausalTransformer(nn.Module):
    """Stack of blocks between two layer norms. Token l of the output depends on tokens 0..l."""

    def __init__(self, embedding_size: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_in = nn.LayerNorm(embedding_size)
        self.dropout = nn.Dropout(dropout)
        self.blocks: Any = nn.ModuleList(Block(embedding_size, heads, dropout) for _ in range(layers))
        self.norm_out = nn.LayerNorm(embedding_size)
        self.apply(_initialize)

    def forward(self, tokens: Tensor, caches: Sequence[KeyValueCache] = (), *, last_only: bool = False) -> Tensor:
        """Apply the transformer: (B, L, D) -> (B, L, D), or (B, 1, D) for the last token only.

        With caches, the tokens continue the cached ones, and the output is that of one pass over all of them.
        """
        new, before = tokens.shape[1], caches[0].length if caches else 0
        mask = make_mask(new, before + new, tokens)
        tokens = self.dropout(self.norm_in(tokens))
        for layer, block in enumerate(self.blocks):
            cache = caches[layer] if caches else None
            if last_only and layer == len(self.blocks) - 1:  # earlier blocks compute keys of every token
                tokens = block(tokens, cache, last_only=True)
            else:
                tokens = block(tokens, cache, mask)
        out: Tensor = self.norm_out(tokens)
        return out

    def make_caches(self, batch: int, capacity: int) -> list[KeyValueCache]:
        """Make room for `capacity` tokens of `batch` sequences in every block."""
        like = self.norm_out.weight
        shape = (2, batch, self.heads, capacity, len(like) // self.heads)
        return [KeyValueCache(like.new_empty(shape)) for _ in self.blocks]


def _initialize(module: nn.Module) -> None:
    """Initialise by GPT-2's rule: weights N(0, 0.02), biases zero."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)

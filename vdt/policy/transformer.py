"""A short causal transformer. B batch, L tokens, D embedding, H heads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class KeyValueCache:
    """Keys and values of the tokens that a transformer has seen, so that later tokens need no second pass over them."""

    def __init__(self, held: Tensor) -> None:
        """Starts empty; `held` is room, (blocks, 2, B, H, capacity in tokens, D/H)."""
        self.held = held
        self.length = 0

    def extend(self, block: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append (B, H, L, D/H) of new tokens in one block; all that the block has seen, likewise."""
        end = self.length + key.shape[2]
        keys, values = self.held[block]
        keys[:, :, self.length : end], values[:, :, self.length : end] = key, value
        return keys[:, :, :end], values[:, :, :end]


class CausalSelfAttention(nn.Module):
    """Attention to the past. Padding sits on the right, so being causal is all the masking there is."""

    def __init__(self, embedding_size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.project_in = nn.Linear(embedding_size, 3 * embedding_size)
        self.project_out = nn.Linear(embedding_size, embedding_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, cache: KeyValueCache | None = None, block: int = 0) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        split = self.project_in(tokens).unflatten(-1, (3, self.heads, -1))  # (B, L, 3, H, D/H)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each (B, H, L, D/H)
        if cache is None or cache.length == 0:
            if cache is not None:
                cache.extend(block, key, value)
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            key, value = cache.extend(block, key, value)
            length, seen = query.shape[2], key.shape[2]
            mask = torch.ones(length, seen, dtype=torch.bool, device=query.device).tril(seen - length)
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=None if length == 1 else mask)
        out: Tensor = self.dropout(self.project_out(mixed.transpose(1, 2).flatten(2)))
        return out


class Block(nn.Module):
    """Attention, then a feed-forward network, each on a normalised copy and added back."""

    def __init__(self, embedding_size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(embedding_size)
        self.attention = CausalSelfAttention(embedding_size, heads, dropout)
        self.norm_feedforward = nn.LayerNorm(embedding_size)
        self.feedforward = nn.Sequential(
            nn.Linear(embedding_size, 4 * embedding_size),
            nn.ReLU(),
            nn.Linear(4 * embedding_size, embedding_size),
            nn.Dropout(dropout),
        )

    def forward(self, tokens: Tensor, cache: KeyValueCache | None = None, block: int = 0) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        tokens = tokens + self.attention(self.norm_attention(tokens), cache, block)
        out: Tensor = tokens + self.feedforward(self.norm_feedforward(tokens))
        return out


class CausalTransformer(nn.Module):
    """Blocks between two layer norms. Token l of the output has seen tokens 0..l."""

    def __init__(self, embedding_size: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_in = nn.LayerNorm(embedding_size)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(embedding_size, heads, dropout) for _ in range(layers))
        self.norm_out = nn.LayerNorm(embedding_size)
        self.apply(_initialize)

    def make_cache(self, batch: int, capacity: int) -> KeyValueCache:
        """Room for `capacity` tokens of `batch` sequences."""
        like = self.norm_out.weight
        size = len(like) // self.heads
        return KeyValueCache(like.new_empty(len(self.blocks), 2, batch, self.heads, capacity, size))

    def forward(self, tokens: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """(B, L, D) -> (B, L, D).

        With a cache, the tokens continue those that it has seen, and the output is that of one pass over all of them.
        """
        tokens = self.dropout(self.norm_in(tokens))
        for number, block in enumerate(self.blocks):
            tokens = block(tokens, cache, number)
        if cache is not None:
            cache.length += tokens.shape[1]
        out: Tensor = self.norm_out(tokens)
        return out


def _initialize(module: nn.Module) -> None:
    """GPT-2's rule: weights N(0, 0.02), biases zero."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)

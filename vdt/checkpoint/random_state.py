"""Random streams of a training step: seeded together, stored in its checkpoints, restored on resume."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def seed_streams(seed: int) -> None:
    """Seed PyTorch's streams (CPU and GPU) and NumPy's global one, for libraries that draw from it."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)


def get_random_state(generator: torch.Generator) -> dict[str, Any]:
    """Return all random streams of a step as tensors and plain numbers; `generator` is its sampler's."""
    stored = np.random.get_state(legacy=False)
    return {
        "sampler": generator.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": {
            "key": torch.from_numpy(stored["state"]["key"].astype(np.int64)),
            "pos": int(stored["state"]["pos"]),
            "has_gauss": int(stored["has_gauss"]),
            "gauss": float(stored["gauss"]),
        },
    }


def set_random_state(state: dict[str, Any], generator: torch.Generator) -> None:
    """Restore the streams that `get_random_state` returned."""
    generator.set_state(state["sampler"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    stored = state["numpy"]
    position = {"key": stored["key"].numpy().astype(np.uint32), "pos": stored["pos"]}
    np.random.set_state(
        {
            "bit_generator": "MT19937",
            "state": position,
            "has_gauss": stored["has_gauss"],
            "gauss": stored["gauss"],
        }
    )

"""Layers that stay in float32 while the rest of a policy trains in lower precision (`runtime.precision`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def call_in_float32(layer: Callable[..., Any], *inputs: Tensor) -> Any:
    """Apply a layer to float32 inputs, outside of autocast.

    In bfloat16 a return-to-go of 2 is rounded to steps of 0.016, which are 16 units at a return scale of 1000.
    """
    kind = inputs[0].device.type
    if not torch.is_autocast_enabled(kind):
        return layer(*inputs)
    with torch.autocast(kind, enabled=False):
        return layer(*(given.float() for given in inputs))

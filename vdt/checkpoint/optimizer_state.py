"""Continuation of an optimizer from a checkpoint, which may come from another device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

HOW = ("foreach", "fused", "capturable")  # of a parameter group: how a step is computed, which belongs to the device


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the moments and rates of an optimizer's `state_dict`.

    PyTorch's `load_state_dict` alone takes over how the step was computed where the state comes from, and replaces a
    learning rate that is a tensor. A CUDA graph would go on to read the old one.
    """
    groups = optimizer.param_groups
    rates = [group["lr"] for group in groups]
    saved = [
        {**before, **{name: now[name] for name in HOW}}
        for now, before in zip(groups, state["param_groups"], strict=True)
    ]
    optimizer.load_state_dict({**state, "param_groups": saved})
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        loaded = float(group["lr"])
        group["lr"] = rate.fill_(loaded) if isinstance(rate, Tensor) else loaded

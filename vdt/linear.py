"""Matrix products on a CPU by oneDNN, which uses AVX-512 wherever it is; MKL, PyTorch's choice, on Intel's processors alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

FEWEST_ROWS = 16  # below this the calls themselves cost more than the products
AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def multiply(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear` by oneDNN, without a gradient: (..., I), (O, I), (O,) -> (..., O)."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return out


class _Product(torch.autograd.Function):
    """`multiply` with its gradients, which are products too."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(B, I) -> (B, O)."""
        ctx.save_for_backward(inputs, weight)
        return multiply(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """(B, O) -> those of inputs, weight and bias that are asked for."""
        inputs, weight = ctx.saved_tensors
        needs = ctx.needs_input_grad
        return (
            multiply(gradient, weight.t()) if needs[0] else None,
            multiply(gradient.t(), inputs.t()) if needs[1] else None,
            gradient.sum(0) if needs[2] else None,
        )


class Linear(nn.Linear):
    """`torch.nn.Linear`, twice as fast on AMD's processors."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        few, single = input.numel() < FEWEST_ROWS * self.in_features, input.dtype == torch.float32
        if few or not (AVAILABLE and single and input.device.type == "cpu") or torch.is_autocast_enabled("cpu"):
            return F.linear(input, self.weight, self.bias)
        if not torch.is_grad_enabled():
            return multiply(input, self.weight, self.bias)
        rows = _Product.apply(input.flatten(0, -2), self.weight, self.bias)  # type: ignore[no-untyped-call]
        out: Tensor = rows.unflatten(0, input.shape[:-1])
        return out

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


def multiply_members(first: Tensor, second: Tensor, out: Tensor, bias: Tensor | None = None) -> None:
    """Products of M pairs of matrices, without a gradient: (M, R, I) x (M, I, O), plus (M, 1, O), into `out` (M, R, O)."""
    if not AVAILABLE or first.device.type != "cpu" or min(first.shape[2], second.shape[2]) == 1:
        torch.bmm(first, second, out=out) if bias is None else torch.baddbmm(bias, first, second, out=out)
        return
    for member, (left, right) in enumerate(zip(first, second, strict=True)):
        out[member] = multiply(left.contiguous(), right.t(), None if bias is None else bias[member, 0])


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
            _multiply_transposed(gradient, inputs) if needs[1] else None,
            gradient.sum(0) if needs[2] else None,
        )


def _multiply_transposed(first: Tensor, second: Tensor) -> Tensor:
    """(B, M), (B, N) -> (M, N): the one that oneDNN wants turned over is the smaller."""
    if first.shape[1] <= second.shape[1]:
        return multiply(first.t().contiguous(), second.t())
    return multiply(second.t().contiguous(), first.t()).t()


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

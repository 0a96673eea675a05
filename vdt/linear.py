"""Matrix products on a CPU by oneDNN, which uses AVX-512 wherever it is; MKL, PyTorch's choice, on Intel's processors alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

FEWEST_ROWS = 16  # below this the calls themselves cost more than the products
NARROWEST = 32  # below this oneDNN has slow ways of its own
AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def suits_onednn(*tensors: Tensor, narrowest: int) -> bool:
    """Whether oneDNN is here, and quicker for these tensors, of whose matrices `narrowest` is the smallest dimension."""
    return (
        AVAILABLE
        and narrowest >= NARROWEST
        and not torch.compiler.is_compiling()  # which has its own choice
        and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
    )


def multiply(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear` by oneDNN, without a gradient: (..., I), (O, I), (O,) -> (..., O)."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return out


def multiply_members(first: Tensor, second: Tensor, out: Tensor, bias: Tensor | None = None) -> Tensor:
    """Products of M pairs of matrices, without a gradient: (M, R, I) x (M, I, O), plus (M, 1, O), into `out` (M, R, O)."""
    if not suits_onednn(first, second, narrowest=min(*first.shape[1:], second.shape[2])):
        return torch.bmm(first, second, out=out) if bias is None else torch.baddbmm(bias, first, second, out=out)
    for member, (left, right) in enumerate(zip(first, second, strict=True)):
        out[member] = multiply(left.contiguous(), right.t(), None if bias is None else bias[member, 0])
    return out


class _Product(torch.autograd.Function):
    """`multiply` with its gradients, which are products too."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        ctx.save_for_backward(inputs, weight)
        return multiply(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """(..., O) -> those of inputs, weight and bias that are asked for."""
        inputs, weight = ctx.saved_tensors
        needs, rows = ctx.needs_input_grad, gradient.flatten(0, -2).contiguous()
        return (
            multiply(gradient, weight.t()) if needs[0] else None,
            _multiply_turned(rows, inputs.flatten(0, -2)) if needs[1] else None,
            rows.sum(0) if needs[2] else None,
        )


def _multiply_turned(first: Tensor, second: Tensor) -> Tensor:
    """(B, M), (B, N) -> (M, N): of the two that one is turned over for oneDNN which is smaller."""
    if first.shape[1] <= second.shape[1]:
        return multiply(first.t().contiguous(), second.t())
    return multiply(second.t().contiguous(), first.t()).t()


class _MemberProduct(torch.autograd.Function):
    """`multiply_members` with its gradients."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, bias: Tensor) -> Tensor:
        """(M, R, I), (M, I, O), (M, 1, O) -> (M, R, O)."""
        ctx.save_for_backward(first, second)
        return multiply_members(first, second, first.new_empty(*first.shape[:2], second.shape[2]), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """(M, R, O) -> those of the two factors and the bias that are asked for."""
        first, second = ctx.saved_tensors
        needs, gradient = ctx.needs_input_grad, gradient.contiguous()
        return (
            multiply_members(gradient, second.transpose(1, 2), torch.empty_like(first)) if needs[0] else None,
            multiply_members(first.transpose(1, 2), gradient, torch.empty_like(second)) if needs[1] else None,
            gradient.sum(1, keepdim=True) if needs[2] else None,
        )


def apply_members(inputs: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
    """`multiply_members` for autograd: (M, R, I), (M, I, O), (M, 1, O) -> (M, R, O)."""
    out: Tensor = _MemberProduct.apply(inputs, weights, biases)  # type: ignore[no-untyped-call]
    return out


class Linear(nn.Linear):
    """`torch.nn.Linear`, twice as fast on AMD's processors."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        few = input.numel() < FEWEST_ROWS * self.in_features
        narrowest = min(self.in_features, self.out_features)
        if few or not suits_onednn(input, self.weight, narrowest=narrowest) or torch.is_autocast_enabled("cpu"):
            return F.linear(input, self.weight, self.bias)
        if not torch.is_grad_enabled():
            return multiply(input, self.weight, self.bias)
        out: Tensor = _Product.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return out

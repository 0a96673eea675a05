"""Matrix products on a CPU by the faster of two libraries: MKL is fast on Intel's processors alone, oneDNN uses AVX-512 on all.

On AMD's processors this module multiplies by oneDNN, twice as fast. On both, a feed-forward network is one function:
oneDNN adds bias and ReLU while it multiplies. Acting uses `FrozenLinear`: MKL multiplies few rows up to twice as fast
by a transposed weight. A call of a module costs as much as a small product.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vdt.acceleration.mish import mish
from vdt.critic.networks import MLPEnsemble
from vdt.system.machine import read_processor, use_threads

Layer = Callable[[Tensor], Tensor]
NARROWEST = 32  # below this oneDNN uses slow kernels
AVAILABLE = (
    torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    and platform.machine().lower() in ("x86_64", "amd64")
)


def prefers_onednn() -> bool:
    """Return whether MKL does not use AVX-512 on this vendor's processors, so that oneDNN is faster."""
    return AVAILABLE and any(vendor in read_processor() for vendor in ("AuthenticAMD", "HygonGenuine"))


MKL_IS_SLOW = prefers_onednn()
FEWEST_ROWS = 16 if MKL_IS_SLOW else 512  # below this oneDNN's calls cost more than they save


def allows_onednn(*tensors: Tensor, narrowest: int) -> bool:
    """Return whether oneDNN multiplies these tensors well; `narrowest` is the smallest dimension of their matrices."""
    return (
        AVAILABLE
        and narrowest >= NARROWEST
        and not torch.compiler.is_compiling()  # which has its own choice
        and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
    )


def multiply(inputs: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """Compute `torch.nn.functional.linear` by oneDNN, without a gradient: (..., I), (O, I), (O,) -> (..., O).

    The last argument names the function applied to the result: "relu" or "none".
    """
    out: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, activation, [], "")
    return out


def multiply_members(first: Tensor, second: Tensor, out: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply M pairs of matrices, without a gradient: (M, R, I) x (M, I, O), plus (M, 1, O), into `out` (M, R, O).

    One thread computes few rows. MKL splits their sums, as those of a narrow layer's weight gradient, among threads, so
    that the last bits would depend on the number of threads.
    """
    if not (MKL_IS_SLOW and allows_onednn(first, second, narrowest=min(*first.shape[1:], second.shape[2]))):
        with use_threads(1) if first.shape[1] < NARROWEST else contextlib.nullcontext():
            return torch.bmm(first, second, out=out) if bias is None else torch.baddbmm(bias, first, second, out=out)
    for member, (left, right) in enumerate(zip(first, second, strict=True)):
        out[member] = multiply(left.contiguous(), right.t(), None if bias is None else bias[member, 0])
    return out


def _compute_input_gradient(gradient: Tensor, weight: Tensor) -> Tensor:
    """Compute the gradient of the inputs: (B, O), (O, I) -> (B, I)."""
    return multiply(gradient, weight.t()) if MKL_IS_SLOW else gradient @ weight


def _compute_weight_gradient(gradient: Tensor, inputs: Tensor) -> Tensor:
    """Compute the gradient of the weight: (B, O), (B, I) -> (O, I); for oneDNN the smaller factor is transposed."""
    if not MKL_IS_SLOW:
        return gradient.t() @ inputs
    if gradient.shape[1] <= inputs.shape[1]:
        return multiply(gradient.t().contiguous(), inputs.t())
    return multiply(inputs.t().contiguous(), gradient.t()).t()


class _Product(torch.autograd.Function):
    """Autograd function of `multiply`, whose gradients are products too."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Multiply inputs by the weight and add the bias: (..., I) -> (..., O)."""
        ctx.save_for_backward(inputs, weight)
        return multiply(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Map the output's gradient (..., O) to the requested ones of inputs, weight and bias."""
        inputs, weight = ctx.saved_tensors
        needs, rows = ctx.needs_input_grad, gradient.flatten(0, -2).contiguous()
        return (
            _compute_input_gradient(rows, weight).view_as(inputs) if needs[0] else None,
            _compute_weight_gradient(rows, inputs.flatten(0, -2)) if needs[1] else None,
            rows.sum(0) if needs[2] else None,
        )


class _FeedForward(torch.autograd.Function):
    """Autograd function of two products with a ReLU between them, whose derivative is applied in place."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, last_weight: Tensor, last_bias: Tensor
    ) -> Tensor:
        """Apply both layers: (..., I) -> (..., O)."""
        hidden = multiply(inputs, weight, bias, "relu")
        ctx.save_for_backward(inputs, hidden, weight, last_weight)
        return multiply(hidden, last_weight, last_bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Map the output's gradient (..., O) to those of all five inputs."""
        inputs, hidden, weight, last_weight = ctx.saved_tensors
        rows, hidden = gradient.flatten(0, -2).contiguous(), hidden.flatten(0, -2)
        behind = _compute_input_gradient(rows, last_weight)
        torch.ops.aten.threshold_backward.grad_input(behind, hidden, 0, grad_input=behind)
        return (
            _compute_input_gradient(behind, weight).view_as(inputs),
            _compute_weight_gradient(behind, inputs.flatten(0, -2)),
            behind.sum(0),
            _compute_weight_gradient(rows, hidden),
            rows.sum(0),
        )


class _MemberProduct(torch.autograd.Function):
    """Autograd function of `multiply_members`."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, bias: Tensor) -> Tensor:
        """Multiply the members' matrices: (M, R, I), (M, I, O), (M, 1, O) -> (M, R, O)."""
        ctx.save_for_backward(first, second)
        return multiply_members(first, second, first.new_empty(*first.shape[:2], second.shape[2]), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Map the output's gradient (M, R, O) to the requested ones of the two factors and the bias."""
        first, second = ctx.saved_tensors
        needs, gradient = ctx.needs_input_grad, gradient.contiguous()
        return (
            multiply_members(gradient, second.transpose(1, 2), torch.empty_like(first)) if needs[0] else None,
            multiply_members(first.transpose(1, 2), gradient, torch.empty_like(second)) if needs[1] else None,
            gradient.sum(1, keepdim=True) if needs[2] else None,
        )


def apply_members(inputs: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
    """Apply `multiply_members` with autograd: (M, R, I), (M, I, O), (M, 1, O) -> (M, R, O)."""
    out: Tensor = _MemberProduct.apply(inputs, weights, biases)  # type: ignore[no-untyped-call]
    return out


def _is_worth_onednn(inputs: Tensor, *weights: Tensor) -> bool:
    if inputs.numel() < FEWEST_ROWS * inputs.shape[-1]:
        return False
    narrowest = min(size for weight in weights for size in weight.shape)
    return allows_onednn(inputs, weights[0], narrowest=narrowest) and not torch.is_autocast_enabled("cpu")


class FastLinear(nn.Linear):
    """`torch.nn.Linear`, twice as fast on AMD's processors."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer: (..., inputs) -> (..., outputs)."""
        if not (MKL_IS_SLOW and _is_worth_onednn(input, self.weight)):
            return F.linear(input, self.weight, self.bias)
        out: Tensor = _Product.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return out


class FastFeedForward(nn.Sequential):
    """`Sequential` of Linear, ReLU, Linear as one function: bias and ReLU are added while oneDNN multiplies."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the network: (..., inputs) -> (..., outputs)."""
        first, last = self[0], self[2]
        assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
        if not _is_worth_onednn(input, first.weight, last.weight):
            out: Tensor = super().forward(input)  # type: ignore[no-untyped-call]
        else:
            parameters = (first.weight, first.bias, last.weight, last.bias)
            out = _FeedForward.apply(input, *parameters)  # type: ignore[no-untyped-call]
        return out


class FastEnsemble(MLPEnsemble):
    """`MLPEnsemble` whose products use oneDNN where that is faster, with Mish of one exponential."""

    def apply_layer(self, inputs: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
        """Multiply by a layer's weights and add its biases: (members, B, inputs) -> (members, B, outputs)."""
        if torch.compiler.is_compiling():  # which has its own choice
            return super().apply_layer(inputs, weights, biases)
        return apply_members(inputs, weights, biases)

    def activate(self, hidden: Tensor) -> Tensor:
        """Apply the activation that the configuration names, to any shape."""
        if self.activation != "mish" or torch.compiler.is_compiling():
            return super().activate(hidden)
        return mish(hidden)


class FrozenLinear:
    """Linear layer with constant weights, without a gradient: (..., inputs) -> (..., outputs)."""

    def __init__(self, layer: nn.Linear) -> None:
        self.weight, self.bias = layer.weight.detach(), layer.bias.detach()
        self.turned = self.weight if MKL_IS_SLOW else self.weight.t().contiguous().t()  # as (I, O) in memory

    def __call__(self, input: Tensor) -> Tensor:
        """Apply the layer."""
        if MKL_IS_SLOW and _is_worth_onednn(input, self.weight):
            return multiply(input, self.weight, self.bias)
        return F.linear(input, self.turned, self.bias)


class FrozenFeedForward:
    """`Sequential` of Linear, ReLU, Linear with constant weights, without a gradient."""

    def __init__(self, network: nn.Sequential) -> None:
        first, last = network[0], network[2]
        assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
        self.first, self.last = FrozenLinear(first), FrozenLinear(last)

    def __call__(self, input: Tensor) -> Tensor:
        """Apply the network."""
        first, last = self.first, self.last
        if _is_worth_onednn(input, first.weight, last.weight):
            return multiply(multiply(input, first.weight, first.bias, "relu"), last.weight, last.bias)
        return last(first(input).relu_())

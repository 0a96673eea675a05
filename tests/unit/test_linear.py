"""oneDNN's matrix products equal PyTorch's own, with their gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vdt.linear import AVAILABLE, FEWEST_ROWS, Linear, multiply_members


def run(layer: Linear, inputs: Tensor, *, own: bool) -> list[Tensor]:
    """Output, and gradients of inputs, weight and bias."""
    inputs = inputs.clone().requires_grad_()
    out = F.linear(inputs, layer.weight, layer.bias) if own else layer(inputs)
    needed = (inputs, layer.weight, layer.bias)
    return [
        out,
        *torch.autograd.grad(out.tanh().sum(), needed, retain_graph=True),
        *torch.autograd.grad(out.sum(), needed),
    ]


@pytest.mark.parametrize("shape", [(FEWEST_ROWS, 5), (3, 20, 5), (2, 3, 7, 5), (1, 5)])
def test_products_and_gradients_equal_pytorchs(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = Linear(5, 33)
    inputs = torch.randn(shape)
    for ours, theirs in zip(run(layer, inputs, own=False), run(layer, inputs, own=True), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(layer(inputs), F.linear(inputs, layer.weight, layer.bias), atol=1e-5, rtol=1e-5)


def test_which_product_is_taken() -> None:
    layer, few, many = Linear(5, 3), torch.zeros(FEWEST_ROWS - 1, 5), torch.zeros(FEWEST_ROWS, 5)
    assert "Addmm" in layer(few).grad_fn.name()
    assert ("Addmm" not in layer(many).grad_fn.next_functions[0][0].name()) == AVAILABLE
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(many).dtype == torch.bfloat16
    assert layer.double()(many.double()).dtype == torch.float64


def test_frozen_parameters_get_no_gradient() -> None:
    layer = Linear(5, 3).requires_grad_(False)
    inputs = torch.randn(FEWEST_ROWS, 5, requires_grad=True)
    layer(inputs).sum().backward()
    assert layer.weight.grad is None and inputs.grad is not None
    torch.testing.assert_close(inputs.grad[0], layer.weight.sum(0))


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(7, 5, 3), (7, 5, 1), (5, 1, 4), (1, 4, 9)])
def test_products_of_pairs_of_matrices(rows: int, inputs: int, outputs: int) -> None:
    torch.manual_seed(0)
    first, second, bias = torch.randn(2, rows, inputs), torch.randn(2, inputs, outputs), torch.randn(2, 1, outputs)
    out = torch.empty(2, rows, outputs)
    multiply_members(first, second, out)
    torch.testing.assert_close(out, first @ second)
    multiply_members(first, second, out, bias)
    torch.testing.assert_close(out, first @ second + bias)
    turned = first.transpose(1, 2).contiguous().transpose(1, 2), second.transpose(1, 2).contiguous().transpose(1, 2)
    multiply_members(*turned, out)
    torch.testing.assert_close(out, first @ second)

"""oneDNN's matrix products equal PyTorch's own, with their gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vdt.linear import AVAILABLE, FEWEST_ROWS, NARROWEST, Linear, apply_members, multiply_members


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


SIZES = [(NARROWEST, 33), (40, NARROWEST), (5, 33)]  # the last is too narrow


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("leading", [(FEWEST_ROWS,), (3, 20), (2, 3, 7), (1,)])
def test_products_and_gradients_equal_pytorchs(leading: tuple[int, ...], sizes: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = Linear(*sizes)
    inputs = torch.randn(*leading, sizes[0])
    for ours, theirs in zip(run(layer, inputs, own=False), run(layer, inputs, own=True), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(layer(inputs), F.linear(inputs, layer.weight, layer.bias), atol=1e-5, rtol=1e-5)


def test_which_product_is_taken() -> None:
    layer = Linear(NARROWEST, NARROWEST)
    few, many = (torch.zeros(rows, NARROWEST) for rows in (FEWEST_ROWS - 1, FEWEST_ROWS))
    assert "Addmm" in layer(few).grad_fn.name() and ("Addmm" not in layer(many).grad_fn.name()) == AVAILABLE
    assert "Addmm" in Linear(NARROWEST - 1, NARROWEST)(many[:, 1:]).grad_fn.name()
    assert "Addmm" in Linear(NARROWEST, NARROWEST - 1)(many).grad_fn.name()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(many).dtype == torch.bfloat16
    assert layer.double()(many.double()).dtype == torch.float64


def test_frozen_parameters_get_no_gradient() -> None:
    layer = Linear(NARROWEST, 40).requires_grad_(False)
    inputs = torch.randn(FEWEST_ROWS, NARROWEST, requires_grad=True)
    layer(inputs).sum().backward()
    assert layer.weight.grad is None and inputs.grad is not None
    torch.testing.assert_close(inputs.grad[0], layer.weight.sum(0))


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(70, 50, 40), (7, 50, 40), (70, 50, 1), (1, 4, 9)])
def test_products_of_pairs_of_matrices(rows: int, inputs: int, outputs: int) -> None:
    torch.manual_seed(0)
    first, second, bias = torch.randn(2, rows, inputs), torch.randn(2, inputs, outputs), torch.randn(2, 1, outputs)
    out = torch.empty(2, rows, outputs)
    multiply_members(first, second, out)
    torch.testing.assert_close(out, first @ second, atol=1e-5, rtol=1e-5)
    turned = first.transpose(1, 2).contiguous().transpose(1, 2), second.transpose(1, 2).contiguous().transpose(1, 2)
    multiply_members(*turned, out)
    torch.testing.assert_close(out, first @ second, atol=1e-5, rtol=1e-5)
    factors = [t.requires_grad_() for t in (first, second, bias)]
    plain = torch.baddbmm(bias, first, second)
    torch.testing.assert_close(apply_members(*factors), plain, atol=1e-5, rtol=1e-5)
    for make_loss in (lambda t: t.tanh().sum(), lambda t: t.sum()):
        ours, theirs = (
            torch.autograd.grad(make_loss(t), factors, retain_graph=True) for t in (apply_members(*factors), plain)
        )
        for mine, expected in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-5)

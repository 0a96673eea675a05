"""oneDNN's matrix products equal PyTorch's own, with their gradients, whichever of the two this processor prefers."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vdt.acceleration.linear
from vdt.acceleration.linear import (
    AVAILABLE,
    NARROWEST,
    FastFeedForward,
    FastLinear,
    FrozenFeedForward,
    FrozenLinear,
    apply_members,
    multiply_members,
)

FEWEST_ROWS = 16


def make_feedforward(inputs: int, hidden: int, outputs: int) -> FastFeedForward:
    return FastFeedForward(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


@pytest.fixture(params=[False, AVAILABLE] if AVAILABLE else [False], ids=lambda slow: "oneDNN" if slow else "MKL")
def slow_mkl(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """As on Intel's processors, and as on AMD's."""
    monkeypatch.setattr(vdt.acceleration.linear, "MKL_IS_SLOW", request.param)
    monkeypatch.setattr(vdt.acceleration.linear, "FEWEST_ROWS", FEWEST_ROWS)
    return bool(request.param)


def apply_plainly(layer: nn.Module, inputs: Tensor) -> Tensor:
    """By PyTorch's own functions."""
    if isinstance(layer, FastLinear):
        return F.linear(inputs, layer.weight, layer.bias)
    return F.linear(F.relu(F.linear(inputs, layer[0].weight, layer[0].bias)), layer[2].weight, layer[2].bias)


def run(layer: nn.Module, inputs: Tensor, *, own: bool) -> list[Tensor]:
    """Output, and gradients of inputs and parameters."""
    inputs = inputs.clone().requires_grad_()
    out = apply_plainly(layer, inputs) if own else layer(inputs)
    needed = (inputs, *layer.parameters())
    return [
        out,
        *torch.autograd.grad(out.tanh().sum(), needed, retain_graph=True),
        *torch.autograd.grad(out.sum(), needed),
    ]


LAYERS = {
    "wide": lambda: FastLinear(NARROWEST, 33),
    "wide enough": lambda: FastLinear(40, NARROWEST),
    "too narrow": lambda: FastLinear(5, 33),
    "feed-forward": lambda: make_feedforward(NARROWEST, 70, 33),
    "feed-forward, too narrow": lambda: make_feedforward(NARROWEST, 5, 33),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("leading", [(FEWEST_ROWS,), (3, 20), (2, 3, 7), (1,)])
def test_products_and_gradients_equal_pytorchs(leading: tuple[int, ...], kind: str, slow_mkl: bool) -> None:
    torch.manual_seed(0)
    layer = LAYERS[kind]()
    inputs = torch.randn(*leading, next(layer.parameters()).shape[1])
    for ours, theirs in zip(run(layer, inputs, own=False), run(layer, inputs, own=True), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(layer(inputs), apply_plainly(layer, inputs), atol=1e-5, rtol=1e-5)


def test_which_product_is_taken(slow_mkl: bool) -> None:
    layer, fed = FastLinear(NARROWEST, NARROWEST), make_feedforward(NARROWEST, NARROWEST, NARROWEST)
    few, many = (torch.zeros(rows, NARROWEST) for rows in (FEWEST_ROWS - 1, FEWEST_ROWS))
    assert layer(few).grad_fn.name() == fed(few).grad_fn.name() == "AddmmBackward0"
    assert layer(many).grad_fn.name() == ("_ProductBackward" if slow_mkl else "AddmmBackward0")
    assert fed(many).grad_fn.name() == ("_FeedForwardBackward" if AVAILABLE else "AddmmBackward0")
    assert "Addmm" in FastLinear(NARROWEST - 1, NARROWEST)(many[:, 1:]).grad_fn.name()
    assert "Addmm" in FastLinear(NARROWEST, NARROWEST - 1)(many).grad_fn.name()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(many).dtype == fed(many).dtype == torch.bfloat16
    assert layer.double()(many.double()).dtype == fed.double()(many.double()).dtype == torch.float64


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("leading", [(FEWEST_ROWS,), (3, 20), (1,)])
@torch.inference_mode()
def test_fixed_layers_say_what_the_layers_say(leading: tuple[int, ...], kind: str, slow_mkl: bool) -> None:
    torch.manual_seed(0)
    layer = LAYERS[kind]()
    inputs = torch.randn(*leading, next(layer.parameters()).shape[1])
    before = inputs.clone()
    fixed = FrozenLinear(layer) if isinstance(layer, FastLinear) else FrozenFeedForward(layer)
    torch.testing.assert_close(fixed(inputs), apply_plainly(layer, inputs), atol=1e-5, rtol=1e-5)
    assert (inputs == before).all()
    if isinstance(fixed, FrozenLinear):
        assert fixed.turned.t().is_contiguous() is not slow_mkl  # the way in which MKL likes it


@pytest.mark.parametrize(
    ("text", "slow"),
    [("vendor_id\t: AuthenticAMD\n", AVAILABLE), ("vendor_id\t: GenuineIntel\n", False), ("arm", False), ("", False)],
)
def test_amds_processors_multiply_by_onednn(text: str, slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vdt.acceleration.linear, "read_processor", lambda: text)
    assert vdt.acceleration.linear.prefers_onednn() is slow


def test_frozen_parameters_get_no_gradient(slow_mkl: bool) -> None:
    layer = FastLinear(NARROWEST, 40).requires_grad_(False)
    inputs = torch.randn(FEWEST_ROWS, NARROWEST, requires_grad=True)
    layer(inputs).sum().backward()
    assert layer.weight.grad is None and inputs.grad is not None
    torch.testing.assert_close(inputs.grad[0], layer.weight.sum(0))


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(70, 50, 40), (7, 50, 40), (70, 50, 1), (1, 4, 9)])
def test_products_of_pairs_of_matrices(rows: int, inputs: int, outputs: int, slow_mkl: bool) -> None:
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

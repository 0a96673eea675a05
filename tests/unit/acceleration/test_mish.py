"""Mish with one exponential, against PyTorch's."""

import torch

from vdt.acceleration.mish import mish


def test_mish_equals_torchs_with_its_gradient() -> None:
    z = torch.cat([torch.linspace(-30, 30, 601), torch.tensor([-1e4, -100.0, 19.9, 20.1, 100.0, 1e4])]).requires_grad_()
    ours, builtin = mish(z), torch.nn.functional.mish(z)
    torch.testing.assert_close(ours, builtin, atol=2e-6, rtol=1e-5)
    incoming = torch.linspace(-2, 3, len(z))
    (mine,) = torch.autograd.grad(ours, z, incoming)
    (expected,) = torch.autograd.grad(builtin, z, incoming)
    torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-5)

"""Matrix products on a CPU by oneDNN, which uses AVX-512 wherever it is; MKL, PyTorch's choice, on Intel's processors alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEWEST_ROWS = 16  # below this the calls themselves cost more than the products
AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Linear(nn.Linear):
    """`torch.nn.Linear`; twice as fast on AMD's processors where no gradient is asked for."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        few = input.numel() < FEWEST_ROWS * self.in_features
        if (
            few
            or not AVAILABLE
            or input.device.type != "cpu"
            or torch.is_grad_enabled()
            or torch.is_autocast_enabled("cpu")
        ):
            return F.linear(input, self.weight, self.bias)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")
        return out

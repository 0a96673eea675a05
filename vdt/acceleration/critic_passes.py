"""Forward and backward passes of perceptrons, written out: a critic update is mostly a few dozen matrix products.

Autograd would build and traverse a graph of 60 nodes and allocate new memory for each. Here every number has its place from
the first step on. `vdt/critic/critic.py` is the reference; `tests/unit/acceleration/test_critic_update.py` compares
this to it. The passes keep the inputs of the next ones: the inputs of each layer, and with Mish the parts of its
derivative.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vdt.acceleration.linear import multiply_members
from vdt.acceleration.mish import compute_mish, compute_mish_parts, compute_mish_slope
from vdt.critic.networks import MLPEnsemble

ALIGNMENT = 16  # numbers: 64 bytes, a cache line and a vector register


def flatten_parameters(parameters: Sequence[nn.Parameter], *, gradients: bool) -> Tensor:
    """Concatenate parameters into one vector that they become views of.

    Args:
        parameters: any shapes; their values stay.
        gradients: give the vector a gradient, and each parameter its view of it.

    Returns:
        The vector, each parameter padded with zeros to whole cache lines.
    """
    sizes = [-(-p.numel() // ALIGNMENT) * ALIGNMENT for p in parameters]
    flat = parameters[0].new_zeros(sum(sizes), requires_grad=False)
    if gradients:
        flat.grad = torch.zeros_like(flat)
    begin = 0
    for parameter, size in zip(parameters, sizes, strict=True):
        place = slice(begin, begin + parameter.numel())
        flat[place] = parameter.detach().flatten()
        parameter.data = flat[place].view(parameter.shape)
        if flat.grad is not None:
            parameter.grad = flat.grad[place].view(parameter.shape)
        begin += size
    return flat


class ReLUPass:
    """ReLU of (members, rows, width), in place: the value alone decides where the derivative is 0."""

    def __init__(self, like: Tensor) -> None:
        pass

    def forward(self, z: Tensor) -> Tensor:
        """Replace z by max(z, 0)."""
        self.value = z.clamp_min_(0)
        return self.value

    def backward(self, gradient: Tensor) -> None:
        """Multiply the gradient of the first rows by the derivative, in place."""
        value = self.value[:, : gradient.shape[1]]
        torch.ops.aten.threshold_backward.grad_input(gradient, value, 0, grad_input=gradient)


class MishPass:
    """Mish of (members, rows, width); z has to stay unchanged until `backward`."""

    def __init__(self, like: Tensor) -> None:
        self.value, *self.parts = (torch.empty_like(like) for _ in range(3))

    def forward(self, z: Tensor) -> Tensor:
        """Return Mish(z)."""
        self.z = z
        compute_mish_parts(z, self.parts)
        return compute_mish(z, self.parts, self.value)

    def backward(self, gradient: Tensor) -> None:
        """Multiply the gradient of the first rows by the derivative, in place; the value is overwritten."""
        z, value, *parts = (tensor[:, : gradient.shape[1]] for tensor in (self.z, self.value, *self.parts))
        gradient.mul_(compute_mish_slope(z, parts, value))


ACTIVATION_PASSES: dict[str, type[ReLUPass] | type[MishPass]] = {"relu": ReLUPass, "mish": MishPass}


class EnsemblePass:
    """Forward and backward pass of an `MLPEnsemble` for one number of rows."""

    def __init__(self, ensemble: MLPEnsemble, rows: int, trained_rows: int = 0) -> None:
        """Allocate for `rows` inputs, of which the first `trained_rows` get a gradient; the parameters have one already."""
        members = ensemble.weights[0].shape[0]
        self.weights, self.biases = ([p.detach() for p in layer] for layer in (ensemble.weights, ensemble.biases))
        self.layers = [weight.new_empty(members, rows, weight.shape[2]) for weight in self.weights]
        self.activations = [ACTIVATION_PASSES[ensemble.activation](layer) for layer in self.layers[:-1]]
        self.trained_rows = trained_rows
        if trained_rows:
            self.weight_gradients, self.bias_gradients = (
                [_get_gradient(p) for p in layer] for layer in (ensemble.weights, ensemble.biases)
            )
            self.hidden_gradients = [
                layer.new_empty(members, trained_rows, layer.shape[2]) for layer in self.layers[:-1]
            ]

    def forward(self, inputs: Tensor) -> Tensor:
        """Evaluate all members: (rows, inputs) -> (members, rows), valid until the next call."""
        self.inputs = [inputs.expand(self.weights[0].shape[0], -1, -1)]
        for weight, bias, layer, activation in zip(
            self.weights, self.biases, self.layers, [*self.activations, None], strict=True
        ):
            multiply_members(self.inputs[-1], weight, layer, bias)
            if activation is not None:
                self.inputs.append(activation.forward(layer))
        values: Tensor = self.layers[-1].squeeze(-1)
        return values

    def backward(self, gradient: Tensor) -> None:
        """Compute the parameters' gradients from that of the last outputs, (members, trained rows)."""
        gradient = gradient.unsqueeze(-1)
        for number in reversed(range(len(self.weights))):
            inputs = self.inputs[number][:, : self.trained_rows]
            multiply_members(inputs.transpose(1, 2), gradient, self.weight_gradients[number])
            torch.sum(gradient, 1, keepdim=True, out=self.bias_gradients[number])
            if number > 0:
                behind = self.hidden_gradients[number - 1]
                multiply_members(gradient, self.weights[number].transpose(1, 2), behind)
                self.activations[number - 1].backward(behind)
                gradient = behind


def _get_gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None, "flatten_parameters(..., gradients=True) comes first"
    return parameter.grad

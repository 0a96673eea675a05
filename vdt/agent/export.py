"""Trained policies as files of other runtimes: ONNX, and TorchScript that PyTorch alone loads."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vdt.agent.policy import Policy
from vdt.agent.tensor_policy import INPUTS, OUTPUT, TensorPolicy
from vdt.system.extras import check_extra

FORMATS = {"onnx": ".onnx", "torchscript": ".torchscript"}  # name -> usual end of a file's name
ABOUT = "vdt"  # key of the description: ONNX's metadata_props
ABOUT_FILE = "vdt.json"  # TorchScript's extra file
TOLERANCE = 1e-5  # of actions, per unit of their range

Windows = tuple[Tensor, ...]


class ExportError(ValueError):
    """Policy that cannot be exported as asked."""


@dataclass(frozen=True)
class ExportedPolicy:
    """Policy in the form of another runtime.

    Attributes:
        content: of its file.
        about: description that the file holds, see `describe`.
        difference: largest difference of its actions from the policy's, on windows of each length.
    """

    content: bytes
    about: dict[str, Any]
    difference: float


def check_format(form: str) -> None:
    """Check the name of a format, and that its packages are installed.

    Raises:
        ExportError: if the name is unknown.
        ExtraError: if a package is missing.
    """
    if form not in FORMATS:
        raise ExportError(f"format must be {' or '.join(FORMATS)}, not {form!r}")
    if form == "onnx":
        packages = ("onnx", "onnxruntime", "onnxscript")
        check_extra("export", packages, "format onnx", "--format torchscript needs nothing more")


def export_policy(policy: Policy, form: str) -> ExportedPolicy:
    """Convert a policy, as it acts without look-ahead, to another runtime's form, and compare actions.

    What the model takes and gives stands in `TensorPolicy.forward`.

    Args:
        policy: with any of the networks.
        form: "onnx" or "torchscript".

    Raises:
        ExportError: if the format is unknown.
        ExtraError: if its packages are not installed.
        ArithmeticError: if the actions differ from the policy's.
    """
    check_format(form)
    module = TensorPolicy(policy.make_agent(policy.candidate_returns[0]))
    about = describe(policy, module)
    text = json.dumps(about, sort_keys=True)
    content = _export_onnx(module, text) if form == "onnx" else _export_torchscript(module, text)
    run = _load_onnx(content) if form == "onnx" else _load_torchscript(content)
    windows = make_windows(module, module.context_length)
    differences = (run(windows) - module(*windows)).abs()
    if not bool((differences <= TOLERANCE * (module.high - module.low)).all()):
        raise ArithmeticError(f"the exported actions differ from the policy's by {float(differences.max()):.1e}")
    return ExportedPolicy(content, about, float(differences.max()))


def describe(policy: Policy, module: TensorPolicy) -> dict[str, Any]:
    """Return what a user of the file needs to know, as plain values.

    Returns:
        context_length (K) and forget_steps of the window, observation_size (S), action_size (A), action_low and
        action_high, candidate_returns, the sha256 of all numbers inside, and the policy's metadata.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return {
        "context_length": module.context_length,
        "forget_steps": module.forget_steps,
        **vars(policy.spaces),
        "candidate_returns": list(policy.candidate_returns),
        "sha256": digest.hexdigest(),
        "policy": policy.metadata,
    }


def make_windows(module: TensorPolicy, count: int) -> Windows:
    """Make windows of random steps, one of 1 step, one of 2, and so on up to K: the inputs of `TensorPolicy.forward`."""
    generator = torch.Generator().manual_seed(0)
    steps, size = module.context_length, len(module.low)
    lengths = torch.arange(count) % steps + 1
    return (
        module.mean + module.std * torch.randn(count, steps, len(module.mean), generator=generator),
        module.low + (module.high - module.low) * torch.rand(count, steps, size, generator=generator),
        module.return_scale * torch.rand(count, steps, generator=generator),
        torch.arange(steps).repeat(count, 1),
        torch.arange(steps).expand(count, steps) < lengths[:, None],
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what PyTorch's exporters say about their own future and about other packages."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _export_onnx(module: TensorPolicy, about: str) -> bytes:
    batch = torch.export.Dim("batch")
    with _quiet():
        program = torch.onnx.export(
            module,
            make_windows(module, 2),
            dynamo=True,
            verbose=False,
            input_names=list(INPUTS),
            output_names=[OUTPUT],
            dynamic_shapes=tuple({0: batch} for _ in INPUTS),
        )
    assert program is not None
    program.model.metadata_props[ABOUT] = about
    return bytes(program.model_proto.SerializeToString())


def _load_onnx(content: bytes) -> Callable[[Windows], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(windows: Windows) -> Tensor:
        named = {name: window.numpy() for name, window in zip(INPUTS, windows, strict=True)}
        return torch.from_numpy(session.run([OUTPUT], named)[0])

    return run


def _export_torchscript(module: TensorPolicy, about: str) -> bytes:
    content = io.BytesIO()
    with _quiet():
        traced = torch.jit.trace(module, make_windows(module, 2), check_trace=False)
        torch.jit.save(traced, content, _extra_files={ABOUT_FILE: about})
    return content.getvalue()


def _load_torchscript(content: bytes) -> Callable[[Windows], Tensor]:
    with _quiet():
        module = torch.jit.load(io.BytesIO(content))
    return lambda windows: module(*windows)

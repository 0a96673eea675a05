"""Workarounds for the cost of PyTorch's compiler where nothing is compiled."""

from __future__ import annotations

import inspect
import typing
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    import torch


F = TypeVar("F", bound=Callable[..., Any])


def skip_compiler() -> None:
    """Make optimizers without importing torch.compile's machinery, which they do not need: 1 s of each step."""
    from torch.optim import Optimizer

    for method in (Optimizer.add_param_group, Optimizer.zero_grad, Optimizer.state_dict, Optimizer.load_state_dict):
        plain = inspect.unwrap(method)
        plain.__dynamo_disable = plain  # the value that PyTorch sets there after the import


def compile_pass(function: F) -> F:
    """Compile `function` with torch.compile: few fused kernels instead of many small ones.

    Metaflow's Runner loads a vendored typing_extensions. It puts into Python 3.11's `typing` a function that does not
    know the type variables of the installed one. PyTorch's compiler defines such classes, so the original function is
    restored.
    """
    import torch
    import typing_extensions

    for name in ("_check_generic", "_collect_type_vars", "_collect_parameters"):
        if hasattr(typing, name) and hasattr(typing_extensions, name):
            setattr(typing, name, getattr(typing_extensions, name))
    warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`", UserWarning)  # of constants
    return cast(F, torch.compile(function))


def take_step(optimizer: torch.optim.Optimizer) -> None:
    """Take `optimizer.step()` without PyTorch's wrappers for torch.compile and its profiler."""
    import torch

    with torch.no_grad():
        inspect.unwrap(type(optimizer).step)(optimizer)

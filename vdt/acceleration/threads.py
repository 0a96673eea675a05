"""Choice of the number of threads while other programs run, without changing a bit of the results.

Two threads halve a step on an idle machine. Beside other programs they wait for each other at every barrier, and one
thread is faster. Which is faster changes within a run, so steps are timed, and the other numbers are tried
periodically.
"""

from __future__ import annotations

import copy
import logging
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vdt.config.schema import RuntimeConfig
from vdt.system.machine import use_threads

logger = logging.getLogger(__name__)
T = TypeVar("T")
TRIAL_SECONDS = 0.03  # seconds that a number of threads is tried for at least
TRIAL_STEPS = 3  # and number of steps
HOPELESS = 2.0  # a trial ends at once when a step takes this many times as long as those of the best number so far
SLOWED = 1.5  # a trial begins when steps take this many times as long as at the last choice
GAIN = 0.95  # another number is chosen if its steps take no more than this share of the time
FEW_OUTPUTS = 32  # of a layer whose weight gradient one thread computes at negligible cost
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 60.0  # seconds between trials; doubled while they change nothing


class ThreadTuner:
    """Tuner that runs steps with the number of threads that was the fastest recently.

    Attributes:
        current: the number of threads of the next step.
    """

    def __init__(self, counts: Sequence[int], name: str = "", clock: Callable[[], float] = time.perf_counter) -> None:
        """Choose among `counts` for steps called `name`, beginning with the first; with one count nothing is timed."""
        self.name = name
        self.counts, self.clock, self.current = tuple(counts), clock, counts[0]
        self._best = counts[0]
        self._recent: deque[float] = deque(maxlen=TRIAL_STEPS)  # seconds of the last steps
        self._medians: dict[int, float] = {}  # seconds a step, of the trial that runs
        self._pending: list[int] = list(counts)
        self._reference = float("inf")  # seconds a step, at the last choice
        self._pause, self._next_trial, self._trial_began = FIRST_PAUSE, 0.0, 0.0

    def run(self, step: Callable[[], T]) -> T:
        """Run one step and measure its duration."""
        if len(self.counts) == 1:
            return step()
        began = self.clock()
        with use_threads(self.current):
            result = step()
        now = self.clock()
        self._recent.append(now - began)
        if self._pending:
            self._continue_trial(now)
        elif now >= self._next_trial or self._has_slowed():
            self._begin_trial(now)
        return result

    def _has_slowed(self) -> bool:
        full = len(self._recent) == TRIAL_STEPS
        return full and statistics.median(self._recent) > SLOWED * self._reference

    def _begin_trial(self, now: float) -> None:
        self._medians = {self.current: statistics.median(self._recent)}
        self._pending = [count for count in self.counts if count != self.current]
        self._enter(self._pending[0], now)

    def _enter(self, count: int, now: float) -> None:
        self.current, self._trial_began = count, now
        self._recent.clear()

    def _continue_trial(self, now: float) -> None:
        hopeless = self._recent[-1] > HOPELESS * min(self._medians.values(), default=float("inf"))
        enough = len(self._recent) == TRIAL_STEPS and now - self._trial_began >= TRIAL_SECONDS
        if not (hopeless or enough):
            return
        self._medians[self.current] = statistics.median(self._recent)
        self._pending.remove(self.current)
        if self._pending:
            self._enter(self._pending[0], now)
        else:
            self._choose(now)

    def _choose(self, now: float) -> None:
        """End a trial: choose the fastest number if it gains enough over the previous one."""
        fastest = min(self._medians, key=self._medians.__getitem__)
        changes = self._medians[fastest] < GAIN * self._medians[self._best]
        self._pause = FIRST_PAUSE if changes else min(2 * self._pause, LONGEST_PAUSE)
        if changes:
            logger.debug("%s: %d threads are faster now than %d", self.name, fastest, self._best)
            self._best = fastest
        self._reference, self._next_trial = self._medians[self._best], now + self._pause
        self._enter(self._best, now)


def list_thread_counts(most: int) -> list[int]:
    """Return the numbers of threads worth trying: the most, half of it, and so on down to one."""
    return [most >> shift for shift in range(most.bit_length())]


def make_thread_tuner(
    name: str,
    step: Callable[[], object],
    save: Callable[[], dict[str, Any]],
    restore: Callable[[dict[str, Any]], None],
    *,
    runtime: RuntimeConfig,
    device: torch.device,
) -> ThreadTuner:
    """Make a tuner for training steps; it stays at one number of threads where the number would change the result.

    Args:
        name: of the trained part, for log lines.
        step: takes one training step.
        save: returns the state that a step changes, as a checkpoint does.
        restore: restores the state that `save` returned.
        runtime: a number of threads that is set here is kept, and so is one that a step was compiled for.
        device: on anything but a CPU threads do not matter.
    """
    most = torch.get_num_threads()
    if most == 1 or runtime.threads > 0 or runtime.compile or device.type != "cpu":
        return ThreadTuner([most], name)
    if not gives_same_bits(step, save, restore, most):
        logger.info("%s: %d threads; another number would change the last bits of the result", name, most)
        return ThreadTuner([most], name)
    logger.info("%s: up to %d threads, as many as are fastest beside other programs", name, most)
    return ThreadTuner(list_thread_counts(most), name)


def gives_same_bits(
    step: Callable[[], object], save: Callable[[], dict[str, Any]], restore: Callable[[dict[str, Any]], None], most: int
) -> bool:
    """Return whether a step ends with the same bits for one thread and for `most`; the state is restored.

    The order of a sum depends on shapes and threads, not on values, so one step represents all of its shapes.
    """
    before, ends = copy.deepcopy(save()), []
    for count in list_thread_counts(most):
        with use_threads(count):
            step()
        ends.append([tensor.clone() for tensor in _find_tensors(save())])
        restore(copy.deepcopy(before))
    return all(torch.equal(one, other) for end in ends[1:] for one, other in zip(ends[0], end, strict=True))


def _find_tensors(node: Any) -> Iterator[Tensor]:
    if isinstance(node, Tensor):
        yield node
    elif isinstance(node, dict):
        for key in node:
            yield from _find_tensors(node[key])
    elif isinstance(node, list | tuple):
        for item in node:
            yield from _find_tensors(item)


class _LayerNorm(torch.autograd.Function):
    """Layer normalisation whose gradients of weight and bias are summed by one thread: PyTorch sums once per thread."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, shape: list[int], epsilon: float) -> Tensor:
        """Normalise the last dimension: (..., D) -> (..., D)."""
        outputs, mean, deviation = torch.native_layer_norm(inputs, shape, weight, bias, epsilon)
        ctx.save_for_backward(inputs, mean, deviation, weight, bias)
        ctx.shape = shape
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Map the output's gradient (..., D) to those of inputs, weight and bias."""
        inputs, mean, deviation, weight, bias = ctx.saved_tensors
        arguments = (gradient, inputs, ctx.shape, mean, deviation, weight, bias)
        compute = torch.ops.aten.native_layer_norm_backward
        own = compute(*arguments, [ctx.needs_input_grad[0], False, False])[0]
        with use_threads(1):
            _, weight_gradient, bias_gradient = compute(*arguments, [False, True, True])
        return own, weight_gradient, bias_gradient, None, None


class _NarrowProduct(torch.autograd.Function):
    """Product with few outputs whose weight gradient, a sum over all rows, is computed by one thread."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Multiply inputs by the weight and add the bias: (..., I) -> (..., O)."""
        ctx.save_for_backward(inputs, weight)
        return F.linear(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """Map the output's gradient (..., O) to those of inputs, weight and bias."""
        inputs, weight = ctx.saved_tensors
        rows = gradient.flatten(0, -2)
        own = gradient.matmul(weight) if ctx.needs_input_grad[0] else None
        with use_threads(1):
            return own, rows.t().mm(inputs.flatten(0, -2)), rows.sum(0)


def _is_worth_steadying(input: Tensor) -> bool:
    """Return whether a gradient in float32 will be computed, of a layer that is not compiled."""
    autocast = torch.is_autocast_enabled(input.device.type)
    return torch.is_grad_enabled() and not autocast and not torch.compiler.is_compiling()


class SteadyLayerNorm(nn.LayerNorm):
    """`torch.nn.LayerNorm` whose gradients do not depend on the number of threads."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise the last dimension: (..., D) -> (..., D)."""
        if not _is_worth_steadying(input):
            return super().forward(input)
        shape = list(self.normalized_shape)
        out: Tensor = _LayerNorm.apply(input, self.weight, self.bias, shape, self.eps)  # type: ignore[no-untyped-call]
        return out


class SteadyLinear(nn.Linear):
    """`torch.nn.Linear` with few outputs, whose gradients do not depend on the number of threads."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer: (..., inputs) -> (..., outputs)."""
        if self.out_features >= FEW_OUTPUTS or not _is_worth_steadying(input):
            return super().forward(input)
        out: Tensor = _NarrowProduct.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return out

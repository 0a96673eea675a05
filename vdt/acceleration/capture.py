"""CUDA graphs of training steps: a step of a hundred small kernels is launched at once.

A graph repeats the same kernels on the same memory. So a captured step works on static copies of its batch. Everything
else that changes between two steps must be a tensor (learning rates, an optimizer's counters) or request a new graph.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from torch import Tensor

from vdt.critic.critic import Critic, CriticUpdate
from vdt.critic.losses import CriticLosses
from vdt.data.batches import TransitionBatch

WARMUP_STEPS = 3  # ordinary ones: PyTorch wants libraries and optimizer states to be there before it captures


class StaticStep:
    """Step on static copies of its batch: replayed as a CUDA graph on a GPU, called directly on a CPU."""

    def __init__(self, step: Callable[[Any], Mapping[str, Tensor]]) -> None:
        """Wrap `step`, a function of one batch (a dataclass of tensors) that returns scalars and never synchronises."""
        self.step = step
        self.reset()

    def reset(self) -> None:
        """Discard buffers and graph: tensors that the step works on were replaced."""
        self.batch: Any = None
        self.key: Hashable = None
        self.taken = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.names: list[str] = []
        self.scalars = torch.zeros(0)

    def __call__(self, batch: Any, key: Hashable = None) -> dict[str, Tensor]:
        """Take the step on a batch.

        Args:
            batch: of any size; a new size needs a new graph.
            key: all numbers that the step reads and a graph would freeze; a new key needs a new graph.

        Returns:
            The step's scalars, in memory that later steps do not overwrite.
        """
        self._fill(batch)
        if self.key != key:
            self.key, self.graph = key, None
        if next(iter(vars(self.batch).values())).is_cuda:
            self._replay()
        else:
            self._run()
        self.taken += 1
        return dict(zip(self.names, self.scalars.clone().unbind(), strict=True))

    def _fill(self, batch: Any) -> None:
        """Copy a batch into the static one."""
        tensors = vars(batch)
        if self.batch is None or any(getattr(self.batch, name).shape != new.shape for name, new in tensors.items()):
            self.batch, self.graph = dataclasses.replace(batch, **{n: t.clone() for n, t in tensors.items()}), None
            return
        for name, new in tensors.items():
            getattr(self.batch, name).copy_(new)

    def _run(self) -> None:
        """Take the step on the static batch; put its scalars into one static vector."""
        returned = self.step(self.batch)
        scalars = torch.stack([value.detach().float() for value in returned.values()])
        if self.names != list(returned):
            self.names, self.scalars = list(returned), torch.empty_like(scalars)
        self.scalars.copy_(scalars)

    def _replay(self) -> None:
        """Replay the step's graph; capture it first, after some steps on a separate stream, as capturing needs."""
        if self.taken < WARMUP_STEPS:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self._run()
            torch.cuda.current_stream().wait_stream(stream)
            return
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):  # records without computing
                self._run()
        self.graph.replay()


class CapturedCriticUpdate(CriticUpdate):
    """`CriticUpdate` as a CUDA graph; on a CPU its step on static buffers, as in the graph."""

    def __init__(self, critic: Critic, learning_rate: float) -> None:
        super().__init__(critic, learning_rate)
        self.step = StaticStep(lambda batch: vars(super(CapturedCriticUpdate, self).update(batch)))

    def make_adam(self, learning_rate: float) -> torch.optim.Optimizer:
        """Make the optimizer as one kernel, its counters on the device."""
        parameters = self.critic.trainable_parameters()
        return torch.optim.Adam(parameters, learning_rate, fused=True, capturable=parameters[0].is_cuda)

    def update(self, batch: TransitionBatch) -> CriticLosses:
        """Take one step on M1 + M2, then move the targets; the losses are those before the step."""
        return CriticLosses(**self.step(batch))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` stopped."""
        super().load_state_dict(state)
        self.step.reset()

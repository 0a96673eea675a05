"""An optimizer that continues keeps what belongs to its device, and takes over the rest."""

import io
from typing import Any

import pytest
import torch
from torch import Tensor

from vdt.checkpoint.optimizer_state import load_optimizer


def make_optimizer(rate: float | Tensor, **how: Any) -> torch.optim.AdamW:
    parameters = [torch.nn.Parameter(torch.arange(3.0)), torch.nn.Parameter(torch.ones(2))]
    groups = [{"params": parameters[:1], "weight_decay": 0.1}, {"params": parameters[1:], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, **how)


def take_steps(optimizer: torch.optim.Optimizer, count: int) -> list[Tensor]:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for _ in range(count):
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 0.5)
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


def save_and_read(optimizer: torch.optim.Optimizer) -> Any:
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


def test_a_rate_that_a_graph_reads_stays_the_same_tensor() -> None:
    begun = make_optimizer(torch.tensor(0.25), fused=True)
    take_steps(begun, 1)
    rate = torch.tensor(7.0)
    optimizer = make_optimizer(rate, fused=True)
    load_optimizer(optimizer, save_and_read(begun))
    assert all(group["lr"] is rate for group in optimizer.param_groups)
    assert rate.item() == 0.25


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("graph_first", [False, True])
def test_how_a_step_is_computed_belongs_to_the_device(graph_first: bool, steps: int) -> None:
    def make(graph: bool, rate: float) -> torch.optim.AdamW:
        return make_optimizer(torch.tensor(rate), fused=True) if graph else make_optimizer(rate, foreach=False)

    begun, optimizer = make(graph_first, 0.25), make(not graph_first, 7.0)
    take_steps(begun, steps)
    how = [(group["fused"], group["foreach"], group["capturable"]) for group in optimizer.param_groups]
    load_optimizer(optimizer, save_and_read(begun))
    assert [(group["fused"], group["foreach"], group["capturable"]) for group in optimizer.param_groups] == how
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert all(isinstance(group["lr"], Tensor) != graph_first for group in optimizer.param_groups)
    for one, other in zip(begun.param_groups, optimizer.param_groups, strict=True):
        for mine, its in zip(one["params"], other["params"], strict=True):
            its.data.copy_(mine.data)
    for mine, its in zip(take_steps(begun, 2), take_steps(optimizer, 2), strict=True):
        torch.testing.assert_close(its, mine)

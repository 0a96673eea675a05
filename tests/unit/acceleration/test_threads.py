"""The number of threads follows the machine's load and never changes a bit."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from vdt.acceleration.threads import (
    SteadyLayerNorm,
    SteadyLinear,
    ThreadTuner,
    gives_same_bits,
    list_thread_counts,
    make_thread_tuner,
)
from vdt.system.machine import use_threads


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    with use_threads(2):
        yield


class Machine:
    """Steps whose seconds depend on the threads and on who else computes; its clock is the tuner's."""

    def __init__(self, **seconds: dict[int, float]) -> None:
        self.now, self.seconds, self.load, self.used = 0.0, seconds, "quiet", list[int]()

    def step(self) -> str:
        self.used.append(torch.get_num_threads())
        self.now += self.seconds[self.load][self.used[-1]]
        return "result"

    def run(self, tuner: ThreadTuner, seconds: float) -> float:
        """Run steps for so long; return the mean seconds of a step."""
        began, steps = self.now, 0
        while self.now - began < seconds:
            assert tuner.run(self.step) == "result"
            steps += 1
        return (self.now - began) / steps


QUIET, LOADED = {1: 0.113, 2: 0.065}, {1: 0.19, 2: 0.26}  # an actor step, measured (benchmarks/RESULTS.md)
COLLAPSED = {1: 0.19, 2: 1.4}  # with OpenMP's own spinning


@pytest.mark.parametrize("loaded", [LOADED, COLLAPSED])
def test_threads_follow_the_load(loaded: dict[int, float]) -> None:
    machine = Machine(quiet=QUIET, loaded=loaded)
    tuner = ThreadTuner([2, 1], clock=lambda: machine.now)
    assert machine.run(tuner, 100.0) < 1.02 * QUIET[2], "looking costs at most 2 % of a quiet machine"
    assert tuner.current == 2 and set(machine.used) == {1, 2}
    machine.load = "loaded"
    assert machine.run(tuner, 60.0) < 1.15 * loaded[1], "one thread, but for the looks at two"
    assert tuner.current == 1
    machine.load = "quiet"
    machine.run(tuner, 61.0)
    assert tuner.current == 2, "back within the longest pause"
    assert torch.get_num_threads() == 2, "the process's number is left alone"


def test_a_busy_start_is_noticed_at_once() -> None:
    machine = Machine(quiet=COLLAPSED)
    tuner = ThreadTuner([2, 1], clock=lambda: machine.now)
    machine.run(tuner, 6.0)
    assert machine.used[:4] == [2, 2, 2, 1] and set(machine.used[6:]) == {1}


def test_a_small_gain_is_not_worth_a_change() -> None:
    machine = Machine(quiet={1: 0.097, 2: 0.1})
    tuner = ThreadTuner([2, 1], clock=lambda: machine.now)
    machine.run(tuner, 30.0)
    assert tuner.current == 2


def test_one_count_is_not_timed() -> None:
    tuner = ThreadTuner([2], clock=lambda: pytest.fail("nothing to choose"))
    assert tuner.run(torch.get_num_threads) == 2


def test_counts() -> None:
    assert [list_thread_counts(most) for most in (1, 2, 6, 16)] == [[1], [2, 1], [6, 3, 1], [16, 8, 4, 2, 1]]


def make_step(
    norm: type[nn.LayerNorm], linear: type[nn.Linear]
) -> tuple[tuple[nn.Module, torch.optim.Optimizer], nn.Module]:
    torch.manual_seed(0)
    network = nn.Sequential(norm(128), linear(128, 6))
    return (network, torch.optim.SGD(network.parameters(), lr=0.1)), network


def take_step(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    network(torch.randn(64, 30, 128)).square().sum().backward()
    optimizer.step()


def test_steady_layers_give_the_same_bits_on_any_number_of_threads() -> None:
    """And they are the bits of PyTorch's own layers on one thread."""
    ends = []
    for kinds, threads in (((nn.LayerNorm, nn.Linear), 1), ((SteadyLayerNorm, SteadyLinear), 2)):
        objects, network = make_step(*kinds)
        torch.manual_seed(1)
        with use_threads(threads):
            take_step(*objects)
        ends.append(list(network.state_dict().values()))
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))
    steady, _ = make_step(SteadyLayerNorm, SteadyLinear)
    assert gives_same_bits(steady, take_step, 2)


def test_layers_that_depend_on_threads_are_found_out() -> None:
    plain, _ = make_step(nn.LayerNorm, nn.Linear)
    assert not gives_same_bits(plain, take_step, 2), "the premise of all this: PyTorch's own layers do"
    device = torch.device("cpu")
    assert make_thread_tuner(plain, take_step, device=device, fixed=False).counts == (2,)
    steady, _ = make_step(SteadyLayerNorm, SteadyLinear)
    assert make_thread_tuner(steady, take_step, device=device, fixed=False).counts == (2, 1)
    assert make_thread_tuner(steady, take_step, device=device, fixed=True).counts == (2,)
    assert make_thread_tuner(steady, take_step, device=torch.device("cuda"), fixed=False).counts == (2,)


def test_looking_leaves_everything_as_it_is() -> None:
    objects, network = make_step(SteadyLayerNorm, SteadyLinear)
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    gives_same_bits(objects, take_step, 2)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_without_gradients_the_layers_are_pytorchs_own() -> None:
    inputs = torch.randn(5, 128)
    norm, linear = SteadyLayerNorm(128), SteadyLinear(128, 6)
    with torch.inference_mode():
        assert torch.equal(
            linear(norm(inputs)), nn.functional.linear(nn.LayerNorm.forward(norm, inputs), linear.weight, linear.bias)
        )

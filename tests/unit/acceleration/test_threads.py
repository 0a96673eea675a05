"""The number of threads follows the machine's load and never changes a bit."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from support.builders import assert_identical, make_store, make_trajectory
from vdt.acceleration.linear import multiply_members
from vdt.acceleration.threads import (
    SteadyLayerNorm,
    SteadyLinear,
    ThreadTuner,
    gives_same_bits,
    list_thread_counts,
    make_thread_tuner,
)
from vdt.checkpoint.store import load_state
from vdt.data.trajectory import TrajectoryDataset
from vdt.experiments.resolve import resolve_config
from vdt.system.machine import use_threads
from vdt.tracking import NullTracker
from vdt.training.critic_pretraining import pretrain_critic
from vdt.training.offline import train_actor


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


class Training:
    """A small network that a step changes, as trainers are seen by the tuner."""

    def __init__(self, norm: type[nn.LayerNorm], linear: type[nn.Linear]) -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(norm(128), linear(128, 6))
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.1)

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.network(torch.randn(64, 30, 128)).square().sum().backward()
        self.optimizer.step()

    def save(self) -> dict[str, Any]:
        states = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        return {**states, "random": torch.get_rng_state()}

    def restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])

    def gives_same_bits(self) -> bool:
        return gives_same_bits(self.step, self.save, self.restore, 2)

    def count(self, overrides: str = "", device: str = "cpu") -> tuple[int, ...]:
        runtime = resolve_config("walker2d-medium-v2", overrides=overrides).runtime
        arguments = ("test", self.step, self.save, self.restore)
        return make_thread_tuner(*arguments, runtime=runtime, device=torch.device(device)).counts


def test_steady_layers_give_the_same_bits_on_any_number_of_threads() -> None:
    """And they are the bits of PyTorch's own layers on one thread."""
    ends = []
    for kinds, threads in (((nn.LayerNorm, nn.Linear), 1), ((SteadyLayerNorm, SteadyLinear), 2)):
        training = Training(*kinds)
        with use_threads(threads):
            training.step()
        ends.append(list(training.network.state_dict().values()))
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))
    assert Training(SteadyLayerNorm, SteadyLinear).gives_same_bits()


def test_layers_that_depend_on_threads_are_found_out() -> None:
    plain, steady = Training(nn.LayerNorm, nn.Linear), Training(SteadyLayerNorm, SteadyLinear)
    assert not plain.gives_same_bits(), "the premise of all this: PyTorch's own layers do"
    assert plain.count() == (2,)
    assert steady.count() == (2, 1)
    assert steady.count("runtime.threads=2") == (2,), "what the user set stays"
    assert steady.count("runtime.compile=true") == (2,)
    assert steady.count(device="cuda") == (2,)
    with use_threads(1):
        assert steady.count() == (1,)


def test_looking_leaves_everything_as_it_is() -> None:
    training = Training(SteadyLayerNorm, SteadyLinear)
    training.step()
    before = copy.deepcopy(training.save())
    training.gives_same_bits()
    assert_identical(training.save(), before)


def test_without_gradients_the_layers_are_pytorchs_own() -> None:
    inputs = torch.randn(5, 128)
    norm, linear = SteadyLayerNorm(128), SteadyLinear(128, 6)
    with torch.inference_mode():
        normed = nn.LayerNorm.forward(norm, inputs)
        assert torch.equal(linear(norm(inputs)), nn.functional.linear(normed, linear.weight, linear.bias))


@pytest.mark.parametrize(
    ("method", "env"),
    [
        ("vdt", "walker2d-medium-v2"),
        ("odt", "walker2d-medium-v2"),
        ("td3bc", "walker2d-medium-v2"),
        ("vdt", "hopper-medium-v2"),
    ],
)
def test_training_has_the_same_bits_on_one_thread_and_on_two(tmp_path: Path, method: str, env: str) -> None:
    """Critic and actor of the laptop's sizes, whose sums PyTorch would split among threads; so do MKL's for 11 inputs."""
    overrides = "critic.gradient_steps=6 actor.gradient_steps=3 task.horizon=50"
    config = resolve_config(env, method=method, overrides=overrides)
    task, ends = config.task, []
    sizes = {"observation_size": task.observation_size, "action_size": task.action_size}
    dataset = TrajectoryDataset.from_trajectories(make_trajectory(50, seed=seed, **sizes) for seed in range(8))
    for threads in (1, 2):
        with use_threads(threads):
            critic = pretrain_critic(config, dataset, NullTracker(), make_store(tmp_path / f"critic-{threads}"))
            actor = train_actor(config, dataset, critic, NullTracker(), make_store(tmp_path / f"actor-{threads}"))
        ends.append([load_state(critic)["critic"], load_state(actor)["actor_critic"]["policy"]])
    assert_identical(ends[0], ends[1])


def test_gradients_of_any_narrow_layer_have_the_same_bits_on_any_number_of_threads() -> None:
    """MKL splits their sums over a batch's rows for some widths only: 5, 6, 7, 9, 10 and 11 on one processor."""
    torch.manual_seed(0)
    gradient = torch.randn(1, 256, 256)
    for width in range(1, 33):
        inputs, ends = torch.randn(1, 256, width), []
        for threads in (1, 2):
            with use_threads(threads):
                ends.append(multiply_members(inputs.transpose(1, 2), gradient, torch.empty(1, width, 256)))
        assert torch.equal(*ends), width


def test_every_number_that_may_be_chosen_is_compared() -> None:
    """Four threads and one may agree where two do not."""
    used, training = [], Training(SteadyLayerNorm, SteadyLinear)

    def step() -> None:
        used.append(torch.get_num_threads())
        training.step()
        if used[-1] == 2:
            training.network[1].bias.data += 1e-6

    with use_threads(4):
        assert not gives_same_bits(step, training.save, training.restore, 4)
    assert used == [4, 2, 1]

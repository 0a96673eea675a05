"""Where does the time of each phase go? Prints a table: rate, share of the floor, largest costs.

    python benchmarks/phases.py [--preset laptop] [--threads 2] [--seconds 5]

The floor of a unit of work is its multiplications (counted by PyTorch) at the speed of a large matrix product in this
process, and the physics of its environment steps alone. Seconds and memory of a whole run are in its report.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed import Setting
from benchmarks.timing import describe_machine, format_table
from vdt.acceleration import linear
from vdt.agent.agent import PlannerSettings
from vdt.environments import make_environment

LARGEST = 3
EPISODES, STEPS = 10, 100  # of one unit of acting


@dataclass(frozen=True)
class Phase:
    """A unit of work.

    Attributes:
        name: of the phase, and the unit.
        run: does one unit.
        environment_steps: of one unit.
    """

    name: str
    run: Callable[[], object]
    environment_steps: int = 0


def make_phases(preset: str) -> Iterator[Phase]:
    """The units that the main job is made of."""
    setting = Setting("", torch.device("cpu"), preset=preset)
    acting = replace(PlannerSettings.from_config(setting.config), candidate_returns=(5000.0, 4500.0, 4000.0))
    yield Phase("critic: update", setting.make_critic_update())
    yield Phase("actor: step", setting.make_actor_update())
    for name, settings in (
        ("acting, one target", acting.follow(5000.0)),
        ("acting, m = 3, E = 1", acting),
        ("acting, m = 3, E = 3", replace(acting, planning_horizon=3, env_model="learned")),
    ):
        run = setting.roll_out(EPISODES, STEPS, settings)
        yield Phase(f"{name}: {STEPS} steps of {EPISODES} episodes", run, EPISODES * STEPS)


def measure_peak_speed(repeats: int = 7) -> float:
    """FLOP/s of a 2048 x 2048 matrix product, the best of some."""
    a, b = torch.randn(2, 2048, 2048)
    multiply = linear.multiply if linear.MKL_IS_SLOW else torch.mm
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        multiply(a, b)
        taken.append(time.perf_counter() - began)
    return float(2 * 2048**3 / min(taken))


def measure_physics(setting: Setting, steps: int = 2000) -> float:
    """Median seconds of one environment step by itself."""
    environment = make_environment(setting.config.task)
    environment.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, setting.config.task.action_size)).astype(np.float32)
    taken = []
    for action in actions:
        began = time.perf_counter()
        environment.step(action)
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))


def measure(phase: Phase, seconds: float) -> tuple[float, float]:
    """Median seconds of a unit, and its FLOPs."""
    phase.run()
    available, linear.AVAILABLE = linear.AVAILABLE, False  # the counter knows PyTorch's own products alone
    with FlopCounterMode(display=False) as counter:
        phase.run()
    linear.AVAILABLE = available
    taken, began = [], time.perf_counter()
    while time.perf_counter() - began < seconds or len(taken) < 5:
        last = time.perf_counter()
        phase.run()
        taken.append(time.perf_counter() - last)
    return float(np.median(taken)), float(counter.get_total_flops())


def find_largest_costs(phase: Phase) -> str:
    """Of training, PyTorch's operations; of acting, Python's functions: by their own time."""
    if phase.environment_steps:
        profiler = cProfile.Profile()
        profiler.runcall(phase.run)
        stats: dict[tuple[str, int, str], tuple[int, int, float, float, object]] = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
        own = {_shorten(*key): value[2] for key, value in stats.items()}
    else:
        with profile(activities=[ProfilerActivity.CPU]) as recorded:
            for _ in range(10):
                phase.run()
        own = {event.key: event.self_cpu_time_total for event in recorded.key_averages()}
    whole = sum(own.values())
    largest = sorted(own.items(), key=lambda item: -item[1])[:LARGEST]
    return ", ".join(f"{name} {100 * value / whole:.0f} %" for name, value in largest)


def _shorten(file: str, line: int, name: str) -> str:
    return name if file == "~" else f"{Path(file).name}:{name}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", default="laptop")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each phase")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    peak, physics = measure_peak_speed(), measure_physics(Setting("", torch.device("cpu"), preset=options.preset))
    rows = []
    for phase in make_phases(options.preset):
        seconds, flops = measure(phase, options.seconds)
        floor = flops / peak + phase.environment_steps * physics
        times = [f"{1000 * value:.2f}" for value in (seconds, floor)]
        rows.append([phase.name, *times, f"{100 * floor / seconds:.0f} %", find_largest_costs(phase)])
    print(f"{describe_machine(torch.device('cpu'))}; preset {options.preset}")
    print(f"matrix product {peak / 1e9:.0f} GFLOP/s, environment step {1e6 * physics:.0f} microseconds\n")
    print(format_table(["phase: unit", "ms", "floor, ms", "share", "largest costs by own time"], rows))


if __name__ == "__main__":
    main()

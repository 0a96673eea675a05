"""How long does each phase take on a quiet machine, and beside programs that keep all cores busy? Prints a Markdown table.

    python benchmarks/beside_other_work.py [--seconds 4] [--repeats 3] [--busy 2] [--settings ours OpenMP one]

Each timing is a process of its own, since OpenMP reads its settings when it is loaded. Settings take turns, quiet and
busy alternate, and medians are compared within this run. The fair share of a core that two programs want is a half.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import format_table
from vdt.system.machine import SPINNING, count_cores

SETTINGS = {  # name -> OpenMP's environment, and how many threads train: 0 chooses as the pipeline does
    "ours": (SPINNING, 0),
    "OpenMP": ({}, -1),  # its own defaults: threads spin at barriers; all of them at all times
    "passive": ({"OMP_WAIT_POLICY": "PASSIVE"}, -1),
    "one": ({}, 1),
}
EPISODE_STEPS = 50


@contextlib.contextmanager
def keep_busy(programs: int) -> Iterator[None]:
    """Run so many endless loops beside the block."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(programs)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def measure_phases(threads: int, seconds: float) -> dict[str, float]:
    """Median milliseconds of a unit of each phase in this process."""
    import torch

    from benchmarks.speed import Setting
    from vdt.acceleration.threads import ThreadTuner, list_thread_counts
    from vdt.agent.agent import PlannerSettings
    from vdt.system.machine import use_threads

    torch.manual_seed(0)
    most, acting_threads = count_cores(), 1 if threads >= 0 else count_cores()
    torch.set_num_threads(threads if threads > 0 else most)
    setting = Setting("", torch.device("cpu"), steps=50_000)
    plans = replace(PlannerSettings.from_config(setting.config), candidate_returns=(5000.0, 4500.0, 4000.0))
    taken = {}
    for name, step in (("critic update", setting.make_critic_update()), ("actor step", setting.make_actor_update())):
        tuner = ThreadTuner(list_thread_counts(most) if threads == 0 else [torch.get_num_threads()])
        taken[name] = _time(lambda tuner=tuner, step=step: tuner.run(step), seconds)  # type: ignore[misc]
    for name, episodes, settings in (
        ("decision and physics, one episode", 1, plans.follow(5000.0)),
        ("the same, ten episodes", 10, plans.follow(5000.0)),
        ("the same, three candidates", 10, plans),
    ):
        roll_out = setting.roll_out(episodes, EPISODE_STEPS, settings)
        with use_threads(acting_threads):
            taken[name] = _time(roll_out, seconds) / EPISODE_STEPS
    return taken


def _time(function: Callable[[], object], seconds: float) -> float:
    """Median milliseconds of one call, the first third of the time left out: the tuner looks around there."""
    began, taken = time.perf_counter(), []
    while (now := time.perf_counter()) - began < seconds or len(taken) < 5:
        function()
        taken.append((now - began, time.perf_counter() - now))
    return 1000 * statistics.median(spent for after, spent in taken if after >= min(seconds / 3, taken[-3][0]))


def measure_setting(name: str, seconds: float) -> dict[str, float]:
    """`measure_phases` in a process of its own."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_", "KMP_"))}
    command = [sys.executable, __file__, "--child", name, "--seconds", str(seconds)]
    done = subprocess.run(command, env={**variables, **SETTINGS[name][0]}, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each phase")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--busy", type=int, default=count_cores(), help="programs beside")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=["ours", "OpenMP", "one"])
    parser.add_argument("--child", choices=SETTINGS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure_phases(SETTINGS[options.child][1], options.seconds)))
        return
    taken: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(options.repeats):
        for name in options.settings:
            for busy in (0, options.busy):
                with keep_busy(busy):
                    taken.setdefault((name, "busy" if busy else "quiet"), []).append(
                        measure_setting(name, options.seconds)
                    )
    print(f"{count_cores()} cores, {options.busy} busy programs beside; median of {options.repeats} processes, ms\n")
    rows = []
    for phase in taken[options.settings[0], "quiet"][0]:
        best = {key: statistics.median(run[phase] for run in runs) for key, runs in taken.items()}
        cells = [
            f"{best[name, 'quiet']:.2f} · {best[name, 'busy']:.2f} ({best[name, 'busy'] / best[name, 'quiet']:.1f} x)"
            for name in options.settings
        ]
        rows.append([phase, *cells])
    print(format_table(["unit: quiet · busy", *options.settings], rows))


if __name__ == "__main__":
    main()

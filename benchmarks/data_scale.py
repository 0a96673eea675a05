"""Does data of millions of steps load in seconds and in little memory, and do batches cost the same as from little data?

    python benchmarks/data_scale.py [--steps 200000 2000000]

Each stage runs in a process of its own, so that its peak memory is its own. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import h5py
import numpy as np
import torch

from vdt.agent.actor_critic import make_buffer
from vdt.data.normalization import Normalizer
from vdt.data.replay_buffer import TrajectoryReplayBuffer
from vdt.data.sampling import Sampler
from vdt.data.storage import load_snapshot, write_trajectories
from vdt.data.trajectory import TrajectoryDataset
from vdt.datasets.hdf5 import read_recording
from vdt.experiments.resolve import resolve_config

CONFIG = resolve_config("walker2d-medium-v2")
EPISODE = 997  # steps; no divisor of anything
REPEATS = 7
STAGES = ("convert", "write snapshot", "load snapshot", "fill buffer")


def write_d4rl_file(path: Path, steps: int) -> None:
    """A file in D4RL's schema with Walker2d's sizes and random content."""
    generator = np.random.default_rng(0)
    ends = np.zeros(steps, np.bool_)
    ends[EPISODE - 1 :: EPISODE] = True
    ends[-1] = True
    task = CONFIG.task
    with h5py.File(path, "w") as file:
        for name in ("observations", "next_observations"):
            file[name] = generator.standard_normal((steps, task.observation_size), dtype=np.float32)
        file["actions"] = generator.uniform(-1, 1, (steps, task.action_size)).astype(np.float32)
        file["rewards"] = generator.standard_normal(steps, dtype=np.float32)
        file["terminals"] = np.zeros(steps, np.bool_)
        file["timeouts"] = ends


def fill_buffer(dataset: TrajectoryDataset) -> TrajectoryReplayBuffer:
    """The data set as the store that batches come from."""
    return make_buffer(CONFIG, Normalizer.fit(dataset), 1.0, dataset)


def count_bytes(dataset: TrajectoryDataset) -> int:
    """Size of the contiguous arrays."""
    return sum(array.nbytes for array in (dataset.observations, dataset.actions, dataset.rewards, dataset.offsets))


def get_peak() -> float:
    """Highest resident memory of this process so far, MB."""
    status = Path("/proc/self/status").read_text()  # getrusage would count the parent's memory before exec
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def run_stage(stage: str, folder: Path) -> None:
    """Run one stage and print seconds and the rise of peak memory as JSON."""
    source, snapshot = folder / "d4rl.hdf5", folder / "trajectories.hdf5"
    before = get_peak()
    given = load_snapshot(snapshot) if stage in ("write snapshot", "fill buffer") else None
    started = time.perf_counter()
    if stage == "convert":
        given = read_recording(source, CONFIG.task, {}).dataset
    elif stage == "write snapshot":
        assert given is not None
        write_trajectories(folder / "again.hdf5", given)
    elif stage == "load snapshot":
        given = load_snapshot(snapshot)
    else:
        assert given is not None
        fill_buffer(given)
    assert given is not None
    seconds, size = time.perf_counter() - started, count_bytes(given) / 2**20
    print(json.dumps({"seconds": seconds, "peak": get_peak() - before, "size": size}))


def measure_stages(folder: Path, steps: int) -> None:
    """Print one row per stage."""
    for stage in STAGES:
        command = [sys.executable, __file__, "--stage", stage, "--folder", str(folder)]
        results = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(3)]
        seconds = statistics.median(r["seconds"] for r in results)
        peak, size = max(r["peak"] for r in results), results[0]["size"]
        limit = 1.3 * size + 300
        print(f"| {stage} | {steps:,} | {seconds:.2f} s | {size:.0f} | {peak:.0f} | {limit:.0f} |", flush=True)


def measure_gathers(buffers: dict[int, TrajectoryReplayBuffer]) -> None:
    """Print the time of a batch from each buffer, taken in turns."""
    kinds = {
        "256 transitions": lambda sampler: sampler.sample_transitions(256),
        "64 sub-trajectories of 20": lambda sampler: sampler.sample_sequences(64, 20),
    }
    samplers = {steps: Sampler(buffer, "length", torch.Generator()) for steps, buffer in buffers.items()}
    print("\n| batch | data set, steps | median, microseconds | ratio to the smallest |\n|---|---|---|---|")
    for name, draw in kinds.items():
        times: dict[int, list[float]] = {steps: [] for steps in samplers}
        for _ in range(REPEATS):
            for steps, sampler in samplers.items():
                draw(sampler)
                started = time.perf_counter()
                for _ in range(200):
                    draw(sampler)
                times[steps].append((time.perf_counter() - started) / 200 * 1e6)
        medians = {steps: statistics.median(values) for steps, values in times.items()}
        for steps, value in medians.items():
            print(f"| {name} | {steps:,} | {value:.0f} | {value / medians[min(medians)]:.2f} |", flush=True)


def main() -> None:
    """Make the files, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=[200_000, 2_000_000])
    parser.add_argument("--stage", choices=STAGES)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.stage:
        run_stage(options.stage, options.folder)
        return
    torch.set_num_threads(1)
    print("| stage | steps | time, median of 3 | arrays, MB | peak above start, MB | 1.3 x arrays + 300 |")
    print("|---|---|---|---|---|---|")
    buffers = {}
    for steps in options.steps:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_d4rl_file(folder / "d4rl.hdf5", steps)
            dataset = read_recording(folder / "d4rl.hdf5", CONFIG.task, {}).dataset
            write_trajectories(folder / "trajectories.hdf5", dataset)
            measure_stages(folder, steps)
            buffers[steps] = fill_buffer(dataset)
    measure_gathers(buffers)


if __name__ == "__main__":
    main()

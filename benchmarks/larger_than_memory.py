"""Is a data set larger than memory made, trained on and evaluated within the memory there is, and what does a batch cost?

    sudo .venv/bin/python benchmarks/larger_than_memory.py FOLDER [--steps 50000000] [--limit-gb 3] [--batches 200000 2000000]

Each stage runs in a process of its own, in a control group (version 1 or 2) with a limit on memory, page cache included.
So it needs root, and about 400 bytes of disk a step in FOLDER, of which it leaves nothing. Prints Markdown tables.

Anonymous memory is what a process cannot give back: RssAnon, looked at 20 times a second. The group's peak also counts
cached pages of files, which the system drops when it needs room. Cold batches are read from the disk: the mapping is
closed and the file's pages are dropped (posix_fadvise) before each. Resident batches come from the same rows in memory.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import h5py
import numpy as np
import torch

from vdt.agent.actor_critic import make_store
from vdt.checkpoint.store import CheckpointStore
from vdt.config.schema import Config
from vdt.data.mapped_store import MappedTrajectoryStore
from vdt.data.normalization import Normalizer
from vdt.data.residence import Residence
from vdt.data.sampling import Sampler
from vdt.data.storage import load_snapshot
from vdt.datasets.snapshot import make_snapshot
from vdt.experiments.resolve import resolve_config
from vdt.tracking import NullTracker
from vdt.training.critic_pretraining import pretrain_critic
from vdt.training.offline import train_actor

EPISODE = 997  # steps; no divisor of anything
BLOCK = 997 * 100
GROUP = "vdt-larger-than-memory"
COLD, WARM = 20, 300  # batches
KINDS = {
    "256 transitions": lambda s: s.sample_transitions(256),
    "64 sub-trajectories of 20": lambda s: s.sample_sequences(64, 20),
}


def make_config(folder: Path, residence: str, training_steps: int = 1) -> Config:
    """Walker2d's task on the synthetic file."""
    steps = {"critic.gradient_steps": training_steps, "actor.gradient_steps": training_steps, "runtime.threads": 1}
    overrides = " ".join(f"{key}={value}" for key, value in {**steps, "data.residence": residence}.items())
    return resolve_config("walker2d-medium-v2", source=f"path:{folder / 'source.hdf5'}", overrides=overrides)


def write_source(folder: Path, steps: int) -> dict[str, Any]:
    """Write a file in D4RL's schema with random content, block by block; next observations are left out."""
    random, task = np.random.default_rng(0), resolve_config("walker2d-medium-v2").task
    shapes = {"observations": (steps, task.observation_size), "actions": (steps, task.action_size), "rewards": (steps,)}
    with h5py.File(folder / "source.hdf5", "w") as file:
        nodes = {name: file.create_dataset(name, shape, np.float32) for name, shape in shapes.items()}
        flags = {name: file.create_dataset(name, (steps,), np.bool_) for name in ("terminals", "timeouts")}
        for start in range(0, steps, BLOCK):
            count = min(BLOCK, steps - start)
            nodes["observations"][start : start + count] = random.standard_normal(
                (count, task.observation_size), np.float32
            )
            nodes["actions"][start : start + count] = random.random((count, task.action_size), np.float32) * 2 - 1
            nodes["rewards"][start : start + count] = random.random(count, np.float32)
            ends = np.zeros(count, np.bool_)
            ends[EPISODE - 1 :: EPISODE] = True
            flags["timeouts"][start : start + count] = ends
    return {"bytes": (folder / "source.hdf5").stat().st_size}


def make(folder: Path, residence: str) -> dict[str, Any]:
    """Read, check, write and version the snapshot."""
    snapshot = make_snapshot(make_config(folder, residence), folder / "home")
    (folder / "source.hdf5").unlink()
    return {"bytes": snapshot.size, "path": snapshot.path}


def drop_pages(path: Path) -> None:
    """Drop a file's pages from memory; those that a process maps stay."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def find_snapshot(folder: Path) -> Path:
    """The snapshot's file."""
    return next((folder / "home" / "data").rglob("trajectories.hdf5"))


def train(folder: Path, residence: str, training_steps: int) -> dict[str, Any]:
    """Train critic and actor on the snapshot; the critic first computes statistics and writes the file of rows."""
    started, config = time.perf_counter(), make_config(folder, residence, training_steps)
    dataset = load_snapshot(find_snapshot(folder), Residence(config.data.residence))
    loaded = time.perf_counter()
    stores = (
        CheckpointStore(folder / name, (), interval_seconds=1e9, interval_steps=10**9, keep=1) for name in ("c", "a")
    )
    critic = pretrain_critic(config, dataset, NullTracker(), next(stores))
    middle = time.perf_counter()
    train_actor(config, dataset, critic, NullTracker(), next(stores))
    end = time.perf_counter()
    times = {"load": loaded - started, "critic, statistics and rows": middle - loaded, "actor": end - middle}
    return {"times": times, "mapped": dataset.file is not None, "steps": dataset.steps}


def open_store(config: Config, folder: Path) -> MappedTrajectoryStore:
    """The store of the training data, as critic and actor have it."""
    from vdt.data.reward_scale import compute_reward_scale

    dataset, data = load_snapshot(find_snapshot(folder), Residence(config.data.residence)), config.data
    normalizer = Normalizer.fit(dataset, data.min_observation_std, data.observation_clip)
    scale = compute_reward_scale(config.task.reward_scaling, dataset.episode_returns)
    store = make_store(config, normalizer, scale, dataset)
    assert isinstance(store, MappedTrajectoryStore)
    return store


def time_batches(folder: Path, *, resident: bool, limited: bool) -> dict[str, Any]:
    """Time batches: cold and warm, also resident; within the limit cold ones, and those of a process that has run a while."""
    config, found = make_config(folder, "mapped"), {}
    rows = next((folder / "home" / "data").rglob("*.npy"))
    store, normalizer, settings = open_store(config, folder), None, None
    dataset, normalizer, settings = store.dataset, store.normalizer, store.settings
    for name, draw in KINDS.items():
        times = []
        for number in range(COLD):
            del store
            gc.collect()
            drop_pages(rows)
            store = MappedTrajectoryStore(dataset, normalizer, settings)
            sampler = Sampler(store, "length", torch.Generator().manual_seed(number))
            sampler.sample_rows(1, with_target=True), sampler.sample_rows(1)
            started = time.perf_counter()
            draw(sampler)
            times.append(time.perf_counter() - started)
            del sampler
        found[f"{name}, cold"] = statistics.median(times) * 1e6
    if not limited:
        with open(rows, "rb") as file:
            while file.read(2**24):
                pass
    held = store.matrix.clone() if resident else store.matrix
    for name, draw in KINDS.items():
        for where, matrix in (
            ("steady" if limited else "warm", store.matrix),
            *((("resident", held),) if resident else ()),
        ):
            store.matrix, mapped = matrix, store.matrix
            sampler = Sampler(store, "length", torch.Generator().manual_seed(7))
            times = []
            for _ in range(2 * WARM):
                started = time.perf_counter()
                draw(sampler)
                times.append(time.perf_counter() - started)
            found[f"{name}, {where}"] = statistics.median(times[WARM:]) * 1e6
            store.matrix = mapped
    return {"microseconds": found}


def watch_memory(peak: dict[str, float]) -> None:
    """Keep the highest anonymous memory of this process, MB."""
    while True:
        status = Path("/proc/self/status").read_text()
        peak["anonymous"] = max(peak["anonymous"], int(status.split("RssAnon:")[1].split()[0]) / 1024)
        time.sleep(0.05)


STAGES = {
    "source": lambda options: write_source(options.folder, options.steps),
    "snapshot": lambda options: make(options.folder, options.residence),
    "train": lambda options: train(options.folder, options.residence, options.training_steps),
    "batches": lambda options: time_batches(options.folder, resident=True, limited=False),
    "batches within the limit": lambda options: time_batches(options.folder, resident=False, limited=True),
}


def run_stage(options: argparse.Namespace) -> None:
    """Run one stage and print its result as JSON in the last line."""
    torch.set_num_threads(1)
    peak = {"anonymous": 0.0}
    threading.Thread(target=watch_memory, args=(peak,), daemon=True).start()
    started = time.perf_counter()
    found = STAGES[options.stage](options)
    seconds = time.perf_counter() - started
    print(json.dumps({**found, "seconds": seconds, "anonymous": peak["anonymous"]}))


class MemoryGroup:
    """Control group with a limit on memory."""

    def __init__(self, limit: int) -> None:
        root = Path("/sys/fs/cgroup")
        first = (root / "memory").is_dir()
        own = [
            line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line
        ]
        self.folder = (root / "memory" / own[0].lstrip("/") if first else root) / GROUP
        names = ("memory.limit_in_bytes", "memory.max_usage_in_bytes") if first else ("memory.max", "memory.peak")
        self.limit, self.peak = (self.folder / name for name in names)
        self.folder.mkdir(exist_ok=True)
        self.limit.write_text(str(limit))

    def join(self) -> None:
        """Put this process into the group; what it starts is in it, too."""
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def read_peak(self) -> float:
        """Highest memory of the group so far, page cache included, MB."""
        return int(self.peak.read_text()) / 2**20


@contextlib.contextmanager
def open_group(limit: float) -> Iterator[MemoryGroup | None]:
    """A group for one stage; none without a limit."""
    group = MemoryGroup(int(limit * 2**30)) if limit else None
    yield group
    if group is not None:
        group.folder.rmdir()


def start_stage(stage: str, options: argparse.Namespace, steps: int, limit: float) -> dict[str, Any]:
    """Run a stage in a process of its own, within the limit if there is one, and return its result."""
    command = [sys.executable, __file__, str(options.folder), "--stage", stage, "--steps", str(steps)]
    command += ["--residence", options.residence if limit else "mapped"]
    command += ["--training-steps", str(options.training_steps if limit else 1)]
    with open_group(limit) as group:
        join = group.join if group else None
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, preexec_fn=join, text=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return {**found, "peak": group.read_peak() if group else float("nan")}


def measure(options: argparse.Namespace, steps: int, rows: list[str]) -> None:
    """Make, train on and draw from one size; batches of all sizes are printed at the end."""
    limit = options.limit_gb if steps == options.steps else 0.0
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="vdt-") as own:
        options = argparse.Namespace(**{**vars(options), "folder": Path(own)})
        for stage in list(STAGES)[:3]:
            found = start_stage(stage, options, steps, limit if stage != "source" else 0.0)
            parts = ", ".join(f"{name} {value:.1f} s" for name, value in found.get("times", {}).items())
            size = f"{found['bytes'] / 1e9:.2f} GB" if "bytes" in found else f"mapped: {found['mapped']}; {parts}"
            print(
                f"| {steps:,} | {stage} | {found['seconds']:.1f} | {found['anonymous']:.0f} | {found['peak']:.0f} | {size} |",
                flush=True,
            )
        for stage in list(STAGES)[3:] if limit else list(STAGES)[3:4]:
            found = start_stage(stage, options, steps, limit if "limit" in stage else 0.0)
            rows += [f"| {steps:,} | {name} | {value:,.0f} |" for name, value in found["microseconds"].items()]


def main() -> None:
    """Make the files, measure, print, remove the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=50_000_000)
    parser.add_argument("--limit-gb", type=float, default=3.0)
    parser.add_argument("--batches", type=int, nargs="*", default=[200_000, 2_000_000])
    parser.add_argument("--training-steps", type=int, default=300)
    parser.add_argument("--residence", default="auto", choices=("auto", "mapped"))
    parser.add_argument("--stage", choices=STAGES)
    options = parser.parse_args()
    if options.stage:
        run_stage(options)
        return
    print("| steps | stage | seconds | anonymous memory, MB | group's peak, MB | |\n|---|---|---|---|---|---|")
    rows: list[str] = []
    for steps in (*options.batches, options.steps):
        measure(options, steps, rows)
    print("\n| data set, steps | batch | median, microseconds |\n|---|---|---|", *rows, sep="\n")


if __name__ == "__main__":
    main()

"""What does writing a checkpoint cost? Writes those of a finished run again.

    python benchmarks/checkpoint_cost.py HOME [--repeats 9]

HOME is the home folder of runs, of which the newest is taken. Share: of the training time, at the interval of
`checkpoint.interval_seconds`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import format_table
from vdt.checkpoint.names import DONE
from vdt.checkpoint.store import CheckpointStore, load_state
from vdt.experiments.resolve import resolve_config

INTERVAL = resolve_config("walker2d-medium-v2").checkpoint.interval_seconds


def time_saves(path: Path, repeats: int) -> list[float]:
    """Seconds of each save of the state in `path`, fsync included."""
    state, taken = load_state(path), []
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        store = CheckpointStore(Path(folder), interval_seconds=1e9, interval_steps=10**9, keep=3)
        for step in range(1, repeats + 1):
            began = time.perf_counter()
            store.save(step, state, None)
            taken.append(time.perf_counter() - began)
    return taken


def main() -> None:
    """One row for each finished step of the newest run that has one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("home", type=Path)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    finished = list(options.home.glob(f".vdt/checkpoints/VDTFlow/*/*/*/{DONE}"))
    if not finished:
        parser.error(f"{options.home} has no run with a finished step")
    newest, rows = max(done.parents[2].name for done in finished), []
    print(f"run {newest}\n")
    for done in sorted(done for done in finished if done.parents[2].name == newest):
        path = done.parent / done.read_text().strip()
        taken = time_saves(path, options.repeats)
        median, size = statistics.median(taken), path.stat().st_size / 1e6
        shares = [f"{100 * value / INTERVAL:.2f} %" for value in (median, max(taken))]
        rows.append([path.parts[-3], path.parts[-2], f"{size:.1f}", f"{1000 * median:.0f}", *shares])
    print(format_table(["step", "cell", "MB", "median, ms", "share of the time", "of the slowest"], rows))


if __name__ == "__main__":
    main()

"""The fault campaign: kills at random moments, each resumed, all outcomes bitwise equal to the undisturbed run's.

    python tests/faults/campaign.py --kills 40 --folder FOLDER [--cells 3] [--moments write,flush] [--minutes 60]

One run of the flow is killed and resumed several times, then the next. What is done is kept in FOLDER/results.jsonl: the
same command continues.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.faults import Flow, assert_same_outcome, make_words, plan_kills, run_with_kills  # noqa: E402

KILLS_PER_RUN = 8


def make_undisturbed(folder: Path, seeds: str) -> Path:
    """The run that all others are compared with, made once."""
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        began = time.monotonic()
        flow = Flow(folder, *make_words(seeds))
        assert flow.wait() == 0, flow.output[-6000:]
        (folder / "done").write_text(f"{time.monotonic() - began:.0f} s\n")
        print(f"undisturbed run: {time.monotonic() - began:.0f} s", flush=True)
    return folder / "home"


def run_lineage(folder: Path, number: int, moments: tuple[str, ...], seeds: str, undisturbed: Path) -> int:
    """One run, killed and resumed; prints a row per kill and returns the kills that hit."""
    shutil.rmtree(folder, ignore_errors=True)
    hits = 0
    for kill, outcome in run_with_kills(folder, plan_kills(random.Random(number), KILLS_PER_RUN, moments), seeds):
        hits += outcome != "missed"
        print(f"run {number:2}  kill {hits:2}  {kill}  {outcome}", flush=True)
    print(f"run {number:2}  {assert_same_outcome(folder / 'home', undisturbed)}", flush=True)
    return hits


def main() -> int:
    """Run the campaign; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--cells", type=int, default=1, help="cells in parallel (seeds 0, 1, …)")
    parser.add_argument("--moments", default="random,write,flush")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no further run after this time")
    options = parser.parse_args()
    folder = options.folder.resolve()
    seeds = ",".join(map(str, range(options.cells)))
    deadline, results = time.monotonic() + 60 * options.minutes, folder / "results.jsonl"
    undisturbed = make_undisturbed(folder / "undisturbed", seeds)
    done = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    while sum(row["kills"] for row in done) < options.kills and time.monotonic() < deadline:
        number, began = len(done), time.monotonic()
        hits = run_lineage(folder / f"run-{number}", number, tuple(options.moments.split(",")), seeds, undisturbed)
        done.append({"run": number, "kills": hits, "seconds": round(time.monotonic() - began)})
        with open(results, "a") as file:
            file.write(json.dumps(done[-1]) + "\n")
    kills = sum(row["kills"] for row in done)
    print(
        f"{kills} kills in {len(done)} runs of {options.cells} cell(s): {kills} of {kills} equal to the undisturbed run"
    )
    return 0 if kills >= options.kills else 1


if __name__ == "__main__":
    sys.exit(main())

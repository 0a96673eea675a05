"""Collects every built-in data set at its full size and compares it with `params/behavior/checksums.json`.

`python benchmarks/collected_data.py [--write] [--steps N] [ENV …]`: about 40 s a data set on one core. With `--write` the
file is brought up to date: after a change of the recipe, of a ladder, of the card or of a simulator's version. The short
ones, `--steps 900`, are what a unit test compares.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from vdt.config.layers import load_tasks
from vdt.datasets.checksums import CHECKSUMS, read_checksums
from vdt.datasets.collected import find_collection
from vdt.datasets.snapshot import make_snapshot
from vdt.experiments.resolve import resolve_config
from vdt.system.files import write_text

PACKAGES = ("gymnasium", "gymnasium-robotics", "mujoco")


def collect(env: str, steps: int, home: Path) -> tuple[str, dict[str, Any]] | None:
    """Collect one data set; none where there is no recipe. Returns its key, and what is to be on record."""
    config = resolve_config(env, source="collected", overrides=f"data.steps={steps}" if steps else "")
    collection = find_collection(config)
    if collection is None:
        return None
    snapshot = make_snapshot(config, home)
    card = snapshot.card
    return collection.key, {
        "env": env,
        "recipe_steps": config.data.steps,
        "md5": snapshot.md5,
        "episodes": card["episodes"],
        "steps": card["steps"],
        "normalized_score_mean": round(card["normalized_score_mean"], 2),
        "versions": {name: card["recipe"][name] for name in PACKAGES if name in card["recipe"]},
    }


def record(recorded: dict[str, dict[str, Any]], key: str, entry: dict[str, Any]) -> None:
    """Put an entry in the place of the one of this env and number of steps."""
    for old, other in list(recorded.items()):
        if (other["env"], other["recipe_steps"]) == (entry["env"], entry["recipe_steps"]):
            del recorded[old]
    recorded[key] = entry
    ordered = dict(sorted(recorded.items(), key=lambda item: (-item[1]["recipe_steps"], item[1]["env"])))
    write_text(CHECKSUMS, json.dumps(ordered, indent=1) + "\n")


def main() -> None:
    """Print one row for each data set."""
    parser = argparse.ArgumentParser(prog="python benchmarks/collected_data.py", description=main.__doc__)
    parser.add_argument("env", nargs="*", help="tasks; all that have a recipe if none is named")
    parser.add_argument("--write", action="store_true", help="record what was collected")
    parser.add_argument("--steps", type=int, default=0, help="of each data set; the preset's if 0")
    parser.add_argument("--home", help="folder that keeps the files; a temporary one if empty")
    options = parser.parse_args()
    recorded = read_checksums() if CHECKSUMS.is_file() else {}
    print("| env | md5 | episodes | steps | mean score | s | on record |\n|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for env in options.env or sorted(load_tasks()):
            started = time.monotonic()
            found = collect(env, options.steps, Path(options.home or folder))
            if found is None:
                continue
            key, now = found
            before = recorded.get(key, {}).get("md5", "nothing")
            print(
                f"| {env} | `{now['md5']}` | {now['episodes']} | {now['steps']:,} | {now['normalized_score_mean']} | "
                f"{time.monotonic() - started:.0f} | {'equal' if before == now['md5'] else before} |",
                flush=True,
            )
            if options.write:
                record(recorded, key, now)


if __name__ == "__main__":
    main()

"""Which policies do home folders hold? A line of CSV for each: its settings, scores, seconds and learning curve.

    python benchmarks/list_policies.py HOME … --output FILE

A column of settings is a key of the configuration in which the policies differ, those of the task left out. `curve` has
an offline policy's scores along its training, as `gradient steps:score`. `shared` names what the cell has taken from
another one, critic or actor, whose part of `offline_seconds` is then a load or a wait. A cell that two homes hold is
listed once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import pandas as pd

from vdt.config.schema import KEYS
from vdt.tracking.curves import read_curves

RESULTS = ".vdt/results/*.json"
FIRST = ["env", "method", "preset", "patch", "data.seed", "seed"]  # these columns first, whether they differ or not
REPORTED = ["normalized_score", "standard_error", "episodes", "offline_seconds", "shared", "curve"]
LAST = ["policy", "acts", *REPORTED, "code"]
STEPS = {"pretrain_critic": "critic", "train_actor": "actor"}  # of the flow, before anything is online


def list_policies(home: Path) -> Iterator[dict[str, Any]]:
    """Yield a row for each policy and setting of a home's kept results, with all of its configuration."""
    cells = [json.loads(path.read_text()) for path in sorted(home.glob(RESULTS))]
    curves = read_curves(home, [cell["mlflow_run_id"] for cell in cells])
    for cell in cells:
        settings = {**cell["config"], "patch": cell["patch"], "data": cell["snapshot"]["label"]}
        seconds = sum(cell["seconds"].get(step, 0) for step in STEPS)
        shared = " ".join(part for step, part in STEPS.items() if cell.get("shared_from", {}).get(step))
        for policy, reports in cell["evaluation"]["policies"].items():
            curve = curves.get(cell["mlflow_run_id"], {}).get("actor/score", []) if policy == "offline" else []
            for setting, report in reports.items():
                yield {
                    **settings,
                    "policy": policy,
                    "acts": setting,
                    "normalized_score": _round(report["normalized_score_mean"]),
                    "standard_error": _round(report["normalized_score_standard_error"]),
                    "episodes": len(report["episode_returns"]),
                    "offline_seconds": round(seconds),
                    "shared": shared,
                    "curve": " ".join(f"{step}:{score:.0f}" for step, score in curve),
                    "code": cell["code"],
                    "identity": cell["identity"],
                }


def _round(score: float | None) -> float | None:
    return None if score is None else round(score, 2)


def make_table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return the rows once each, sorted, without settings that all of them share and without the task's."""
    table = pd.DataFrame(rows).drop_duplicates(subset=["identity", "code", "policy", "acts"]).drop(columns="identity")
    settings = [name for name in table.columns if name not in (*FIRST, *LAST) and not name.startswith("task.")]
    shown = table[settings].astype(object).fillna("").astype(str)  # a key that only some cells have differs, too
    places = {name: place for place, name in enumerate(KEYS)}
    differ = [name for name in settings if shown[name].nunique() > 1]
    differ.sort(key=lambda name: places.get(name, len(places)))  # whatever the order of the homes
    return table[[*FIRST, *differ, *LAST]].sort_values(FIRST, kind="stable")


def main() -> None:
    """Write the table of the given homes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("homes", nargs="+", type=Path, help="folders that hold .vdt/results")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    arguments = parser.parse_args()
    rows = [row for home in arguments.homes for row in list_policies(home.resolve())]
    if not rows:
        places, kept = ", ".join(map(str, arguments.homes)), any(any(home.glob(RESULTS)) for home in arguments.homes)
        none = f"the finished cells in {places} have no environment, so no scores"
        parser.error(none if kept else f"no finished cell in {places}")
    table = make_table(rows)
    table.to_csv(arguments.output, index=False, lineterminator="\n")
    print(f"{len(table)} policies, {len(table.columns)} columns: {arguments.output}")


if __name__ == "__main__":
    main()

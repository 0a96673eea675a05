"""Are the curves of methods level at their ends? A panel for each method and env, a line for each policy.

    python benchmarks/draw_curves.py docs/results/policies.csv --output docs/results/curves.png

Drawn are offline policies of one preset that have a curve, of each method those with its most frequent number of gradient
steps. The last point is of the evaluation's episodes, the others of two.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

Row = dict[str, str]
SIZE = 1.9, 1.35  # inches of a panel
STYLES = ("-", "--", ":", "-.")  # of data seeds


def select_rows(rows: Sequence[Row], preset: str) -> list[Row]:
    """Return the offline policies of a preset, without patches, that have a curve."""
    found = [row for row in rows if row["preset"] == preset and row["policy"] == "offline" and not row["patch"]]
    found = [row for row in found if row["curve"] and row["acts"] == "single"]
    budgets = Counter((row["method"], row["actor.gradient_steps"]) for row in found)
    usual = {method: max(budgets, key=lambda one: (one[0] == method, budgets[one]))[1] for method, _ in budgets}
    return [row for row in found if row["actor.gradient_steps"] == usual[row["method"]]]


def draw(rows: Sequence[Row], output: Path) -> None:
    """Write the figure of rows that have curves."""
    methods, envs, seeds = (sorted({row[name] for row in rows}) for name in ("method", "env", "data.seed"))
    size = SIZE[0] * len(envs), SIZE[1] * len(methods) + 0.5
    figure, panels = plt.subplots(
        len(methods), len(envs), figsize=size, sharex="row", sharey=True, squeeze=False, layout="constrained"
    )
    for method, line in zip(methods, panels, strict=True):
        for env, axes in zip(envs, line, strict=True):
            for row in rows:
                if (row["method"], row["env"]) == (method, env):
                    points = [tuple(map(float, point.split(":"))) for point in row["curve"].split()]
                    place = seeds.index(row["data.seed"])
                    steps, scores = zip(*((step / 1000, score) for step, score in points), strict=True)
                    axes.plot(steps, scores, STYLES[place % len(STYLES)], color=f"C{place}", linewidth=1.1)
            axes.tick_params(labelsize=7)
            axes.grid(alpha=0.3)
        line[0].set_ylabel(method, fontsize=9)
    for env, axes in zip(envs, panels[0], strict=True):
        axes.set_title(env, fontsize=8)
    for place, seed in enumerate(seeds):
        panels[0, 0].plot([], [], STYLES[place % len(STYLES)], color=f"C{place}", label=f"data seed {seed}")
    figure.legend(loc="outside upper right", ncols=len(seeds), fontsize=8, frameon=False)
    figure.supxlabel("thousand gradient steps of the actor", fontsize=9)
    figure.supylabel("normalized_score", fontsize=9)
    figure.savefig(output, dpi=80)


def main() -> None:
    """Read the table and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="of list_policies.py")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--preset", default="fair")
    parser.add_argument("--data-seeds", default="", help="only these, separated by commas")
    given = parser.parse_args()
    with given.table.open(newline="") as file:
        rows = select_rows(list(csv.DictReader(file)), given.preset)
    wanted = [seed for seed in given.data_seeds.split(",") if seed]
    rows = [row for row in rows if not wanted or row["data.seed"] in wanted]
    if not rows:
        sys.exit(f"error: {given.table}: no offline policy of preset {given.preset} and these data seeds has a curve")
    draw(rows, given.output)


if __name__ == "__main__":
    main()

"""Figures of evaluated episodes over their maze."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

from vdt.evaluation.records import CellRecord, EvaluationReport, Maze
from vdt.system.files import make_file_name

PANEL = 3.2  # inches
Panel = tuple[str, EvaluationReport]  # with its title


def draw_mazes(records: Sequence[CellRecord]) -> Iterator[tuple[str, str, Figure]]:
    """Yield env, file name and figure for each env and data source whose evaluation kept traces.

    One panel for each method, patch and policy: the episodes of the first seed with the first look-ahead setting.
    """
    panels: dict[tuple[str, str], dict[str, Panel]] = {}
    for record in records:
        for policy, settings in record.evaluation.policies.items():
            setting, report = next(iter(settings.items()))
            if report.trace:
                title, where = f"{record.name} {policy} {setting}", (record.env, record.snapshot.source)
                panels.setdefault(where, {}).setdefault(title, (f"{title}, seed {record.seed}", report))
    for (env, source), shown in panels.items():
        yield env, f"maze-{make_file_name(env)}-{source}.png", _draw_panels(env, list(shown.values()))


def _draw_panels(env: str, panels: Sequence[Panel]) -> Figure:
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(PANEL * columns, PANEL * rows + 0.4), layout="constrained")
    figure.suptitle(f"{env}: evaluated episodes", fontsize=8)
    for number, (title, report) in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, number)
        axes.set_title(title, fontsize=8)
        assert report.trace is not None
        _draw_maze(axes, report.trace.maze)
        for path, success in zip(report.trace.paths, report.successes or (), strict=True):
            x, y = zip(*path, strict=True)
            axes.plot(x, y, color="C0" if success else "C3", linewidth=0.8, alpha=0.8)
            axes.plot(x[0], y[0], "o", color="C0" if success else "C3", markersize=3)
    return figure


def _draw_maze(axes: Axes, maze: Maze) -> None:
    for x, y in maze.walls:
        axes.add_patch(Rectangle((x - maze.size / 2, y - maze.size / 2), maze.size, maze.size, color="0.6"))
    axes.add_patch(Circle((maze.goal[0], maze.goal[1]), maze.radius, color="C2", alpha=0.5))
    axes.set_aspect("equal")
    axes.autoscale_view()
    axes.tick_params(labelsize=6)

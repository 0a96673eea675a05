"""Drawing that all figures share: panels, titles, axes of steps, and files."""

from __future__ import annotations

import textwrap
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from vdt.system.files import atomic_write

WIDTH = 6.0  # inches: a page's, so that letters keep their size
PANEL_HEIGHT = 2.4
RESOLUTION = 150  # dots per inch
COLUMNS = 2  # of panels: more would be too small to read
TICKS = 5  # of an axis, at most
TITLE = 9  # points
SMALL = 8  # points, of labels and legends


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all."""
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=RESOLUTION)
    return path


def set_title(figure: Figure, title: str) -> None:
    """Set a title that is broken into lines of the figure's width."""
    letters = int(figure.get_figwidth() * 72 / (0.55 * TITLE))
    figure.suptitle(textwrap.fill(title, letters), fontsize=TITLE)


def make_panels(count: int, title: str) -> tuple[Figure, list[Axes]]:
    """Make a figure of `count` panels, two in a row, with a title above them."""
    columns = min(count, COLUMNS)
    rows = -(-count // columns)
    height = PANEL_HEIGHT if columns > 1 else 1.2 * PANEL_HEIGHT
    figure = Figure(figsize=(WIDTH, 0.4 + height * rows), layout="constrained")
    set_title(figure, title)
    panels = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    for axes in panels:
        clean_axes(axes)
    return figure, panels


def make_rows(labels: list[str], title: str, *, height: float = 0.34) -> tuple[Figure, Axes]:
    """Make a figure of one panel with a labelled row for each thing that is compared, the first on top."""
    figure = Figure(figsize=(WIDTH, 1.1 + height * len(labels)), layout="constrained")
    axes = figure.add_subplot()
    clean_axes(axes)
    axes.set_yticks(range(len(labels)), labels, fontsize=SMALL)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="0.9", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(TICKS))
    set_title(figure, title)
    return figure, axes


def clean_axes(axes: Axes) -> None:
    """Remove the frame's right and upper side."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=SMALL)
    axes.set_axisbelow(True)


def count_steps(axes: Axes, what: str) -> None:
    """Label an axis of steps, with few ticks and 20,000 as 20k: labels must not run into each other."""
    axes.set_xlabel(what, fontsize=SMALL + 1)
    axes.xaxis.set_major_locator(MaxNLocator(TICKS))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))

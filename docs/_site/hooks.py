"""Hooks of the documentation site: equations become MathML, tables of scores get a figure, both without a script."""

from __future__ import annotations

import io
import re
from typing import Any

from latex2mathml.converter import convert

EQUATION = re.compile(r"^\$\$\n(.*?)\n\$\$$", re.MULTILINE | re.DOTALL)
TABLE = re.compile(r"^\| data\b.*\n\|[-|]+\n(?:\|.*\n)+", re.MULTILINE)
EXPLAINED = "Where a method has two points in a row, the hollow one is before online tuning."
SCORE = re.compile(r"(-?\d+\.\d) ± (\d+\.\d)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace the equations of a page, LaTeX between lines of `$$`, by MathML; draw the tables of the results."""
    markdown = EQUATION.sub(lambda found: f"\n{convert(found[1], display='block')}\n", markdown)
    if page.file.src_uri != "results/README.md":
        return markdown
    return TABLE.sub(lambda found: f"{found[0]}\n{draw_scores(found[0])}\n", markdown)


def draw_scores(table: str) -> str:
    """Draw a table of scores, a row of points for each data set, as an SVG picture inside the page.

    A cell is "mean ± error", or "before → after" of two of these: before is drawn hollow.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    header, _, *lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()]
    methods, step = header[1:], 0.8 / len(header[1:])
    figure, axes = plt.subplots(figsize=(8.5, 0.6 + 0.62 * len(lines)), layout="constrained")
    for column, method in enumerate(methods):
        points = [
            (float(mean), row + (column + 0.5) * step - 0.4, float(error), number == len(found) - 1)
            for row, line in enumerate(lines)
            for found in [SCORE.findall(line[column + 1])]
            for number, (mean, error) in enumerate(found)
        ]
        for final in (True, False):
            shown = [point[:3] for point in points if point[3] is final]
            if shown:
                means, places, errors = zip(*shown, strict=True)
                label, face = (method, f"C{column}") if final else (None, "white")
                axes.errorbar(means, places, xerr=errors, fmt="o", ms=4, color=f"C{column}", mfc=face, label=label)
    for row in range(1, len(lines)):
        axes.axhline(row - 0.5, color="0.85", linewidth=0.8)
    axes.set_yticks(range(len(lines)), [line[0] for line in lines])
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_xlabel("normalized score, mean ± standard error")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=min(len(methods), 7), frameon=False)
    return f"<figure>{save_svg(figure)}<figcaption>The table above, drawn. {EXPLAINED}</figcaption></figure>"


def save_svg(figure: Any) -> str:
    """Return a figure as SVG in one line, and close it; a table is drawn alike each time."""
    import matplotlib
    import matplotlib.pyplot as plt

    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "scores"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    return re.sub(r"\s*\n\s*", " ", text.getvalue()[text.getvalue().index("<svg") :])

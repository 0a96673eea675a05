"""Parts of a report: tables, figures with captions, and the sections that hold both. They render as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

IDENTIFYING = frozenset(  # columns that say what was measured: printed once where all rows agree
    {
        "env",
        "data",
        "data's mean score",
        "method",
        "preset",
        "policy",
        "look-ahead",
        "seed",
        "seeds",
        "episodes",
        "steps",
        "fit's steps",
        "data sets",
        "runs",
        "data md5",
        "what differs from theirs",
    }
)


@dataclass(frozen=True)
class Table:
    """Table with a heading, or without one where the title is empty."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""

    def render(self) -> Iterator[str]:
        """Yield the lines of a Markdown section; none if there are no rows.

        Columns without content are left out. Values equal in all rows are printed once, above: a table must fit a page.
        """
        rows = [[str(entry).replace("|", "\\|") for entry in row] for row in self.rows]
        if not rows:
            return
        columns = {name: [row[i] for row in rows] for i, name in enumerate(self.header)}
        known = {name: values for name, values in columns.items() if set(values) != {"-"}}
        once = {name: values[0] for name, values in known.items() if name in IDENTIFYING and len(set(values)) == 1}
        shown = {name: values for name, values in known.items() if name not in once}
        yield from (f"## {self.title}", "") if self.title else ()
        yield from (self.note, "") if self.note else ()
        if once:
            yield from ("All rows: " + "; ".join(f"{name} {value}" for name, value in once.items()) + ".", "")
        if shown:
            yield from ("| " + " | ".join(shown) + " |", "|" + "---|" * len(shown))
            yield from ("| " + " | ".join(row) + " |" for row in zip(*shown.values(), strict=True))
            yield ""


@dataclass(frozen=True)
class CaptionedFigure:
    """Figure of a report.

    Attributes:
        path: of its PNG file.
        caption: what it shows, and what its marks mean.
    """

    path: Path
    caption: str

    def render(self, number: int) -> Iterator[str]:
        """Yield the lines of a Markdown paragraph: the image, and below it its caption."""
        alternative = self.caption.partition(". ")[0].replace("[", "(").replace("]", ")")
        yield from (f"![{alternative}]({self.path.name})", f"*Figure {number}. {self.caption}*", "")


@dataclass(frozen=True)
class Section:
    """Section of a report.

    Attributes:
        tables: those without rows are left out.
        figures: shown below the tables.
        title: of the section where it has figures alone.
        text: lines that stand above.
    """

    tables: Sequence[Table] = ()
    figures: Sequence[CaptionedFigure] = ()
    title: str = ""
    text: Sequence[str] = ()


def render_sections(sections: Iterable[Section]) -> Iterator[str]:
    """Yield the Markdown lines of all sections; the figures are numbered through."""
    numbers = count(1)
    for section in sections:
        lines = [line for table in section.tables for line in table.render()]
        if section.figures and section.title and not lines:
            lines = [f"## {section.title}", ""]
        yield from section.text
        yield from [""] if section.text and section.text[-1] else ()
        yield from lines
        for figure in section.figures:
            yield from figure.render(next(numbers))

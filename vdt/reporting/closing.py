"""The last screen of a run: scores beside the data's mean, and where everything lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from vdt.evaluation.records import CellRecord
from vdt.reporting.aggregates import find_headline
from vdt.reporting.frame import Result, collect_results, make_frame

MOST_LINES = 12  # of scores, and of policies: a screen holds them with all else
COLUMNS = ("env", "data's mean", "method", "policy", "normalized_score", "seeds")


def summarise_scores(records: Sequence[CellRecord]) -> str:
    """Return a table of the normalized scores of each method's policies, or of what stands for them.

    Args:
        records: of finished cells.
    """
    rows = [*_list_scores(records), *_list_errors(records)]
    shown = rows[:MOST_LINES]
    widths = [max(map(len, column)) for column in zip(COLUMNS, *shown, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (COLUMNS, *shown)]
    return "\n".join(lines if len(rows) == len(shown) else [*lines, f"and {len(rows) - len(shown)} more in the report"])


def summarise_places(places: Mapping[str, Sequence[str]]) -> str:
    """Return what lies where, one line each; of several things under one name the first ones."""
    lines = []
    for name, values in places.items():
        shown = [value for value in values if value][:MOST_LINES]
        lines += [f"{name if place == 0 else '':<8}{value}" for place, value in enumerate(shown)]
        if len(values) > len(shown) > 0:
            lines.append(f"{'':<8}and {len(values) - len(shown)} more in the report")
    return "\n".join(lines)


def _list_scores(records: Sequence[CellRecord]) -> Iterator[tuple[str, ...]]:
    wanted = {(record.name, record.env): find_headline(record.config) for record in records}
    frame = make_frame(records)
    for result in collect_results(frame) if len(frame) else ():
        if result.setting == wanted[result.method, result.env]:
            data = "-" if result.dataset_score is None else f"{result.dataset_score:.1f}"
            yield (result.env, data, result.method, result.policy, _describe(result), str(len(result.seeds)))


def _describe(result: Result) -> str:
    """Return the score, or the return of episodes that were cut short, which no score can be made of."""
    if result.score is None:
        return f"none: cut at {result.cut_at} steps, return {result.episode_return}"
    return str(result.score)


def _list_errors(records: Sequence[CellRecord]) -> Iterator[tuple[str, ...]]:
    for record in records:
        if not record.evaluation.policies:
            for policy, held_out in record.evaluation.held_out.items():
                error = f"none: no environment, action error {held_out.action_rmse:.3f} of {held_out.action_std:.3f}"
                yield (record.env, "-", record.name, policy, error, f"s{record.seed}")

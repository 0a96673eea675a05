"""Summary of a report: the last screen of a run, and the numbers that `dvc metrics show` prints."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from vdt.config.convergence import UNFINISHED
from vdt.environments.scores import describe_cut, format_return
from vdt.evaluation.records import CellRecord
from vdt.reporting.aggregates import find_headlines
from vdt.reporting.answer import describe_action_range
from vdt.reporting.calibration import (
    CellIndex,
    compute_mean_bias,
    describe_guidance,
    find_largest_gap,
    has_second_critic,
    is_unguided,
)
from vdt.reporting.frame import (
    POLICIES,
    Result,
    Task,
    collect_results,
    count_cut,
    describe_return,
    fill_best,
    find_task,
    label_data,
    make_frame,
    withhold_scores,
)

SCREEN = (24, 100)  # lines, columns
ARROW = " -> "


def make_metrics(records: Sequence[CellRecord], results: Sequence[Result]) -> dict[str, Any]:
    """Return numbers in mappings without lists: env -> method -> name -> number, as `dvc metrics show` needs them.

    Each method is shown by the look-ahead setting that it acts with. Episodes that were cut short have no score.
    """
    headlines = find_headlines(records)
    metrics: dict[str, Any] = {}
    index = CellIndex(records)
    tasks: dict[str, set[Task]] = {}
    for result in results:
        tasks.setdefault(result.env, set()).add(result.task)
    for result in results:
        if result.setting != headlines[result.method, result.env]:
            continue
        found = metrics.setdefault(result.env, {}).setdefault(
            _qualify(result.method, result.task, tasks[result.env]), {}
        )
        if result.score is not None:
            found[f"{result.policy}_score"] = result.score.mean
            if result.score.standard_error is not None:
                found[f"{result.policy}_score_standard_error"] = result.score.standard_error
        found[f"{result.policy}_return"] = result.episode_return.mean
        cells = index.select(result)
        bias, gap = compute_mean_bias(cells, result.policy), find_largest_gap(cells)
        found.update({f"{result.policy}_critic_bias": bias} if bias is not None else {})
        found.update({"critic_expected_gap": gap} if gap is not None else {})
    for (env, method, policy), errors in _collect_action_errors(records).items():
        found = metrics.setdefault(env, {}).setdefault(method, {})
        found[f"{policy}_action_error"] = math.fsum(errors) / len(errors)
    return metrics


def _collect_action_errors(records: Sequence[CellRecord]) -> dict[tuple[str, str, str], list[float]]:
    """Return (env, method, policy) -> the action error on held-out episodes, one number per seed."""
    errors: dict[tuple[str, str, str], list[float]] = {}
    tasks: dict[str, set[Task]] = {}
    for record in records:
        tasks.setdefault(record.env, set()).add(find_task(record))
    for record in records:
        name = _qualify(record.name, find_task(record), tasks[record.env])
        for policy, report in record.evaluation.held_out.items():
            errors.setdefault((record.env, name, policy), []).append(report.action_rmse)
    return errors


def _qualify(method: str, task: Task, tasks: Collection[Task]) -> str:
    """Return the method, with its data where a report has several data sets or presets of its env."""
    _, source, md5, preset = task
    return method if len(tasks) == 1 else f"{method}, {source} {md5[:8]} {preset}"


def describe_end(
    records: Sequence[CellRecord], places: Mapping[str, Sequence[str]], *, first: str = "first"
) -> list[str]:
    """Return the last screen of a run as lines: scores before and after tuning, then output paths.

    Args:
        records: finished cells.
        places: paths and commands by name, in order, e.g. {"policy": paths, "report": [path], "next": [command]}. Of
            several values under one name the first is shown, empty ones are not. A value is never broken, so that it can
            be copied; a long one has its own line.
        first: what the first of several values is called.
    """
    lines, columns = SCREEN
    found = {name: list(filter(None, values)) for name, values in places.items()}
    below = [line for name, values in found.items() for line in _describe_place(name, values, first)]
    room = lines - 1 - sum(math.ceil(len(line) / columns) for line in below)
    scores = [part for line in _describe_scores(records) for part in _wrap(line)]
    if len(scores) > room:
        scores = [*scores[: room - 1], f"... and {len(scores) - room + 1} more lines, in the report"]
    return [*scores, "", *below]


def _wrap(line: str) -> list[str]:
    """Return a line in parts that fit the screen; a word, such as a path, is not broken."""
    return textwrap.wrap(line, SCREEN[1], subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def _describe_place(name: str, values: Sequence[str], first: str) -> list[str]:
    if not values:
        return []
    head = f"{name} ({first} of {len(values)})" if len(values) > 1 else name
    line = f"{head:<8} {values[0]}"
    return [line] if len(line) <= SCREEN[1] else [head, f"  {values[0]}"]


def _describe_scores(records: Sequence[CellRecord]) -> list[str]:
    """Return the headline of each method on each data set."""
    headlines = find_headlines(records)
    lines: list[str] = []
    cells = CellIndex(records)
    frame = withhold_scores(fill_best(make_frame(records)))
    results = [r for r in collect_results(frame) if r.setting == headlines[r.method, r.env]]
    labels = label_data(records)
    for task in dict.fromkeys(result.task for result in results):
        own = [result for result in results if result.task == task]
        score = own[0].dataset_score
        mean = "" if score is None else f", data's mean {score:.1f}"
        cut = _describe_cuts(own, [record for record in records if record.env == own[0].env])
        over = "; ± over episodes" if any((r.score or r.episode_return).is_over_episodes for r in own) else ""
        lines += [f"{own[0].env}, {labels[own[0].env, own[0].source, own[0].md5]}{mean}{over}", *cut]
        width = max(len(result.method) for result in own)
        for method in dict.fromkeys(result.method for result in own):
            found = [result for result in own if result.method == method]
            found.sort(key=lambda result: POLICIES.index(result.policy))
            full, short = (ARROW.join(_describe_result(r, returns=returns) for r in found) for returns in (True, False))
            line = f"  {method:<{width}}  {full}"
            lines.append(line if len(line) <= SCREEN[1] else f"  {method:<{width}}  {short}")
        lines += _describe_unfinished(cells, own) + _describe_unguided(cells, own)
    return [*lines, *_describe_own_data([record for record in records if not record.evaluation.policies])]


def _describe_own_data(records: Sequence[CellRecord]) -> list[str]:
    """Return the action errors of cells without an environment, and each env's scale of them, which is never cut off."""
    lines = []
    for record in records:
        for policy, report in record.evaluation.held_out.items():
            what = f"{report.action_rmse:.4g} (a constant's {report.action_std:.4g})"
            lines.append(f"{record.env}, {record.name}, seed {record.seed}: {policy} action error {what}")
    scales = {record.env: describe_action_range(record.config) for record in records}
    several = len(scales) > 1
    return [*lines, *(f"  actions {scale}{f': {env}' if several else ''}" for env, scale in scales.items() if scale)]


def _describe_cuts(results: Sequence[Result], records: Sequence[CellRecord]) -> list[str]:
    """Return a line that says why an env has no scores; none where no episode was cut short."""
    if results[0].cut_at is None:
        return []
    count, cut = count_cut(records), describe_cut(results[0].cut_at)
    if count == len(records):
        return [f"  episodes {cut}: no score"]
    return [f"  episodes of {count} of {len(records)} cells were {cut}: no scores; returns are in the report"]


def _describe_unfinished(cells: CellIndex, results: Sequence[Result]) -> list[str]:
    """Return a line that names the methods whose critics cannot have converged, with the share of the gap left."""
    gaps = {result.method: find_largest_gap(cells.select(result)) or 0.0 for result in results}
    named = [f"{method} {gap:.0%} of the gap left" for method, gap in gaps.items() if gap > UNFINISHED]
    return [f"  unfinished critics: {', '.join(named)}"] if named else []


def _describe_unguided(cells: CellIndex, results: Sequence[Result]) -> list[str]:
    """Return a line that names the methods whose critics failed their test."""
    groups = {result.method: cells.select(result) for result in results}
    found = {method: group for method, group in groups.items() if any(map(is_unguided, group))}
    seconds = {method: sum(map(has_second_critic, group)) for method, group in groups.items()}
    lines = [
        f"  {method} trained offline as dt{f' in {count} of {len(groups[method])}' if len(groups[method]) > 1 else ''}: "
        "its critic failed its test, a second guides tuning (docs/method.md)"
        for method, count in seconds.items()
        if count
    ]
    if any(len(group) > 1 for group in found.values()):
        named = ", ".join(f"{method} {describe_guidance(group)}" for method, group in found.items())
        return [*lines, f"  critic guides: {named}; the others act as dt (docs/method.md)"]
    return [
        *lines,
        *(f"  {method}'s critic failed its test: trained and acts as dt (docs/method.md)" for method in found),
    ]


def _describe_result(result: Result, *, returns: bool) -> str:
    names = {"online_best": "best checkpoint"}
    name = names.get(result.policy, result.policy)
    if result.score is None:
        return f"{name} return {describe_return(result.episode_return)}"
    return f"{name} {result.score}{f' (return {format_return(result.episode_return.mean)})' if returns else ''}"

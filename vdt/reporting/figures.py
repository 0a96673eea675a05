"""Figures of a report: scores, curves, and diagnostics."""

from __future__ import annotations

import functools
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from vdt.environments.scores import compute_standard_error, describe_cut
from vdt.evaluation.records import Calibration, CellRecord, HeldOutReport, RequestedReturn, WeightHistogram
from vdt.reporting.frame import Result
from vdt.reporting.maze_figures import draw_mazes
from vdt.reporting.published import Published
from vdt.reporting.statistics import compute_profile, compute_profile_band
from vdt.reporting.tables import name_policy
from vdt.system.files import atomic_write, make_file_name

Curves = Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]  # MLflow run -> metric -> (step, value)
PANELS = {  # metric -> x axis, y axis, title
    "critic/q_loss": ("gradient step", "Q loss", "critic (M2)"),
    "actor/behavior_loss": ("gradient step", "behaviour loss", "actor (M3)"),
    "online/normalized_score": ("environment step", "normalized_score", "online rollouts"),
}
BUFFER = "online/buffer_return"
GRID = 100  # points of a mean curve
LEGIBLE = 0.04  # share of a bar from which on its label fits in
TICKS = 5  # of an axis, at most
TITLE = 10  # points


def write_figures(
    records: Sequence[CellRecord],
    results: Sequence[Result],
    curves: Curves,
    profiles: Mapping[str, Sequence[Sequence[float]]],
    published: Published | None,
    folder: Path,
) -> list[Path]:
    """Write every figure that has data.

    Args:
        records: finished cells.
        results: merged over seeds.
        curves: learning curves.
        profiles: method -> scores per task and run, of methods that share all tasks; drawn if there are several.
        published: numbers drawn in grey.
        folder: takes PNG files.

    Returns:
        Paths, in the order in which the report shows them.
    """
    paths = []
    for env, source in dict.fromkeys((r.env, r.snapshot.source) for r in records):
        shown = [r for r in results if (r.env, r.source) == (env, source)]
        own = [r for r in records if (r.env, r.snapshot.source) == (env, source)]
        where = f"{make_file_name(env)}-{source}"
        if shown:
            paths.append(save_figure(_draw_scores(shown, own, published), folder / f"scores-{where}.png"))
        choices = [r for r in shown if len(r.candidate_returns) > 1 and all(r.chosen_candidates)]
        if choices:
            paths.append(save_figure(_draw_choices(choices), folder / f"candidates-{where}.png"))
        for name, draw in _find_diagnostics(own, curves).items():
            paths.append(save_figure(draw(f"{env}, data: {source}"), folder / f"{name}-{where}.png"))
    paths += [save_figure(figure, folder / name) for name, figure in draw_mazes(records)]
    if len(profiles) > 1:
        paths.append(save_figure(_draw_profiles(profiles), folder / "profiles.png"))
    return paths


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all."""
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=120)
    return path


def _draw_scores(results: Sequence[Result], records: Sequence[CellRecord], published: Published | None) -> Figure:
    """Draw mean, standard error and one dot per seed for each method, policy and setting; published in grey.

    Where episodes were cut short there is no score: then returns are drawn, with nothing beside them.
    """
    figure = Figure(figsize=(8.0, 1.5 + 0.4 * len(results)), layout="constrained")
    axes = figure.add_subplot()
    cut = next((result.cut_at for result in results if result.cut_at is not None), None)
    for row, result in enumerate(results):
        estimate, runs = result.score, result.run_scores
        if cut is not None or estimate is None:
            estimate, runs = result.episode_return, [math.fsum(run) / len(run) for run in result.returns]
        axes.barh(row, estimate.mean, xerr=estimate.standard_error, color="C0", alpha=0.4, capsize=3)
        axes.plot(runs, [row] * len(runs), "o", color="C0", markersize=4)
    if cut is None:
        _draw_references(axes, results, records, published)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower left", frameon=False, ncols=2, fontsize=8)
    axes.set_yticks(range(len(results)), [f"{r.method} {name_policy(r.policy)} {r.planner}" for r in results])
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(TICKS))
    what = "normalized_score" if cut is None else f"episode return, {describe_cut(cut)}"
    axes.set_xlabel(f"{what}\n(dots: seeds; bar: mean ± standard error)", fontsize=9)
    set_title(figure, f"{results[0].env}, data: {results[0].source}")
    return figure


def _draw_references(
    axes: Axes, results: Sequence[Result], records: Sequence[CellRecord], published: Published | None
) -> None:
    """Draw the data's mean and published numbers."""
    if results[0].dataset_score is not None:
        axes.axvline(results[0].dataset_score, color="black", linestyle="--", label="mean of the data set")
    if published is None:
        return
    theirs = {record.name: published.find(record.env, record.method, record.patch) for record in records}
    for row, result in enumerate(results):
        number = published.get_score(theirs.get(result.method))
        if number is not None and result.policy == ("online" if published.change else "offline"):
            axes.plot([number], [row], "D", color="grey", markersize=5)
    if any(value is not None for value in theirs.values()):
        axes.plot([], [], "D", color="grey", label=f"{published.source} (other data or physics, see the table)")


def set_title(figure: Figure, title: str) -> None:
    """Set a title that is broken into lines of the figure's width."""
    letters = int(figure.get_figwidth() * 72 / (0.55 * TITLE))
    figure.suptitle(textwrap.fill(title, letters), fontsize=TITLE)


def _count_steps(axes: Axes, what: str) -> None:
    """Label an axis of steps, with few ticks and 20,000 as 20k: labels must not run into each other."""
    axes.set_xlabel(what)
    axes.xaxis.set_major_locator(MaxNLocator(TICKS))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _draw_choices(results: Sequence[Result]) -> Figure:
    """Draw the share of environment steps in which each candidate return had the highest look-ahead score."""
    figure = Figure(figsize=(8.0, 1.5 + 0.4 * len(results)), layout="constrained")
    axes = figure.add_subplot()
    for row, result in enumerate(results):
        left = 0.0
        for column, candidate in enumerate(result.candidate_returns):
            share = math.fsum(shares[column] for shares in result.chosen_candidates) / len(result.chosen_candidates)
            axes.barh(row, share, left=left, color=f"C{column}")
            if share > LEGIBLE:
                axes.text(left + share / 2, row, f"{candidate:g}", ha="center", va="center", fontsize=7)
            left += share
    axes.set_yticks(range(len(results)), [f"{r.method} {name_policy(r.policy)} {r.planner}" for r in results])
    axes.invert_yaxis()
    axes.set_xlabel("share of steps in which each candidate return was chosen")
    set_title(figure, f"{results[0].env}, data: {results[0].source}")
    return figure


def _find_diagnostics(records: Sequence[CellRecord], curves: Curves) -> dict[str, Callable[[str], Figure]]:
    """Return figure name -> function that draws it under a given title, for the diagnostics that cells of one env have."""
    methods: dict[str, list[CellRecord]] = {}
    for record in records:
        methods.setdefault(record.name, []).append(record)
    learned = {
        name: [curves[r.mlflow_run_id] for r in group if r.mlflow_run_id in curves] for name, group in methods.items()
    }
    shown = [key for key in PANELS if any(len(run.get(key, ())) > 1 for runs in learned.values() for run in runs)]
    buffers = {name: [run for run in runs if BUFFER in run] for name, runs in learned.items()}
    buffers = {name: runs for name, runs in buffers.items() if runs}
    found: dict[str, Callable[[str], Figure]] = {}
    if shown:
        found["curves"] = lambda title: _draw_curves(learned, shown, title)
    if buffers:
        found["buffer"] = lambda title: _draw_buffers(buffers, title)
    kinds: tuple[tuple[str, Callable[[Any, str], Figure], Callable[[CellRecord], Mapping[str, Any]]], ...] = (
        ("held_out", _draw_held_out, lambda record: record.evaluation.held_out),
        ("requested", _draw_requested, lambda record: _pick(record, "requested")),
        ("calibration", _draw_calibration, lambda record: _pick(record, "calibration")),
        ("weights", _draw_weights, lambda record: _pick(record, "weights")),
    )
    for kind, draw, read in kinds:
        lines = {method: [pair for r in group for pair in read(r).items()] for method, group in methods.items()}
        lines = {method: pairs for method, pairs in lines.items() if pairs}
        if lines:
            found[kind] = functools.partial(draw, lines)
    return found


def _pick(record: CellRecord, kind: str) -> dict[str, Any]:
    """Return policy -> one of its diagnostics, where it was measured."""
    found = {policy: getattr(report, kind) for policy, report in record.evaluation.diagnostics.items()}
    return {policy: report for policy, report in found.items() if report is not None}


def make_panels(count: int, title: str) -> tuple[Figure, list[Axes]]:
    """Make a figure of `count` panels side by side, with a title above them."""
    figure = Figure(figsize=(max(6.4, 4.5 * count), 3.8), layout="constrained")
    set_title(figure, title)
    return figure, [figure.add_subplot(1, count, i + 1) for i in range(count)]


def compute_mean_curve(curves: Sequence[Sequence[tuple[int, float]]]) -> tuple[list[float], list[float], list[float]]:
    """Compute steps, mean and standard error (0 for one seed) of one curve per seed, on steps that all of them reach."""
    first, last = max(curve[0][0] for curve in curves), min(curve[-1][0] for curve in curves)
    grid = np.linspace(min(first, last), last, GRID)
    points = [np.array(curve, np.float64) for curve in curves]
    values = np.array([np.interp(grid, curve[:, 0], curve[:, 1]) for curve in points])
    errors = [compute_standard_error(column) or 0.0 for column in values.T.tolist()]
    return grid.tolist(), values.mean(axis=0).tolist(), errors


def _draw_band(axes: Axes, curves: Sequence[Sequence[tuple[int, float]]], label: str, color: str) -> None:
    steps, means, errors = compute_mean_curve(curves)
    low, high = ([m + sign * e for m, e in zip(means, errors, strict=True)] for sign in (-1, 1))
    axes.plot(steps, means, color=color, label=f"{label} ({len(curves)})", linewidth=1.2)
    axes.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)


def _draw_curves(learned: Mapping[str, Sequence[Mapping[str, Any]]], shown: Sequence[str], title: str) -> Figure:
    """Draw learning curves: mean over seeds with a band of one standard error."""
    figure, panels = make_panels(len(shown), f"{title} (mean ± standard error over seeds, their number in brackets)")
    for axes, key in zip(panels, shown, strict=True):
        for number, (method, runs) in enumerate(learned.items()):
            curves = [run[key] for run in runs if len(run.get(key, ())) > 1]  # a shared critic has but its last point
            if curves:
                _draw_band(axes, curves, method, f"C{number}")
        step, value, title = PANELS[key]
        _count_steps(axes, step)
        axes.set_ylabel(value)
        axes.set_title(title, fontsize=9)
        axes.legend(fontsize=7, frameon=False)
    return figure


def _draw_buffers(buffers: Mapping[str, Sequence[Mapping[str, Any]]], title: str) -> Figure:
    """Draw returns in the online buffer over time: median, and 10 % to 90 %, one line per seed."""
    figure, panels = make_panels(len(buffers), f"{title}: returns in the replay buffer")
    for axes, (method, runs) in zip(panels, buffers.items(), strict=True):
        for number, run in enumerate(runs):
            low, middle, high = (run.get(f"{BUFFER}_{level}") for level in ("low", "middle", "high"))
            steps, values = zip(*(middle or run[BUFFER]), strict=True)
            axes.plot(steps, values, color=f"C{number}", linewidth=1.2)
            if low and high and len(low) == len(high):
                bottom, top = ([value for _, value in curve] for curve in (low, high))
                axes.fill_between([step for step, _ in low], bottom, top, color=f"C{number}", alpha=0.2, linewidth=0)
        axes.set_title(f"{method}: median, 10 % to 90 %, a colour per seed", fontsize=9)
        _count_steps(axes, "environment step")
        axes.set_ylabel("episode return")
    return figure


def _draw_diagonal(axes: Axes, label: str) -> None:
    """Draw the line where both axes are the same number, and the legend."""
    low, high = axes.get_xlim()
    axes.plot([low, high], [low, high], ":", color="black", linewidth=0.8, label=label)
    axes.legend(fontsize=7, frameon=False)


def _draw_held_out(lines: Mapping[str, Sequence[tuple[str, HeldOutReport]]], title: str) -> Figure:
    """Draw the action error on held-out episodes beside that of a constant, one dot per seed."""
    rows: dict[str, list[HeldOutReport]] = {}
    for method, reports in lines.items():
        for policy, report in reports:
            rows.setdefault(f"{method} {name_policy(policy)}", []).append(report)
    figure = Figure(figsize=(8.0, 1.5 + 0.4 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for row, found in enumerate(rows.values()):
        errors = [report.action_rmse for report in found]
        axes.barh(row, math.fsum(errors) / len(errors), color="C0", alpha=0.4)
        axes.plot(errors, [row] * len(errors), "o", color="C0", markersize=4)
    constant = next(iter(rows.values()))[0].action_std
    axes.axvline(constant, color="black", linestyle="--", label="a constant action")
    figure.legend(loc="outside lower left", frameon=False, fontsize=8)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xlabel("action error on held-out episodes (RMSE; dots: seeds)")
    set_title(figure, title)
    return figure


def _draw_requested(lines: Mapping[str, Sequence[tuple[str, Sequence[RequestedReturn]]]], title: str) -> Figure:
    """Draw the requested return against the mean over seeds of the achieved return."""
    figure, (axes,) = make_panels(1, title)
    cut = None
    for number, (method, reports) in enumerate(lines.items()):
        for policy, style in (("offline", "o-"), ("online", "s--")):
            rows: dict[float, list[float]] = {}
            for row in (row for name, report in reports if name == policy for row in report):
                rows.setdefault(row.requested, []).append(math.fsum(row.achieved) / len(row.achieved))
                cut = row.cut_at or cut
            if rows:
                wanted = sorted(rows)
                means = [math.fsum(rows[w]) / len(rows[w]) for w in wanted]
                errors = [compute_standard_error(rows[w]) or 0.0 for w in wanted]
                shown: Any = {"color": f"C{number}", "label": f"{method} {policy}", "capsize": 3, "markersize": 4}
                axes.errorbar(wanted, means, errors, fmt=style, **shown)
    _draw_diagonal(axes, "as requested")
    axes.set_xlabel("requested return")
    axes.set_ylabel(f"achieved return{f', {describe_cut(cut)}' if cut else ''}")
    return figure


def _draw_calibration(lines: Mapping[str, Sequence[tuple[str, Calibration]]], title: str) -> Figure:
    """Draw the critic's prediction against the discounted return that followed, in bins, one line per seed."""
    figure, (axes,) = make_panels(1, title)
    for number, (method, reports) in enumerate(lines.items()):
        for style, policy in (("-", "offline"), ("--", "online")):
            own = [report for name, report in reports if name == policy]
            for i, report in enumerate(own):
                label = f"{method} {policy}" if i == 0 else None
                axes.plot(report.predicted, report.earned, f"o{style}", color=f"C{number}", markersize=3, label=label)
    _draw_diagonal(axes, "calibrated")
    axes.set_xlabel("predicted: min target Q of the steps taken")
    axes.set_ylabel("earned: discounted return that followed")
    return figure


def _draw_weights(lines: Mapping[str, Sequence[tuple[str, WeightHistogram]]], title: str) -> Figure:
    """Draw the histogram of the advantage weights over the data's steps, mean over seeds."""
    figure, (axes,) = make_panels(1, title)
    for number, (method, reports) in enumerate(lines.items()):
        shares = np.mean([report.shares for _, report in reports], axis=0)
        axes.stairs(shares, list(reports[0][1].edges), color=f"C{number}", label=method)
    axes.set_xscale("log")
    axes.axvline(1.0, color="black", linestyle=":", linewidth=0.8)
    axes.set_xlabel("advantage weight (mean 1 over the data)")
    axes.set_ylabel("share of the data's steps")
    axes.legend(fontsize=7, frameon=False)
    return figure


def _draw_profiles(profiles: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """Draw the share of runs above each score, with bootstrap bands."""
    figure, (axes,) = make_panels(1, "Performance profiles, offline policies, envs that all methods have")
    every = [score for scores in profiles.values() for task in scores for score in task]
    thresholds = np.linspace(min(0.0, *every), max(every) * 1.02 + 1e-9, GRID).tolist()
    for number, (method, scores) in enumerate(profiles.items()):
        axes.plot(thresholds, compute_profile(scores, thresholds), color=f"C{number}", label=method)
        axes.fill_between(
            thresholds, *compute_profile_band(scores, thresholds), color=f"C{number}", alpha=0.2, linewidth=0
        )
    axes.set_xlabel("normalized_score τ")
    axes.set_ylabel("share of runs above τ")
    axes.legend(fontsize=7, frameon=False)
    return figure

"""Figures of what explains scores: learning curves, replay buffer, held-out episodes, critic, weights."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vdt.environments.scores import compute_standard_error, describe_cut
from vdt.evaluation.records import (
    Calibration,
    CellRecord,
    HeldOutReport,
    RequestedReturn,
    ValueEstimates,
    WeightHistogram,
)
from vdt.reporting.plotting import SMALL, count_steps, make_panels, make_rows
from vdt.reporting.score_figures import draw_values
from vdt.reporting.tables import name_policy

Curves = Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]  # MLflow run -> metric -> (step, value)
PANELS = {  # metric -> x axis, y axis, title
    "critic/q_loss": ("gradient step", "Q loss", "critic (M2)"),
    "actor/behavior_loss": ("gradient step", "behaviour loss", "actor (M3)"),
    "actor/score": ("gradient step", "normalized_score", "score while the actor trains"),
    "online/normalized_score": ("environment step", "normalized_score", "online rollouts"),
}
BUFFER = "online/buffer_return"
GRID = 100  # points of a mean curve


def find_diagnostics(records: Sequence[CellRecord], curves: Curves) -> dict[str, Callable[[str], Figure]]:
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
        ("held_out_calibration", _draw_calibration, _pick_held_out),
        ("values", _draw_values, lambda record: record.evaluation.values),
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


def _pick_held_out(record: CellRecord) -> dict[str, Calibration]:
    """Return policy -> the critic's calibration on held-out episodes, of one policy: the critic is the same for all."""
    report = record.evaluation.held_out.get("offline")
    return {"offline": report.calibration} if report and report.calibration else {}


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
    figure, panels = make_panels(len(shown), title)
    for axes, key in zip(panels, shown, strict=True):
        for number, (method, runs) in enumerate(learned.items()):
            curves = [run[key] for run in runs if len(run.get(key, ())) > 1]  # a shared critic has but its last point
            if curves:
                _draw_band(axes, curves, method, f"C{number}")
        step, value, name = PANELS[key]
        count_steps(axes, step)
        axes.set_ylabel(value, fontsize=SMALL + 1)
        axes.set_title(name, fontsize=9)
    _add_legend(figure, panels)
    return figure


def _add_legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """Add one legend for all panels, below them."""
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if handles:
        places: Any = {"loc": "outside lower center", "frameon": False, "ncols": 4, "fontsize": SMALL}
        figure.legend(list(handles.values()), list(handles), **places)


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
        axes.set_title(method, fontsize=9)
        count_steps(axes, "environment step")
        axes.set_ylabel("episode return", fontsize=SMALL + 1)
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
    figure, axes = make_rows(list(rows), title)
    for row, found in enumerate(rows.values()):
        errors = [report.action_rmse for report in found]
        axes.plot([math.fsum(errors) / len(errors)], [row], "s", color="C0", markersize=6)
        axes.plot(errors, [row] * len(errors), "o", color="C0", markersize=4, markerfacecolor="white")
    constant = next(iter(rows.values()))[0].action_std
    axes.axvline(constant, color="black", linestyle="--", label="a constant action")
    axes.set_xlim(left=0.0)
    figure.legend(loc="outside lower center", frameon=False, fontsize=SMALL)
    axes.set_xlabel("action error on held-out episodes (RMSE)", fontsize=SMALL + 1)
    return figure


def _draw_values(lines: Mapping[str, Sequence[tuple[str, ValueEstimates]]], title: str) -> Figure:
    """Draw what the data earned beside the estimates of the policy's value."""
    names = {
        "data": "data",
        "critic": "policy, its critic",
        "fitted_q_halfway": "policy, fitted Q, half way",
        "fitted_q": "policy, fitted Q",
    }
    values = {
        method: [
            (name, value)
            for key, name in names.items()
            for _, estimates in pairs
            if (value := getattr(estimates, key)) is not None
        ]
        for method, pairs in lines.items()
    }
    return draw_values(values, title)


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

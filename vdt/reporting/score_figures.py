"""Figures of scores: each seed's dot with mean and interval, changes, choices of candidates, performance profiles."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vdt.environments.scores import describe_cut
from vdt.evaluation.records import CellRecord
from vdt.reporting.frame import POLICIES, Change, Estimate, Result, compute_estimate
from vdt.reporting.plotting import SMALL, make_panels, make_rows
from vdt.reporting.published import Published
from vdt.reporting.statistics import compute_profile, compute_profile_band
from vdt.reporting.tables import name_policy

GRID = 100  # points of a profile
LEGIBLE = 0.04  # share of a bar from which on its label fits in
COLORS = {"offline": "0.45", "online": "C0", "online_best": "C2"}
MARKS = {"offline": "o", "online": "s", "online_best": "^"}
MOST_CHANGES = 24  # rows of a figure; with more, only those of the look-ahead that a method acts with


def draw_scores(results: Sequence[Result], records: Sequence[CellRecord], published: Published | None) -> Figure:
    """Draw mean, interval and one dot per seed of each method before and after tuning; published numbers in grey.

    Where episodes were cut short there is no score: then returns are drawn, with nothing beside them.

    Args:
        results: of one env and data source, each with the look-ahead that its method acts with.
        records: their cells.
        published: numbers drawn in grey.
    """
    cut = next((result.cut_at for result in results if result.cut_at is not None), None)
    names = list(dict.fromkeys(_name_run(result, results) for result in results))
    policies = [policy for policy in POLICIES if any(result.policy == policy for result in results)]
    title = f"{results[0].env}, data: {results[0].source}"
    figure, axes = make_rows(names, title, height=0.12 + 0.2 * len(policies))
    for result in results:
        estimate, runs = result.score, result.run_scores
        if cut is not None or estimate is None:
            estimate, runs = result.episode_return, [math.fsum(run) / len(run) for run in result.returns]
        shift = (policies.index(result.policy) - (len(policies) - 1) / 2) * 0.7 / len(policies)
        row = names.index(_name_run(result, results)) + shift
        _draw_interval(axes, row, estimate, runs, result.policy)
    for policy in policies:
        axes.plot([], [], MARKS[policy], color=COLORS[policy], label=name_policy(policy), markersize=5)
    if cut is None:
        _draw_references(axes, names, results, records, published)
    figure.legend(loc="outside lower center", frameon=False, ncols=3, fontsize=SMALL)
    axes.set_xlabel("normalized_score" if cut is None else f"episode return, {describe_cut(cut)}", fontsize=SMALL + 1)
    return figure


def draws_mean(results: Sequence[Result]) -> bool:
    """Return whether `draw_scores` has a line for the data's mean."""
    known = any(result.dataset_score is not None for result in results)
    return known and all(result.cut_at is None for result in results)


def _draw_interval(axes: Axes, row: float, estimate: Estimate, runs: Sequence[float], policy: str) -> None:
    """Draw a mean with its standard error as a bar, and the runs behind it as small dots."""
    error = estimate.standard_error or 0.0
    axes.plot([estimate.mean - error, estimate.mean + error], [row, row], color=COLORS[policy], linewidth=3, alpha=0.5)
    axes.plot([estimate.mean], [row], MARKS[policy], color=COLORS[policy], markersize=6)
    if len(runs) > 1:
        axes.plot(runs, [row] * len(runs), "o", color=COLORS[policy], markersize=4, markerfacecolor="white")


def _name_run(result: Result, results: Sequence[Result]) -> str:
    """Return the method, with data and preset where they differ."""
    tasks = {other.task for other in results}
    return result.method if len(tasks) == 1 else f"{result.method}, {result.md5[:8]}, {result.preset}"


def _draw_references(
    axes: Axes,
    names: Sequence[str],
    results: Sequence[Result],
    records: Sequence[CellRecord],
    published: Published | None,
) -> None:
    """Draw the mean of each row's data, which is a line through all of one data set, and published numbers."""
    means = {_name_run(r, results): r.dataset_score for r in results if r.dataset_score is not None}
    if means:
        rows, places = np.array([names.index(name) for name in means]), list(means.values())
        axes.vlines(places, rows - 0.5, rows + 0.5, "black", "--", linewidth=0.9, label="mean of the data")
    if published is None:
        return
    theirs = {record.name: published.find(record.env, record.method, record.patch) for record in records}
    for result in results:
        number = published.get_score(theirs.get(result.method))
        if number is not None and result.policy == ("online" if published.change else "offline"):
            row = names.index(_name_run(result, results))
            axes.plot([number], [row], "D", color="0.7", markersize=5, zorder=1)
    if any(value is not None for value in theirs.values()):
        axes.plot([], [], "D", color="0.7", label=f"{published.source} (other data or physics)")


def select_changes(changes: Sequence[Change], acting: Mapping[tuple[str, str], str]) -> list[Change]:
    """Return the changes that one figure has room for; none where none leads to the look-ahead that is acted with.

    Args:
        changes: of one env and data source.
        acting: (method, env) -> look-ahead setting that the method acts with.
    """
    if len(changes) <= MOST_CHANGES:
        return list(changes)
    own = [c for c in changes if c.after.setting == acting[c.after.method, c.after.env]]
    tuned = [c for c in own if c.effect == "online tuning"]
    return own if len(own) <= MOST_CHANGES else tuned or own[:MOST_CHANGES]


def draw_changes(changes: Sequence[Change]) -> Figure:
    """Draw the changes of the score, one at least, by look-ahead and by online tuning, with their intervals."""
    several = len({change.before.method for change in changes}) > 1
    labels = [
        (f"{c.before.method}: " if several else "")
        + (
            f"{c.effect}, {c.after.setting}"
            if c.effect == "online tuning"
            else f"{c.effect}, {name_policy(c.after.policy)}"
        )
        for c in changes
    ]
    figure, axes = make_rows(labels, f"{changes[0].before.env}, data: {changes[0].before.source}", height=0.26)
    for row, change in enumerate(changes):
        _draw_interval(axes, row, change.estimate, (), change.after.policy)
    axes.axvline(0.0, color="black", linewidth=0.9)
    axes.set_xlabel("change of normalized_score", fontsize=SMALL + 1)
    return figure


def draw_choices(results: Sequence[Result]) -> Figure:
    """Draw the share of environment steps in which each candidate return had the highest look-ahead score."""
    labels = [f"{r.method} {name_policy(r.policy)} {r.planner}" for r in results]
    figure, axes = make_rows(labels, f"{results[0].env}, data: {results[0].source}")
    axes.grid(visible=False)
    for row, result in enumerate(results):
        left = 0.0
        for column, candidate in enumerate(result.candidate_returns):
            share = math.fsum(shares[column] for shares in result.chosen_candidates) / len(result.chosen_candidates)
            axes.barh(row, share, left=left, color=f"C{column}", alpha=0.8)
            if share > LEGIBLE:
                axes.text(left + share / 2, row, f"{candidate:g}", ha="center", va="center", fontsize=7)
            left += share
    axes.set_xlabel("share of steps", fontsize=SMALL + 1)
    return figure


@dataclass(frozen=True)
class Profiles:
    """Scores of methods over the tasks that all of them have.

    Attributes:
        scores: method -> scores per task and run.
        envs: env of each task; those that differ by their data set alone are resampled together.
    """

    scores: Mapping[str, Sequence[Sequence[float]]]
    envs: Sequence[Hashable]


def draw_profiles(profiles: Profiles) -> Figure:
    """Draw the share of runs above each score, with bootstrap bands."""
    figure, (axes,) = make_panels(1, "Performance profiles, offline policies, envs that all methods have")
    every = [score for scores in profiles.scores.values() for task in scores for score in task]
    thresholds = np.linspace(min(0.0, *every), max(every) * 1.02 + 1e-9, GRID).tolist()
    for number, (method, scores) in enumerate(profiles.scores.items()):
        axes.plot(thresholds, compute_profile(scores, thresholds), color=f"C{number}", label=method)
        band = compute_profile_band(scores, thresholds, envs=profiles.envs)
        axes.fill_between(thresholds, *band, color=f"C{number}", alpha=0.2, linewidth=0)
    axes.set_xlabel("normalized_score τ")
    axes.set_ylabel("share of runs above τ")
    axes.legend(fontsize=7, frameon=False)
    return figure


def draw_values(values: Mapping[str, Sequence[tuple[str, float]]], title: str) -> Figure:
    """Draw estimates of a policy's value side by side.

    Args:
        values: method -> (name of the estimate, its value in one cell).
        title: of the figure.
    """
    names = list(dict.fromkeys(f"{method}: {name}" for method, pairs in values.items() for name, _ in pairs))
    figure, axes = make_rows(names, title)
    for row, name in enumerate(names):
        found = [value for method, pairs in values.items() for what, value in pairs if f"{method}: {what}" == name]
        _draw_interval(axes, row, compute_estimate([[value] for value in found]), found, "online")
    axes.set_xlabel("discounted return from the first observation, environment units", fontsize=SMALL + 1)
    return figure

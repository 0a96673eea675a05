"""Figures of a grid, a sweep or a search: heat map, parallel coordinates, best score by trial, offline scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from vdt.reporting.importance import Importances, has_log_scale, is_number
from vdt.reporting.offline_ranks import RankAgreement
from vdt.reporting.plotting import make_panels, set_title
from vdt.reporting.ranking import OFFLINE, SCORES, Ranking, track_best
from vdt.reporting.search_tables import format_score, format_value

COLORS = "viridis"
MOST_VALUES = 12  # of a key in a heat map; with more, settings are dots
FILLED = 0.5  # share of a heat map's fields that must have a score


def draw_search(
    ranking: Ranking,
    importances: Importances | None,
    agreements: Sequence[RankAgreement],
    beside: Mapping[str, Ranking],
    name: str,
) -> dict[str, Figure]:
    """Draw every figure of a ranking that has data: name of the figure -> figure.

    Args:
        ranking: of a task.
        importances: choose the two keys of the map.
        agreements: of the offline scores.
        beside: other searches of the same task by name, for the curve of the best score.
        name: of this study, in that curve.
    """
    order = list(importances.shares) if importances else list(ranking.keys)
    figures = {}
    if len(order) > 1:
        figures["map"] = _draw_map(ranking, order[0], order[1])
        figures["parallel"] = _draw_parallel(ranking)
    if len(ranking.complete) > 1:
        figures["best"] = _draw_best({name: ranking, **beside})
    if agreements:
        figures["offline-scores"] = _draw_agreements(ranking, agreements)
    return figures


class _Scale:
    """Places of a key's values on an axis: numbers by size or logarithm, other values in order of appearance."""

    def __init__(self, values: Sequence[Any]) -> None:
        self.values = list({repr(value): value for value in values}.values())
        self.numeric = all(map(is_number, values))
        if self.numeric:
            self.values.sort()
        self.log = self.numeric and has_log_scale(self.values)

    def place(self, value: Any) -> float:
        """Return a value's place."""
        if not self.numeric:
            return float([repr(known) for known in self.values].index(repr(value)))
        return math.log10(value) if self.log else float(value)

    def tick(self) -> tuple[list[float], list[str]]:
        """Return places and labels: all values if they are few, else round numbers in between."""
        if not self.numeric or len(self.values) <= 6:
            return [self.place(value) for value in self.values], [format_value(value) for value in self.values]
        low, high = self.place(self.values[0]), self.place(self.values[-1])
        if self.log:
            decades = range(math.floor(low), math.ceil(high) + 1)
            rounded = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
        else:
            locator = MaxNLocator(4, integer=all(isinstance(value, int) for value in self.values))
            rounded = [round(float(value), 12) for value in locator.tick_values(low, high)]
        ticks = [(place, f"{value:g}") for value in rounded if low <= (place := self.place(value)) <= high]
        return [place for place, _ in ticks], [label for _, label in ticks]

    def apply(self, axis: Any) -> None:
        """Set an axis's ticks."""
        places, labels = self.tick()
        axis.set_major_locator(FixedLocator(places))
        axis.set_minor_locator(NullLocator())
        axis.set_ticklabels(labels)


def _draw_map(ranking: Ranking, one: str, other: str) -> Figure:
    """Draw the mean score over two keys: fields where values repeat, else dots; any other keys are averaged over."""
    figure, (axes,) = make_panels(1, f"{ranking.task}: mean {SCORES[ranking.score]} over tuning seeds")
    across, up = (_Scale([setting.values.get(key) for setting in ranking.complete]) for key in (one, other))
    fields = _average_fields(ranking, across, up, one, other)
    is_grid = max(fields.shape) <= MOST_VALUES and np.isfinite(fields).mean() >= FILLED
    image = _fill_fields(axes, fields, across, up, ranking.score) if is_grid else _place_dots(axes, ranking, one, other)
    figure.colorbar(image, ax=axes, label=SCORES[ranking.score])
    axes.set_xlabel(one)
    axes.set_ylabel(other)
    best = ranking.best.values
    places = (across.values.index(best.get(one)), up.values.index(best.get(other))) if is_grid else None
    spot = places or (across.place(best.get(one)), up.place(best.get(other)))
    axes.plot(*spot, "s" if is_grid else "o", color="none", markeredgecolor="red", markersize=30 if is_grid else 11)
    return figure


def _average_fields(ranking: Ranking, across: _Scale, up: _Scale, one: str, other: str) -> np.ndarray[Any, Any]:
    """Return the mean score of the settings with each pair of values, (rows, columns); not a number where there is none."""
    fields = np.full((len(up.values), len(across.values)), np.nan)
    for row, second in enumerate(up.values):
        for column, first in enumerate(across.values):
            means = [
                s.mean
                for s in ranking.complete
                if repr(s.values.get(one)) == repr(first) and repr(s.values.get(other)) == repr(second)
            ]
            if means:
                fields[row, column] = math.fsum(means) / len(means)
    return fields


def _fill_fields(axes: Axes, fields: np.ndarray[Any, Any], across: _Scale, up: _Scale, kind: str) -> ScalarMappable:
    """Draw a field with its number for each pair of values."""
    image = axes.imshow(fields, cmap=COLORS, origin="lower", aspect="auto")
    middle = (np.nanmin(fields) + np.nanmax(fields)) / 2
    for (row, column), value in np.ndenumerate(fields):
        if math.isfinite(value):
            color = "black" if value > middle else "white"
            axes.text(column, row, format_score(value, kind), ha="center", va="center", color=color, fontsize=8)
    axes.set_xticks(range(len(across.values)), [format_value(value) for value in across.values])
    axes.set_yticks(range(len(up.values)), [format_value(value) for value in up.values])
    return image


def _place_dots(axes: Axes, ranking: Ranking, one: str, other: str) -> ScalarMappable:
    """Draw a dot for each setting, colored by its score."""
    across, up = (_Scale([setting.values.get(key) for setting in ranking.complete]) for key in (one, other))
    x, y = (
        [scale.place(setting.values.get(key)) for setting in ranking.complete]
        for scale, key in ((across, one), (up, other))
    )
    image = axes.scatter(x, y, c=[setting.mean for setting in ranking.complete], cmap=COLORS, s=45)
    across.apply(axes.xaxis)
    up.apply(axes.yaxis)
    return image


def _draw_parallel(ranking: Ranking) -> Figure:
    """Draw a line for each setting through its values, colored by its score; the best ones lie on top."""
    keys, tried = list(ranking.keys), list(reversed(ranking.complete))
    figure = Figure(figsize=(max(6.4, 1.8 * (len(keys) + 1)), 4.2), layout="constrained")
    set_title(figure, f"{ranking.task}: settings and their {SCORES[ranking.score]} on tuning seeds")
    axes = figure.add_subplot()
    columns = [[setting.values.get(key) for setting in tried] for key in keys]
    scales = [*map(_Scale, columns), _Scale([setting.mean for setting in tried])]
    scales[-1].log = False
    low, high = ranking.complete[-1].mean, ranking.best.mean
    shade = Normalize(low, high)
    for row, setting in enumerate(tried):
        values = [*(column[row] for column in columns), setting.mean]
        heights = [_rescale(scale, value) for scale, value in zip(scales, values, strict=True)]
        axes.plot(heights, color=colormaps[COLORS](shade(setting.mean)), linewidth=1 + 1.5 * (setting is ranking.best))
    for place, scale in enumerate(scales):
        axes.axvline(place, color="black", linewidth=0.8)
        for tick, label in zip(*scale.tick(), strict=True):
            height = _rescale_place(scale, tick)
            axes.text(
                place + 0.02, height, label, fontsize=7, va="center", bbox={"color": "white", "alpha": 0.7, "pad": 0.5}
            )
    axes.set_xticks(
        range(len(scales)), [*(key.replace(".", ".\n", 1) for key in keys), SCORES[ranking.score]], fontsize=8
    )
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(scales) - 0.7)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    return figure


def _rescale(scale: _Scale, value: Any) -> float:
    return _rescale_place(scale, scale.place(value))


def _rescale_place(scale: _Scale, place: float) -> float:
    """Return a place as a share of the axis."""
    low, high = scale.place(scale.values[0]), scale.place(scale.values[-1])
    return (place - low) / (high - low) if high > low else 0.5


def _draw_best(rankings: Mapping[str, Ranking]) -> Figure:
    """Draw the best score so far by number of settings tried, beside each setting's own; several searches compared."""
    first = next(iter(rankings.values()))
    figure, (axes,) = make_panels(
        1, f"{first.task}: best {SCORES[first.score]} so far, on tuning seeds (biased upward)"
    )
    for number, (name, ranking) in enumerate(rankings.items()):
        color, own = f"C{number}", sorted(ranking.complete, key=lambda setting: setting.number)
        counts, best = track_best(own)
        last = max(setting.number + 1 for setting in (*ranking.complete, *ranking.others))
        axes.step([*counts, max(last, counts[-1])], [*best, best[-1]], where="post", color=color, label=name)
        axes.plot([s.number + 1 for s in own], [s.mean for s in own], "o", color=color, markersize=3.5, alpha=0.6)
        pruned = [s for s in ranking.others if s.intermediate]
        reached = [s.intermediate[max(s.intermediate)] for s in pruned]
        axes.plot([s.number + 1 for s in pruned], reached, "x", color=color, markersize=4.5, alpha=0.6)
    axes.plot([], [], "o", color="grey", markersize=3.5, label="each setting")
    if any(setting.intermediate for ranking in rankings.values() for setting in ranking.others):
        axes.plot([], [], "x", color="grey", markersize=4.5, label="stopped early, score then")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("settings tried")
    axes.set_ylabel(SCORES[first.score])
    axes.legend(fontsize=7, frameon=False)
    return figure


def _draw_agreements(ranking: Ranking, agreements: Sequence[RankAgreement]) -> Figure:
    """Draw each offline score against the return, a dot per setting."""
    figure, panels = make_panels(len(agreements), f"{ranking.task}: offline scores against returns, a dot per setting")
    for axes, agreement in zip(panels, agreements, strict=True):
        both = [(s.offline.get(agreement.score), s.offline_return) for s in ranking.complete]
        shown = [(score, value) for score, value in both if score is not None and value is not None]
        axes.plot(*zip(*shown, strict=True), "o", markersize=4, alpha=0.7)
        better = "" if OFFLINE[agreement.score] > 0 else " (lower is better)"
        axes.set_xlabel(f"{agreement.score}{better}", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_title(f"Spearman {agreement.spearman.value:+.2f}, Kendall {agreement.kendall.value:+.2f}", fontsize=9)
    panels[0].set_ylabel("normalized_score, offline policy")
    return figure

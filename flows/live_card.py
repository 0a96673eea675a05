"""Card of a training step that is refreshed while it trains: progress, time left, and curves.

Each refresh is a process of Metaflow's, about a second of one core beside the training. So the first comes after
`FIRST` seconds, and the later ones at growing intervals: an hour's training has about 60.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metaflow import current

from vdt.config.schema import Config
from vdt.system.progress import Pace
from vdt.tracking import MLflowTracker, Record

logger = logging.getLogger(__name__)

CARD = "live"  # id of the card
FIRST, LEAST, MOST = 10.0, 30.0, 60.0  # seconds to the first refresh; between two at least, and at most
SHARE = 0.1  # of the time so far, between these
POINTS = 200  # of a curve
PANELS = {  # phase -> metric -> title; those that a method lacks are left out
    "critic": {
        "critic/q_loss": "Q loss (M2)",
        "critic/value_loss": "value loss (M1)",
        "critic/advantage_std": "standard deviation of the advantages",
    },
    "actor": {
        "actor/behavior_loss": "behaviour loss (M3)",
        "actor/total_loss": "total loss",
        "actor/score": "normalized_score of two episodes",
    },
    "online": {
        "online/normalized_score": "normalized_score of the rollouts",
        "online/buffer_return": "mean return in the replay buffer",
        "online/q_loss": "Q loss (M2)",
        "online/score": "normalized_score of two episodes",
    },
}


class LiveCard:
    """Progress and curves of one training phase on the running step's card. It never fails the step."""

    def __init__(self, phase: str, total: int, *, scores: bool, cell: str = "") -> None:
        """Show `phase` of `cell` on its way to step `total`; `scores`: whether it is evaluated while it trains."""
        self.phase, self.total, self.step, self.cell = phase, total, 0, cell
        self.unit = "environment step" if phase == "online" else "gradient step"
        self.scores = scores
        self.curves: dict[str, list[tuple[int, float]]] = {}
        self.began = self.refreshed = time.monotonic()
        self.pace: Pace | None = None
        self.parts: dict[str, Any] = {}
        self.works = True

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take a point of each curve; refresh the card if it is time."""
        known = {key: value for key, value in metrics.items() if key in PANELS[self.phase]}
        if not known or not self.works:
            return
        for key, value in known.items():
            self.curves.setdefault(key, []).append((step, value))
        self.step, self.pace = max(step, self.step), self.pace or Pace(step)
        now = time.monotonic()
        pause = min(MOST, max(LEAST, SHARE * (now - self.began))) if self.parts else FIRST
        if now - self.refreshed >= pause:
            self.refreshed = now
            self._show(self._describe_pace(), refresh=True)

    def finish(self) -> None:
        """Show the state at the step's end; Metaflow then writes the card for good."""
        if not self.works:
            return
        seconds = f"{time.monotonic() - self.began:,.0f} s"
        trained = f"ended at {self._describe_place()}, after {seconds}"
        self._show(trained if self.curves else "nothing was trained in this step", refresh=False)

    def _describe_pace(self) -> str:
        assert self.pace is not None
        number, _ = self._find_place()
        rate, left = self.pace.report(self.step, self.total * (1 + number))
        minutes, seconds = divmod(round(left), 60)
        return f"{self._describe_place()}, {rate:,.1f} per second, **{minutes}:{seconds:02} left**"

    def _find_place(self) -> tuple[int, int]:
        """Return which network is trained, 0 or 1, and its step: a second critic follows a first that fails its test."""
        number = max(0, self.step - 1) // self.total if self.total and self.phase == "critic" else 0
        return number, self.step - number * self.total

    def _describe_place(self) -> str:
        number, step = self._find_place()
        return f"{self.unit} {step:,} of {self.total:,}{' of a second critic' if number else ''}"

    def _show(self, state: str, *, refresh: bool) -> None:
        try:
            if not self.parts:
                self.parts = self._lay_out()
            self.parts["state"].update(state)
            self.parts["bar"].update(min(self._find_place()[1], self.total))  # the last episodes online go beyond it
            for key in PANELS[self.phase].keys() & self.parts.keys():
                self.parts[key].update(draw_curve(self.curves.get(key, ()), PANELS[self.phase][key], self.unit))
            if refresh:
                current.card[CARD].refresh()
        except Exception as error:  # a picture of the training is not worth the training
            self.works = False
            logger.warning(f"{self.phase}: its live card is given up: {type(error).__name__}: {error}")

    def _lay_out(self) -> dict[str, Any]:
        """Add the card's parts: fixed from now on, as a change of layout would make each refresh wait for two processes."""
        from metaflow.cards import Markdown, ProgressBar, VegaChart

        shown = [key for key in PANELS[self.phase] if key in self.curves or (self.scores and key.endswith("/score"))]
        parts: dict[str, Any] = {
            "state": Markdown(""),
            "bar": ProgressBar(max=max(1, self.total), label=self.phase, unit=f"{self.unit}s"),
            **{key: VegaChart(draw_curve((), PANELS[self.phase][key], self.unit)) for key in shown},
        }
        for key, part in {"title": Markdown(f"# {self.phase}\n\n{self.cell}"), **parts}.items():
            current.card[CARD].append(part, id=key.replace("/", "-"))
        return parts


def draw_curve(curve: Sequence[tuple[int, float]], title: str, unit: str) -> dict[str, Any]:
    """Return a curve as a chart of Vega-Lite, thinned to `POINTS`, its last point among them."""
    stride = -(-len(curve) // POINTS) or 1
    kept = list(reversed(list(reversed(curve))[::stride]))
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "title": title,
        "width": "container",
        "height": 150,
        "data": {"values": [{"step": step, "value": value} for step, value in kept]},
        "mark": "line",
        "encoding": {
            "x": {"field": "step", "type": "quantitative", "title": unit, "axis": {"tickCount": 6, "format": "~s"}},
            "y": {"field": "value", "type": "quantitative", "title": None, "scale": {"zero": False}},
        },
    }


class LiveTracker(MLflowTracker):
    """Tracker that shows a training phase's metrics on the step's card, too."""

    def __init__(self, base: Path, run_id: str, *, opening: Record, card: LiveCard) -> None:
        super().__init__(base, run_id, opening=opening)
        self.card = card

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record metrics; see `MLflowTracker`."""
        super().log(step, metrics)
        self.card.add(step, metrics)

    def close(self) -> None:
        """Deliver the rest, and show the last state."""
        self.card.finish()
        super().close()


def make_live_card(phase: str, config: Config, cell: str) -> LiveCard:
    """Make the live card of a training phase: "critic", "actor" or "online"."""
    totals = {
        "critic": config.critic.gradient_steps,
        "actor": config.actor.gradient_steps,
        "online": config.online.environment_steps,
    }
    scores = config.has_environment and config.evaluation.curve_points > 0
    return LiveCard(phase, totals[phase], scores=scores, cell=cell)

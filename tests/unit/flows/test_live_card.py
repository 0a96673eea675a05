"""The card of a training step: what is shown when, and that it never fails a step. The card is Metaflow's own."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from metaflow.plugins.cards.component_serializer import CardComponentManager

from flows import live_card
from flows.live_card import CARD, POINTS, LiveCard, draw_curve


class Processes:
    """Takes the place of the processes that Metaflow would start for a card: what each was to do, and whether one waits."""

    def __init__(self) -> None:
        self.modes: list[tuple[str, bool]] = []

    def create(self, *, mode: str, sync: bool, **_: Any) -> None:
        self.modes.append((mode, sync))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.time", lambda: now[0])
    return now


@pytest.fixture
def processes() -> Processes:
    return Processes()


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, processes: Processes) -> Any:
    found = CardComponentManager("uuid", {"type": "blank"}, processes, runtime_card=True, refresh_interval=5)
    monkeypatch.setattr(live_card, "current", SimpleNamespace(card={CARD: found}))
    return found


def read(card: Any) -> dict[str, Any]:
    """What each part of the card shows now."""
    shown = {part.component_id: part.render() for part in card}
    return {name: {**part, "source": part.get("source", "").strip()} for name, part in shown.items()}


def test_refreshes_become_rare_and_training_waits_for_none(clock: list[float], card: Any, processes: Processes) -> None:
    live, times = LiveCard("critic", 10_000, scores=False), []
    for second in range(3600):
        clock[0], before = 1000.0 + second, len(processes.modes)
        live.add(second + 1, {"critic/q_loss": 1.0, "critic/value_loss": 1.0})
        times += [second] if len(processes.modes) > before else []
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert times[0] == 10 and gaps[0] == 30, "soon at first"
    assert gaps[-1] == 60 and len(times) < 100, "a refresh is a process of about a second"
    assert processes.modes == [("render_runtime", False), *[("refresh", False)] * (len(times) - 1)]


def test_state_bar_and_curves(clock: list[float], card: Any) -> None:
    live = LiveCard("actor", 1000, scores=True)
    for step in range(1, 501):
        clock[0] = 1000.0 + step / 10
        live.add(step, {"actor/behavior_loss": float(step), "actor/weight_max": 1.0})
    shown = read(card)
    assert list(shown) == ["title", "state", "bar", "actor-behavior_loss", "actor-score"]
    assert shown["state"]["source"] == "gradient step 400 of 1,000, 10.0 per second, **1:00 left**"
    assert (shown["bar"]["value"], shown["bar"]["max"]) == (400, 1000)
    points = shown["actor-behavior_loss"]["spec"]["data"]["values"]
    assert points[-1] == {"step": 400, "value": 400.0} and 0.4 * POINTS < len(points) <= POINTS
    assert shown["actor-score"]["spec"]["data"]["values"] == [], "it has its place before its first point"
    clock[0] = 1080.0
    live.add(501, {"actor/score": 7.0})
    live.finish()
    last = read(card)
    assert last["state"]["source"] == "ended at gradient step 501 of 1,000, after 80 s"
    assert last["actor-score"]["spec"]["data"]["values"] == [{"step": 501, "value": 7.0}]


def test_a_second_critic_has_a_bar_of_its_own(clock: list[float], card: Any) -> None:
    live = LiveCard("critic", 1000, scores=False)
    for step in (500, 1000, 1250):
        clock[0] += 20.0
        live.add(step, {"critic/q_loss": 1.0})
    shown = read(card)
    assert shown["state"]["source"].startswith("gradient step 250 of 1,000 of a second critic, ")
    assert shown["state"]["source"].endswith("**0:40 left**"), "750 steps at the pace of the last ones"
    assert shown["bar"]["value"] == 250
    live.finish()
    assert read(card)["state"]["source"].startswith("ended at gradient step 250 of 1,000 of a second critic, after ")


def test_the_last_episodes_online_go_beyond_the_end(card: Any) -> None:
    live = LiveCard("online", 100, scores=False)
    live.add(149, {"online/normalized_score": 1.0})
    live.finish()
    shown = read(card)
    assert shown["state"]["source"].startswith("ended at environment step 149 of 100, after ")
    assert shown["bar"]["value"] == 100


def test_a_step_that_trained_nothing_says_so(card: Any) -> None:
    live = LiveCard("critic", 0, scores=False)
    live.add(1, {"seconds/critic": 1.0})
    live.finish()
    assert read(card)["state"]["source"] == "nothing was trained in this step"


def test_a_broken_card_fails_no_step(
    clock: list[float],
    card: Any,
    processes: Processes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(**_: Any) -> None:
        raise OSError("no room")

    monkeypatch.setattr(processes, "create", fail)
    live = LiveCard("critic", 100, scores=False)
    for step in range(1, 100):
        clock[0] = 1000.0 + 10.0 * step
        live.add(step, {"critic/q_loss": 1.0})
    live.finish()
    assert caplog.text.count("critic: its live card is given up: OSError: no room") == 1, "said once"


@pytest.mark.parametrize("count", [0, 1, POINTS, POINTS + 1, 7 * POINTS + 3])
def test_thinned_curves_keep_their_end(count: int) -> None:
    points = draw_curve([(step, 0.0) for step in range(count)], "t", "step")["data"]["values"]
    assert len(points) <= POINTS and [point["step"] for point in points[-1:]] == [*range(count)][-1:]

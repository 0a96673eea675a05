"""MLflow run of a search that several workers log to: the real store."""

import threading
from pathlib import Path
from typing import Any

import pytest

from vdt.experiments import search_log
from vdt.experiments.search import read_search
from vdt.experiments.search_log import SearchLog
from vdt.experiments.search_store import SearchStore
from vdt.experiments.study import Study
from vdt.tracking import open_store, send_now
from vdt.tracking.outbox import read_waiting
from vdt.tracking.store import search_runs
from vdt.tracking.waiting import backlog_of

SEARCH = read_search({"space": {"actor.q_coefficient": [0.1, 0.3]}, "trials": 2}, "x")
STUDY = Study(name="mine", place="mine.yaml", envs=("walker2d-medium-v2",), search=SEARCH)
SECONDS = 2.0  # that the second worker has to overtake the first


def test_no_point_is_lost_where_another_worker_ends_its_trial_meanwhile(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second worker's trial ends when the first is about to send its point."""
    first, second = (SearchStore(home / "search", SEARCH) for _ in range(2))
    logs = [SearchLog(STUDY, store, "command") for store in (first, second)]
    logs[0].open()

    def end(number: int) -> None:
        store = logs[number].store
        logs[number].end(number, lambda: store.complete(number, {100: float(number)}))

    other = threading.Thread(target=end, args=(1,))

    def send(*arguments: Any) -> str:
        if not other.ident:  # it is the first
            other.start()
            other.join(SECONDS)
        return send_now(*arguments)

    with first.take(), second.take():
        monkeypatch.setattr(search_log, "send_now", send)
        end(0)
        other.join()
    points = open_store(home).get_metric_history(first.run_id, "search/score")
    assert sorted((point.step, point.value) for point in points) == [(1, 0.0), (2, 1.0)]
    assert open_store(home).get_run(first.run_id).data.metrics["search/complete"] == 2


def test_a_search_is_stopped_without_a_store_where_records_are_delivered_later(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VDT_TRACKING", "later")
    log = SearchLog(STUDY, store := SearchStore(home / "search", SEARCH), "command")
    log.open()
    log.stop()
    tags, status = read_waiting(backlog_of(home, store.run_id))[-2:]
    assert (tags["tags"], status["status"]) == ({"vdt.ended": "stopped"}, "FAILED")
    assert not (home / ".vdt" / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://127.0.0.1:9", "does not answer"),
        ("sqlite:///mlflow.db", "MLFLOW_TRACKING_URI=sqlite:///mlflow.db depends on the folder"),
    ],
)
def test_a_store_that_is_away_stops_no_stop(
    address: str, said: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = SearchLog(STUDY, SearchStore(home / "search", SEARCH), "command")
    log.open()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    log.stop()
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("WARNING: tracking: the store ") and said in line
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert open_store(home).get_run(log.store.run_id).info.status == "RUNNING"


def test_a_search_that_reached_no_store_at_its_start_can_be_stopped(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run has a local id, which the store does not know until the records are delivered."""
    with monkeypatch.context() as patched:
        patched.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        log = SearchLog(STUDY, SearchStore(home / "search", SEARCH), "command")
        log.open()
    assert log.store.run_id.startswith("local-")
    log.stop()
    log.stop()
    (stored,) = search_runs(open_store(home))
    assert (stored.info.status, stored.data.tags["vdt.ended"]) == ("FAILED", "stopped")

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

"""A real MLflow server that is stopped, hangs and comes back while a run is tracked."""

import os
import signal
import time
from pathlib import Path

import pytest

from support.server import find_free_port, serve
from vdt.experiments.resolve import resolve_config
from vdt.tracking import MLflowTracker, create_run, make_continue_record, open_store
from vdt.tracking.deliver import deliver

pytestmark = pytest.mark.faults
CONFIG = resolve_config("walker2d-medium-v2", preset="smoke")


def make_words(folder: Path, port: int) -> list[str]:
    words = ["-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    return [
        *words,
        "--backend-store-uri",
        f"sqlite:///{folder / 'server.db'}",
        "--artifacts-destination",
        str(folder / "store"),
    ]


def log(tracker: MLflowTracker, first: int, last: int, seconds: float) -> float:
    """Log steps spread over some seconds; the longest that one of them took."""
    longest = 0.0
    for step in range(first, last + 1):
        began = time.monotonic()
        tracker.log(step, {"critic/q_loss": float(step)})
        if step % 10 == 0:
            tracker.flush()
        longest = max(longest, time.monotonic() - began)
        time.sleep(seconds / (last - first + 1))
    return longest


def test_a_server_that_stops_hangs_and_returns(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = find_free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    words, health = make_words(tmp_path, port), f"http://127.0.0.1:{port}/health"
    longest = []
    with serve(tmp_path, "first", *words, health=health):
        run_id = create_run(home, CONFIG, "1", "run")
        assert not run_id.startswith("local-")
        tracker = MLflowTracker(home, run_id, opening=make_continue_record("1"), interval=0.5)
        longest.append(log(tracker, 1, 50, 5))
    longest.append(log(tracker, 51, 200, 30))  # nobody answers
    with serve(tmp_path, "second", *words, health=health) as server:
        longest.append(log(tracker, 201, 250, 5))
        os.killpg(server.pid, signal.SIGSTOP)  # it takes connections and answers nothing
        longest.append(log(tracker, 251, 300, 15))
        os.killpg(server.pid, signal.SIGCONT)
        longest.append(log(tracker, 301, 320, 5))
        tracker.close()
        assert deliver(home) == 0
        points = [(m.step, m.value) for m in open_store(home).get_metric_history(run_id, "critic/q_loss")]
    assert sorted(points) == [(step, float(step)) for step in range(1, 321)]
    print("longest call in each phase, seconds:", [round(value, 3) for value in longest])
    assert max(longest) < 1.0

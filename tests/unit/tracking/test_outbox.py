"""Delivery of metrics to a store that fails, hangs or comes back: a stand-in for the store only, no mock of MLflow."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from vdt.tracking.outbox import BATCH, Delivery, Mapped, deliver_backlog, read_records


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class FlakyStore:
    """Takes records, unless told to fail or to hang."""

    def __init__(self) -> None:
        self.records: list[Mapped] = []
        self.largest, self.calls = 0, 0
        self.failing = False
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, records: Sequence[Mapped]) -> None:
        self.calls += 1
        self.go_on.wait()
        if self.failing:
            raise ConnectionError("store is down\nwith details")
        self.largest = max(self.largest, len(records))
        self.records += records

    @property
    def numbers(self) -> list[int]:
        return [record["n"] for record in self.records]


@pytest.fixture
def flaky() -> Iterator[FlakyStore]:
    store = FlakyStore()
    yield store
    store.go_on.set()


def test_delivery_keeps_the_order_and_sends_in_batches(flaky: FlakyStore, tmp_path: Path) -> None:
    delivery = Delivery(flaky, tmp_path / "backlog.jsonl", interval=60)
    count = 2 * BATCH + 1
    for n in range(count):
        delivery.put({"n": n})
    assert delivery.flush()
    assert flaky.numbers == list(range(count))
    assert flaky.largest == BATCH
    delivery.put({"n": count})
    assert delivery.close()
    assert flaky.numbers[-1] == count
    assert not (tmp_path / "backlog.jsonl").exists()


def test_delivery_happens_in_the_background(flaky: FlakyStore, tmp_path: Path) -> None:
    delivery = Delivery(flaky, tmp_path / "backlog.jsonl", interval=0.01)
    delivery.put({"n": 1})
    wait_for(lambda: flaky.numbers == [1])
    delivery.close()


def test_a_failing_store_is_reported_and_nothing_is_lost(
    flaky: FlakyStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backlog = tmp_path / "folder" / "backlog.jsonl"
    flaky.failing = True
    delivery = Delivery(flaky, backlog, interval=0.01, first_pause=0.01)
    delivery.put({"n": 1})
    wait_for(lambda: flaky.calls > 2)
    assert not delivery.flush()
    assert read_records(backlog) == [{"n": 1}], "flush makes it safe although the store is down"
    delivery.put({"n": 2})
    assert not delivery.flush()
    assert "WARNING: tracking: the store does not answer (store is down)" in capsys.readouterr().out
    flaky.failing = False
    wait_for(lambda: flaky.numbers == [1, 2])
    delivery.put({"n": 3})
    assert delivery.close()
    assert flaky.numbers == [1, 2, 3]
    assert list(backlog.parent.glob("*.jsonl")) == []
    assert "answers again" in capsys.readouterr().out


def test_a_batch_that_failed_goes_before_what_was_put_after_it(flaky: FlakyStore, tmp_path: Path) -> None:
    flaky.failing = True
    delivery = Delivery(flaky, tmp_path / "backlog.jsonl", interval=0.01, first_pause=0.01)
    for n in range(BATCH + 50):
        delivery.put({"n": n})
    wait_for(lambda: flaky.calls > 1)
    flaky.failing = False
    wait_for(lambda: len(flaky.numbers) == BATCH + 50)
    assert flaky.numbers == list(range(BATCH + 50))
    assert delivery.close()


def test_what_a_dead_process_left_is_sent_first_by_the_next(
    flaky: FlakyStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backlog = tmp_path / "backlog.jsonl"
    flaky.failing = True
    delivery = Delivery(flaky, backlog, interval=60, first_pause=60)
    delivery.put({"n": 1})
    delivery.put({"n": 2})
    assert not delivery.close()
    assert str(backlog) in capsys.readouterr().out
    backlog.with_suffix(".sending.jsonl").write_text('{"n": 0}\n')  # killed while it sent these
    with open(backlog, "a") as file:
        file.write('\n{"n": 3')  # killed while it wrote this
    second = Delivery(flaky, backlog, interval=60, first_pause=60)
    second.put({"n": 4})
    assert not second.close()
    flaky.failing = False
    third = Delivery(flaky, backlog, interval=60)
    third.put({"n": 5})
    assert third.close()
    assert flaky.numbers == [0, 1, 2, 4, 5]
    assert "is incomplete and left out" in capsys.readouterr().out


def test_a_hanging_store_holds_training_up_for_the_timeout_only(flaky: FlakyStore, tmp_path: Path) -> None:
    backlog = tmp_path / "backlog.jsonl"
    flaky.go_on.clear()
    delivery = Delivery(flaky, backlog, interval=60)
    delivery.put({"n": 1})
    began = time.monotonic()
    assert not delivery.flush(timeout=0.2)
    assert time.monotonic() - began < 5
    assert read_records(backlog) == [{"n": 1}]
    flaky.go_on.set()
    delivery.put({"n": 2})
    assert delivery.close()
    assert sorted(flaky.numbers) == [1, 1, 2], "sent twice, which the receiver takes as once"


def test_the_backlog_goes_before_what_was_put_after_it(flaky: FlakyStore, tmp_path: Path) -> None:
    """A receiver that drops old steps would lose points for ever if newer ones overtook them."""
    backlog = tmp_path / "backlog.jsonl"
    flaky.go_on.clear()
    delivery = Delivery(flaky, backlog, interval=0.01)
    for n in range(BATCH + 50):
        delivery.put({"n": n})
    wait_for(lambda: flaky.calls == 1)
    assert not delivery.flush(timeout=0.05)  # the first batch is on its way, all of it goes to the backlog
    for n in range(BATCH + 50, BATCH + 60):
        delivery.put({"n": n})
    flaky.go_on.set()
    assert delivery.close()
    first_seen = list(dict.fromkeys(flaky.numbers))
    assert first_seen == sorted(first_seen) == list(range(BATCH + 60))
    assert flaky.largest == BATCH, "of the backlog, too"


def test_the_backlog_goes_first_even_if_it_was_written_a_moment_ago(
    flaky: FlakyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flush that comes between the backlog's delivery and the queue's."""
    delivery: Delivery

    def deliver_and_flush(backlog: Path, *others: Any) -> None:
        deliver_backlog(backlog, *others)
        if not flaky.calls:
            assert not delivery.flush(timeout=0.0)
            delivery.put({"n": 2})

    monkeypatch.setattr("vdt.tracking.outbox.deliver_backlog", deliver_and_flush)
    delivery = Delivery(flaky, tmp_path / "backlog.jsonl", interval=0.2)
    delivery.put({"n": 1})
    wait_for(lambda: len(flaky.numbers) == 2)
    assert delivery.close()
    assert flaky.numbers == [1, 2]


def test_a_failed_store_is_left_alone_for_a_while_but_asked_once_more_at_the_end(
    flaky: FlakyStore, tmp_path: Path
) -> None:
    flaky.failing = True
    delivery = Delivery(flaky, tmp_path / "backlog.jsonl", interval=0.01, first_pause=60)
    delivery.put({"n": 1})
    wait_for(lambda: flaky.calls > 0)
    time.sleep(0.2)
    assert flaky.calls == 1
    flaky.failing = False
    assert delivery.close()
    assert flaky.numbers == [1]


def test_training_waits_half_a_second_at_most(flaky: FlakyStore, tmp_path: Path) -> None:
    flaky.go_on.clear()
    delivery = Delivery(flaky, tmp_path / "backlog.jsonl", interval=0.01)
    longest = 0.0
    for n in range(5):
        began = time.monotonic()
        delivery.put({"n": n})
        delivery.flush()
        longest = max(longest, time.monotonic() - began)
    assert longest < 1.0
    assert [record["n"] for record in read_records(tmp_path / "backlog.jsonl")] == [0, 1, 2, 3, 4]


def test_a_backlog_that_cannot_be_written_waits_in_memory(
    flaky: FlakyStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backlog = tmp_path / "folder" / "backlog.jsonl"
    backlog.parent.write_text("a file stands where the folder should be")
    flaky.failing = True
    delivery = Delivery(flaky, backlog, interval=0.01, first_pause=0.01)
    delivery.put({"n": 1})
    wait_for(lambda: flaky.calls > 0)
    assert not delivery.flush()
    assert "1 records wait in memory" in capsys.readouterr().out
    flaky.failing = False
    wait_for(lambda: flaky.numbers == [1])
    assert delivery.close()


def test_modules_that_import_each_other_are_loaded_before_the_thread_that_uses_them(tmp_path: Path) -> None:
    """Both threads need them at once when a step reads another run's curves: one had found half of SQLAlchemy."""
    code = f"""
import sys, threading
from pathlib import Path
from vdt.tracking.tracker import MLflowTracker
start, loaded = threading.Thread.start, []
def note(thread):
    loaded.append({{"sqlalchemy.orm", "sqlalchemy.exc", "mlflow"}} <= sys.modules.keys())
    start(thread)
threading.Thread.start = note
MLflowTracker(Path({str(tmp_path)!r}), "local-1").close()
assert loaded and loaded[0], loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)

"""Outbox: delivers records to a slow or unreachable store from a background thread and loses none.

A record is a JSON-able mapping. A record that cannot be delivered is kept in a JSONL file, and sent before any newer
one as soon as the store answers again. That is done by this process, or by the next that delivers to the same file. A
record may be sent twice when a process is killed in between, so the receiver must treat a repeated record as one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vdt.system.home import make_vdt_command
from vdt.system.locks import hold_lock
from vdt.tracking.errors import describe_failure, is_refusal
from vdt.tracking.waiting import DELIVER

logger = logging.getLogger(__name__)

Mapped = dict[str, Any]  # a record as it is kept in a file
Send = Callable[[Sequence[Mapped]], None]
BATCH = 200  # records per call of `send`
LONGEST_PAUSE = 60.0  # seconds between two tries
DELIVERY_SECONDS = 2.0  # between two deliveries
FLUSH_SECONDS = 0.5  # that training waits for a store before its records go to the backlog
CLOSING_SECONDS = 20.0  # that the last try may take


def read_records(path: Path) -> list[Mapped]:
    """Read the records of a JSONL file, oldest first; a last line cut short by a kill is reported and left out."""
    records: list[Mapped] = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            records += [json.loads(line)] if line else []
        except json.JSONDecodeError:
            logger.warning(f"tracking: line {number} of {path} is incomplete and left out")
    return records


def append_records(path: Path, records: Sequence[Mapped]) -> None:
    """Add records to a JSONL file, safe on disk when this returns, also while another process delivers that file."""
    with _hold_file(path), open(path, "a") as file:
        file.writelines("\n" + json.dumps(record) for record in records)  # a cut line spoils only itself
        file.flush()
        os.fsync(file.fileno())


def sending_file_of(path: Path) -> Path:
    """Return the file that holds a backlog's records while they are sent."""
    return path.with_suffix(".sending.jsonl")


def _hold_file(path: Path) -> contextlib.AbstractContextManager[None]:
    """Hold a backlog for the moment in which it is written or taken away: what is written in between would be lost."""
    return hold_lock(path.with_name(f".{path.stem}.append.lock"), f"the file {path.name}")


def read_waiting(path: Path) -> list[Mapped]:
    """Read all records of a backlog, also those that are being sent."""
    if not is_waiting(path):
        return []
    with _hold_file(path):
        return [record for file in (sending_file_of(path), path) if file.exists() for record in read_records(file)]


def is_waiting(path: Path) -> bool:
    """Return whether a backlog holds any record."""
    return path.exists() or sending_file_of(path).exists()


def remove_backlog(path: Path) -> None:
    """Remove the waiting records."""
    for file in (path, sending_file_of(path)):
        file.unlink(missing_ok=True)


def deliver_backlog(path: Path, send: Send) -> int:
    """Send the waiting records, then remove them; return how many there were.

    Args:
        path: the backlog file.
        send: as in `Delivery`.
    """
    sending, count = sending_file_of(path), 0
    while is_waiting(path):
        with hold_lock(path.with_name(f".{path.stem}.lock"), f"the records of {path.stem}"):
            with _hold_file(path):
                if not sending.exists() and path.exists():
                    path.rename(sending)
            records = read_records(sending) if sending.exists() else []
            for start in range(0, len(records), BATCH):
                send(records[start : start + BATCH])
            sending.unlink(missing_ok=True)
            count += len(records)
    return count


class Outbox:
    """Queue of records that reach the backlog file at each `flush`, and no store."""

    def __init__(self, backlog: Path) -> None:
        """Bind to the JSONL file of undelivered records."""
        self.backlog = backlog
        self._changed = threading.Condition()  # guards everything below
        self._queue: deque[Mapped] = deque()
        self._sending: list[Mapped] = []  # taken from the queue and not yet known to be delivered
        self._put = self._settled = 0  # records taken in; records delivered or safe in the backlog
        self._failures = 0

    def put(self, record: Mapped) -> None:
        """Queue a record."""
        with self._changed:
            self._queue.append(record)
            self._put += 1

    def flush(self) -> bool:
        """Write all records that were put so far to the file; return whether everything is delivered."""
        with self._changed:
            self._write_backlog()
            return not is_waiting(self.backlog)

    def close(self) -> bool:
        """Write the rest; return whether everything is delivered."""
        return self.flush()

    def _write_backlog(self) -> None:
        """Move everything undelivered to the backlog file (the lock is held); if that fails, it stays in memory."""
        records = [*self._sending, *self._queue]
        try:
            if records:
                append_records(self.backlog, records)
        except OSError as error:
            self._failures = max(self._failures, 1)
            logger.warning(
                f"tracking: cannot write {self.backlog} ({error.strerror or error}); {len(records)} records wait in memory"
            )
            return
        self._queue.clear()
        self._sending = []
        self._settled = self._put


class Delivery(Outbox):
    """Queue and the thread that empties it. A failing store is reported and never stops or blocks the caller of `put`."""

    def __init__(
        self, send: Send, backlog: Path, *, interval: float = DELIVERY_SECONDS, first_pause: float = 2.0
    ) -> None:
        """Start the thread.

        Args:
            send: delivers some records or raises; takes a repeated record as one.
            backlog: JSONL file for undelivered records.
            interval: seconds between two deliveries.
            first_pause: seconds to wait after a first failure; doubled with each further one, up to a minute.
        """
        super().__init__(backlog)
        self._send, self._interval, self._first_pause = send, interval, first_pause
        self._retry_at = 0.0
        self._hurry = self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="vdt-delivery", daemon=True)
        self._thread.start()

    def flush(self, timeout: float = FLUSH_SECONDS) -> bool:
        """Save all records that were put so far: delivered, or else written to the backlog file.

        Waits for a store that answers, at most `timeout` seconds, and not at all for one that has just failed.

        Returns:
            Whether everything is delivered.
        """
        with self._changed:
            goal, failures = self._put, self._failures
            if not failures:
                self._hurry = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._settled >= goal or self._failures > failures, timeout)
            if self._settled < goal:
                self._write_backlog()
            return not self._failures and not is_waiting(self.backlog)

    def close(self) -> bool:
        """Try once more, end the thread, and log where the rest is if the store did not take everything."""
        with self._changed:
            self._retry_at, self._stopping = 0.0, True
            self._changed.notify_all()
        self._thread.join(CLOSING_SECONDS)
        with self._changed:
            self._write_backlog()
            delivered = not self._failures and not is_waiting(self.backlog)
        if not delivered:
            command = make_vdt_command(DELIVER)
            logger.warning(
                f"tracking: undelivered records are kept in {self.backlog}; the next step sends them, or `{command}`"
            )
        return delivered

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._hurry or self._stopping, self._interval)
                stopping, self._hurry = self._stopping, False
                pausing = time.monotonic() < self._retry_at
            if not pausing:
                self._deliver()
            if stopping:
                return

    def _deliver(self) -> None:
        """Send the backlog, then the queue."""
        try:
            while True:
                deliver_backlog(self.backlog, self._send)  # older than the queue, so always first
                batch = self._take()
                if batch is None:
                    continue
                if not batch:
                    break
                self._send(batch)
                with self._changed:
                    self._settled += len(self._sending)  # none if flush gave up waiting and wrote them to the backlog
                    self._sending = []
                    self._changed.notify_all()
        except Exception as error:  # no exception of a store may end this thread or pass in silence
            self._fail(error)
            return
        with self._changed:
            if self._failures:
                logger.info(f"tracking: the store answers again, after {self._failures} failures; nothing is lost")
            self._failures = 0

    def _take(self) -> list[Mapped] | None:
        """Return the oldest records of the queue; None if older ones went to the backlog in the meantime."""
        with self._changed:
            if is_waiting(self.backlog):
                return None
            self._sending = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            return self._sending

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self._queue.extendleft(reversed(self._sending))
            self._sending = []
            self._failures += 1
            pause = LONGEST_PAUSE if is_refusal(error) else self._first_pause * 2 ** (self._failures - 1)
            pause = min(LONGEST_PAUSE, pause)
            self._retry_at = time.monotonic() + pause
            waiting = len(self._queue)
            self._changed.notify_all()
        logger.warning(
            f"tracking: {describe_failure(error)}; training goes on, {waiting} records wait, next try in {pause:.0f} s"
        )

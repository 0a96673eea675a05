"""Progress lines of a phase: its state and the time left."""

import logging
import time
from collections import deque
from collections.abc import Mapping

logger = logging.getLogger(__name__)

REPORT_EVERY_SECONDS = 10.0
RATE_REPORTS = 6  # the rate is measured since this many reports ago, to adapt soon to a machine that slept or got busy


class Pace:
    """Steps per second of a phase, measured over its last reports."""

    def __init__(self, start: int) -> None:
        """Begin at step `start`."""
        self.reports = deque([(time.monotonic(), start)], maxlen=RATE_REPORTS)

    @property
    def seconds_since_report(self) -> float:
        """Return the time since the last report."""
        return time.monotonic() - self.reports[-1][0]

    def report(self, step: int, total: int) -> tuple[float, float]:
        """Record a step; return steps per second, and the seconds left until `total`."""
        now = time.monotonic()
        since, before = self.reports[0]
        self.reports.append((now, step))
        rate = (step - before) / max(now - since, 1e-9)
        return rate, max(0, total - step) / max(rate, 1e-9)


class Progress:
    """Printer of step, rate, time left and key numbers at most every 10 s, and at the end."""

    def __init__(self, name: str, start: int, total: int, unit: str = "step") -> None:
        """Count from `start` to `total`."""
        self.name, self.total, self.unit, self.step = name, total, unit, start
        self.pace = Pace(start)

    def report(self, step: int, metrics: Mapping[str, float] | None = None) -> None:
        """Print if it is time."""
        self.step = step
        if self.pace.seconds_since_report < REPORT_EVERY_SECONDS and step < self.total:
            return
        rate, left = self.pace.report(step, self.total)
        numbers = "".join(f"  {key} {value:.4g}" for key, value in (metrics or {}).items())
        logger.info(f"{self.name}: {self.unit} {step:,}/{self.total:,}  {rate:,.1f}/s  {left:.0f} s left{numbers}")

    def advance(self, steps: int) -> None:
        """Count `steps` more; print if it is time."""
        self.report(self.step + steps)

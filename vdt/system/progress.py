"""Progress lines of a phase: its state and the time left."""

import logging
import time
from collections import deque
from collections.abc import Mapping

logger = logging.getLogger(__name__)

REPORT_EVERY_SECONDS = 10.0
RATE_REPORTS = 6  # the rate is measured since this many lines ago, to adapt soon to a machine that slept or got busy


class Progress:
    """Printer of step, rate, time left and key numbers at most every 10 s, and at the end."""

    def __init__(self, name: str, start: int, total: int, unit: str = "step") -> None:
        """Count from `start` to `total`."""
        self.name, self.total, self.unit, self.step = name, total, unit, start
        self.reports = deque([(time.monotonic(), start)], maxlen=RATE_REPORTS)

    def report(self, step: int, metrics: Mapping[str, float] | None = None) -> None:
        """Print if it is time."""
        self.step, now = step, time.monotonic()
        if now - self.reports[-1][0] < REPORT_EVERY_SECONDS and step < self.total:
            return
        since, before = self.reports[0]
        self.reports.append((now, step))
        rate = (step - before) / max(now - since, 1e-9)
        left = max(0, self.total - step) / max(rate, 1e-9)
        numbers = "".join(f"  {key} {value:.4g}" for key, value in (metrics or {}).items())
        logger.info(f"{self.name}: {self.unit} {step:,}/{self.total:,}  {rate:,.1f}/s  {left:.0f} s left{numbers}")

    def advance(self, steps: int) -> None:
        """Count `steps` more; print if it is time."""
        self.report(self.step + steps)

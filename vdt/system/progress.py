"""Lines that say how far a phase is and how long it will take."""

import logging
import time
from collections import deque
from collections.abc import Mapping

logger = logging.getLogger(__name__)

REPORT_EVERY_SECONDS = 10.0
RATE_REPORTS = 6  # the rate is that since so many lines ago: a machine that slept or got busy is soon understood


class Progress:
    """Prints step, rate, time left and key numbers at most every 10 s, and at the end."""

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
        """`steps` more are done; print if it is time."""
        self.report(self.step + steps)

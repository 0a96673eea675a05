"""Delivers what could not be delivered before, and settles runs that a kill left behind.

    python -m vdt.tracking.replay [FILE ...]

Without files: everything that waits in the home folder. Safe to repeat: nothing is entered twice.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vdt.system.home import home
from vdt.tracking.errors import StoreError, describe_failure, get_store_errors, is_refusal
from vdt.tracking.mlflow_run import RunSender
from vdt.tracking.outbox import deliver_backlog, is_waiting
from vdt.tracking.runs import find_undelivered, settle_abandoned


def replay(base: Path, files: Sequence[Path]) -> int:
    """Deliver each file; returns how many could not be."""
    failed = 0
    expected: tuple[type[Exception], ...] = (StoreError, *get_store_errors())
    for path in files:
        run_id = path.name.split(".")[0]
        try:
            sender = RunSender(base, run_id)
            deliver_backlog(path.with_name(f"{run_id}.jsonl"), sender)
            print(f"{path}: delivered to MLflow run {sender.run_id}", flush=True)
        except expected as error:
            failed += 1
            advice = f"; remove {path} to forget them" if is_refusal(error) else ""
            print(f"{path}: kept, {describe_failure(error)}{advice}", flush=True)
    return failed


def main(arguments: list[str] | None = None) -> int:
    """Replay and settle; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m vdt.tracking.replay", description="Deliver what waits for the tracking store."
    )
    parser.add_argument("files", nargs="*", type=Path, help="default: all that wait in the home folder")
    options = parser.parse_args(arguments)
    missing = [path for path in options.files if not is_waiting(path)]
    if missing:
        parser.exit(2, f"error: there is no file {missing[0]}\n")
    failed = replay(home(), options.files or find_undelivered(home()))
    if not failed:
        settle_abandoned(home())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

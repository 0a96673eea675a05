"""Runs of single cells of a study (`--cell`): the same line again continues what it left unfinished.

The cells' identities name a folder, `HOME/.vdt/unfinished/<digest>/`. It holds a file per try with the id of its flow's
run, and the ids of the MLflow runs. It is removed when the cells are finished.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from flows.options import Command
from vdt.config.errors import ConfigError
from vdt.evaluation.records import CellRecord
from vdt.experiments.cells import compute_identities, get_reuse, split_finished, tag_finished_runs
from vdt.experiments.results_store import compute_code_digest, find_unfinished
from vdt.experiments.study import Cell, Study
from vdt.system.files import write_text
from vdt.system.home import home
from vdt.system.locks import try_lock

logger = logging.getLogger(__name__)

UNFINISHED = "VDT_UNFINISHED"  # environment variable: the folder of the cells that the flow runs
FLOW_NAME = "VDTFlow"
RUN_ID_FILE = "--run-id-file"
PATIENCE_SECONDS = 180.0  # until the lock of a lost machine is free: a lease of NFS is 90 s
REPORT_SECONDS = 10.0
_held = contextlib.ExitStack()  # locks of this process, until it ends


def continue_cells(cells: Sequence[Cell], study: Study, given: Mapping[str, str], argv: list[str]) -> list[Cell]:
    """Return the cells of `--cell` that a new flow is to begin: none if an earlier one goes on.

    The process ends here if all of them are finished. `argv` becomes the command that continues the flow which left them
    unfinished, or gets the file for the id of a new one's run.

    Raises:
        ConfigError: if an env's data is unavailable, or another process works on one of the cells.
    """
    if any(word.partition("=")[0] == RUN_ID_FILE for word in argv):
        raise ConfigError(f"{RUN_ID_FILE} does not go with --cell, which keeps the id itself to continue the run")
    identities = compute_identities(cells)
    for cell, identity in zip(cells, identities, strict=True):
        _hold(cell, identity)
    folder = find_unfinished(home(), identities)
    tries = sorted(folder.glob("try-*.txt"))
    file = folder / f"try-{len(tries) + 1:05d}.txt"
    origin = choose_origin([path.read_text().strip() for path in tries])
    missing, finished = split_finished(cells, get_reuse(given))
    if origin is None and not missing:
        _settle(folder, finished, study)
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[UNFINISHED] = str(folder)
    if origin is None:
        argv += [RUN_ID_FILE, str(file)]
        return missing
    logger.info(f"{' '.join(cell.key for cell in cells)}: going on with run {origin}")
    argv[:] = Command.parse(argv).make_resume(file, origin)[1:]
    return []


def _settle(folder: Path, finished: Sequence[CellRecord], study: Study) -> NoReturn:
    """Report cells as finished, in MLflow too if their flow was stopped before it could do so, and end the process."""
    for record in finished:
        logger.info(f"cell {record.key} is finished: MLflow run {record.mlflow_run_id}")
    if folder.is_dir():
        tag_finished_runs(finished, study)
        shutil.rmtree(folder)
    raise SystemExit(0)


def choose_origin(run_ids: Sequence[str]) -> str | None:
    """Return the run to continue, of those that were begun one after another; none if none got as far as its cells.

    A run that was stopped while it took over the finished steps of the one before it has fewer of them, and no
    checkpoints: the one before it is continued.
    """
    from flows.lineage import count_completed

    counts = [count_completed(FLOW_NAME, run_id) for run_id in run_ids]
    most, place = max(((count, place) for place, count in enumerate(counts)), default=(0, 0))
    return run_ids[place] if most else None


def name_run(key: str) -> str:
    """Return the local id of a cell's MLflow run: for a flow of `--cell` the same one at each try."""
    from vdt.tracking import make_local_id

    folder = os.environ.get(UNFINISHED)
    if not folder:
        return make_local_id()
    path = Path(folder, f"{key}.id")
    if not path.is_file():
        write_text(path, make_local_id())
    return path.read_text().strip()


def forget_unfinished() -> None:
    """Remove the folder of the cells that this flow has finished."""
    if folder := os.environ.get(UNFINISHED):
        shutil.rmtree(folder, ignore_errors=True)


def _hold(cell: Cell, identity: str) -> None:
    """Hold a cell's lock until this process ends, so that no two processes run it."""
    path = home() / ".vdt" / "locks" / f"run-{identity}-{compute_code_digest()}.lock"
    began, reported = time.monotonic(), 0.0
    while not _held.enter_context(try_lock(path)):
        waited = time.monotonic() - began
        if waited > PATIENCE_SECONDS:
            raise ConfigError(f"cell {cell.key} is run by another process (lock {path}), so it is not run here")
        if waited >= reported:
            logger.info(f"cell {cell.key}: another process runs it; waiting at most {PATIENCE_SECONDS:.0f} s")
            reported = waited + REPORT_SECONDS
        time.sleep(1.0)

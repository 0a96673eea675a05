"""Seconds that a study of very many cells costs beside its cells: to plan, track, submit, deliver and report.

python benchmarks/many_cells.py --cells 1000 10000 [--deliver 200 400]

The cells' work is empty: each writes the records and the result of a real one, with made-up numbers. Times are the
processor's, so that other work on the machine does not count; waiting for a disk does not count either.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks.timing import describe_machine, format_table
from vdt.evaluation.records import CellRecord, Evaluation, EvaluationReport, SnapshotRecord
from vdt.experiments.cells import compute_identities, order_by_critic, resolve_cells, split_finished, tag_finished_runs
from vdt.experiments.cluster import estimate_needs, make_waves
from vdt.experiments.results_store import name_delivered_runs, save_result
from vdt.experiments.study import Cell, Study
from vdt.experiments.submissions import write_cells
from vdt.reporting.aggregates import find_headline
from vdt.reporting.frame import make_frame
from vdt.system.home import home, prepare
from vdt.tracking import MLflowTracker, create_run, finish_runs, make_continue_record, read_curves, resolve_run_ids
from vdt.tracking.deliver import deliver, find_local_ids

BODIES = ("halfcheetah", "hopper", "walker2d")
DATA = ("medium-replay", "medium", "medium-expert")
METHODS = ("vdt", "dt", "bc", "iql", "td3bc")
POINTS = 100  # of a curve
EPISODES = 10


class Stopwatch:
    """Processor seconds of named parts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the seconds of the block to a part."""
        began = time.process_time()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.process_time() - began
        print(f"  {part}: {self.seconds[part]:.1f} s", flush=True)


def write_study(folder: Path, cells: int) -> Path:
    """Write a study of about as many cells: 9 envs x 5 methods x seeds."""
    envs = ", ".join(f"{body}-{data}-v2" for body in BODIES for data in DATA)
    seeds = list(range(max(1, round(cells / (len(BODIES) * len(DATA) * len(METHODS))))))
    path = folder / f"empty-{cells}.yaml"
    path.write_text(
        f"preset: smoke\nsource: collected\nenvs: [{envs}]\nmethods: [{', '.join(METHODS)}]\nseeds: {seeds}\n"
    )
    return path


def make_result(cell: Cell, run_id: str) -> CellRecord:
    """Make the result of a cell that did nothing."""
    generator, config = np.random.default_rng(cell.config.seed), cell.config
    scores = (60 + 10 * generator.standard_normal(EPISODES)).tolist()
    report = EvaluationReport(
        label="one target",
        candidate_returns=(5000.0,),
        planning_horizon=1,
        env_model="none",
        episode_returns=[46 * score for score in scores],
        episode_lengths=[1000] * EPISODES,
        normalized_scores=scores,
        normalized_score_mean=float(np.mean(scores)),
        normalized_score_standard_error=1.0,
        environment_steps=1000 * EPISODES,
        seconds=1.0,
    )
    snapshot = SnapshotRecord(
        env=config.env,
        source="collected",
        label="collected",
        reason="",
        md5="0",
        size=1,
        card={"normalized_score_mean": 1.0},
    )
    acting = find_headline(config.flatten())
    found = Evaluation({"offline": {acting: report}, "online": {acting: report}})
    seconds = {"pretrain_critic": 1.0, "train_actor": 1.0}
    return CellRecord(cell.key, cell.patch, config.flatten(), snapshot, found, run_id, seconds)


def plan(words: dict[str, str]) -> tuple[list[Cell], Study]:
    """Do what the start of a flow does before it opens cells."""
    cells, study = resolve_cells(words)
    missing, _ = split_finished(cells, "exact")
    assert study is not None
    return order_by_critic(missing), study


def prepare_submission(cells: Sequence[Cell]) -> None:
    """Do what `flows/slurm.py submit` does after it has planned, but for Slurm's own commands."""
    estimate_needs(cells, [], [{"gpu": 1}])
    numbers = {cell.key: number for number, cell in enumerate(cells, start=1)}
    for turn, wave in enumerate(make_waves(cells, [], [], shares=True)):
        write_cells(home() / f"wave-{turn}", [(numbers[cell.key], cell.key) for cell in wave])


def run_empty(folder: Path, cell: Cell, study: Study, run_id: str) -> None:
    """Track one cell."""
    create_run(folder, cell.config, "1", "run", study=study.name, local_id=run_id)
    tracker = MLflowTracker(folder, run_id, opening=make_continue_record("1"))
    for step in range(1, POINTS + 1):
        tracker.log(step, {"critic/q_loss": 1.0 / step, "actor/behavior_loss": 2.0 / step})
    tracker.close()
    finish_runs(folder, [run_id], "FINISHED")


def report(base: Path, words: dict[str, str], folder: Path) -> None:
    """Do what `flows/report_flow.py` does; a card is left out."""
    from vdt.reporting.report import write_report

    cells, study = resolve_cells(words)
    missing, finished = split_finished(cells, "exact")
    assert study is not None and not missing
    assert len(make_frame(finished)) == 2 * EPISODES * len(finished), "a report of nothing costs nothing"
    tag_finished_runs(finished, study)
    resolve_run_ids(base, [cell.mlflow_run_id for cell in finished])
    curves = read_curves(base, [cell.mlflow_run_id for cell in finished])
    write_report(finished, folder, study=study.describe(), curves=curves)


def measure(cells: int, tracked: int, *, delivers: bool) -> dict[str, float]:
    """Measure one study in a home folder of its own; `tracked` of its cells leave records."""
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        os.environ.update(VDT_HOME=str(folder), VDT_TRACKING="later")
        words = {"study": str(write_study(folder, cells))}
        with watch.measure("plan"):
            planned, study = plan(words)
        print(f"{len(planned)} cells", flush=True)
        identities = compute_identities(planned)
        with watch.measure("submit"):
            prepare_submission(planned)
        with watch.measure("one cell"):
            resolve_cells({**words, "cell": str(len(planned))})
        run_ids = {cell.key: f"local-{number:032x}" for number, cell in enumerate(planned)}
        with watch.measure("track"):
            for cell in planned[:tracked]:
                run_empty(folder, cell, study, run_ids[cell.key])
        with watch.measure("results"):
            for cell, identity in zip(planned, identities, strict=True):
                save_result(folder, identity, make_result(cell, run_ids[cell.key]).to_json())
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        if delivers:
            with watch.measure("deliver"):
                assert deliver(folder) == 0
                name_delivered_runs(folder, lambda: find_local_ids(folder))
            os.environ["VDT_TRACKING"] = "now"
        with watch.measure("report"):
            report(folder, words, folder / "reports")
        shutil.rmtree(folder / ".vdt")
    return {"cells": len(planned), "tracked": min(tracked, len(planned)), **watch.seconds, "MB": size / 1e6}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each number of cells and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, nargs="*", default=[1000, 10_000], help="without delivery")
    parser.add_argument("--tracked", type=int, default=1000, help="at most so many cells of these leave records")
    parser.add_argument("--deliver", type=int, nargs="*", default=[], help="with delivery to SQLite")
    given = parser.parse_args(arguments)
    prepare()
    logging.getLogger("vdt").setLevel(logging.ERROR)
    print(describe_machine(torch.device("cpu")))
    measured = [measure(count, given.tracked, delivers=False) for count in given.cells]
    measured += [measure(count, count, delivers=True) for count in given.deliver]
    names = ("cells", "plan", "one cell", "submit", "track", "tracked", "results", "deliver", "report", "MB")
    rows = [[f"{found[name]:,.1f}" if name in found else "" for name in names] for found in measured]
    print(format_table(names, rows))


if __name__ == "__main__":
    main()

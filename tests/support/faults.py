"""Fault tests: run the real flow, kill it at chosen moments, resume it, and compare the results with an undisturbed run's."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.builders import assert_identical
from support.flow import ENV, FLOW, make_variables
from vdt.checkpoint.store import load_state
from vdt.tracking import open_store

COSTS = ("seconds/", "steps_per_second/", "peak_memory_megabytes/")  # metrics
TOTALS = {"pretrain_critic": 2000, "train_actor": 400, "tune_online": 1000}  # steps of each long step's own axis
OVERRIDES = (
    f"critic.gradient_steps={TOTALS['pretrain_critic']} actor.gradient_steps={TOTALS['train_actor']} "
    f"online.environment_steps={TOTALS['tune_online']} checkpoint.interval_seconds=0.3 checkpoint.interval_steps=100"
)
TIMINGS = {"seconds", "milliseconds_per_step", "memory", "mlflow_run_id", "reason"}  # of report.json: not results
STARTED = re.compile(r"/(\w+)/\d+ \(pid (\d+)\)\] Task is starting")
RUN_ID = re.compile(r"Workflow starting \(run-id (\d+)\)")
LIMIT = 3600.0


@dataclass(frozen=True)
class Kill:
    """Plan of one kill.

    Attributes:
        step: the long step during which it comes.
        share: of the step's work that must be in checkpoints before.
        target: "step" or "parent".
        signal: number.
        moment: "random" (up to `delay` seconds later), "write" (a checkpoint's temporary file is seen), "flush" (the
            database's journal has just grown) or "uncovered" (MLflow has points beyond the newest checkpoint).
        delay: seconds.
    """

    step: str
    share: float
    target: str = "step"
    signal: int = signal.SIGKILL
    moment: str = "random"
    delay: float = 0.0

    def __str__(self) -> str:
        name = signal.Signals(self.signal).name
        return f"{self.step:15} {self.share:4.0%} {self.target:6} {name:7} {self.moment:6}"


def plan_kills(rng: random.Random, count: int, moments: tuple[str, ...] = ("random",)) -> list[Kill]:
    """Spread kills over the long steps in the order of a run; two of three hit the step itself."""
    kills = []
    for number in range(count):
        step = list(TOTALS)[number % len(TOTALS)]
        parent = rng.random() < 1 / 3
        name = rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]) if parent else signal.SIGKILL
        target, share = ("parent" if parent else "step"), round(rng.uniform(0, 0.9), 2)
        kills.append(Kill(step, share, target, name, rng.choice(moments), round(rng.uniform(0, 0.4), 2)))
    return sorted(kills, key=lambda kill: (list(TOTALS).index(kill.step), kill.share))


def make_words(seeds: str = "0") -> list[str]:
    """Return the command of a campaign's run."""
    words = ["run", "--env", ENV, "--preset", "smoke", "--source", "collected"]
    return [*words, "--seeds", seeds, "--set", OVERRIDES]


if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's background job: its children would ignore Ctrl-C too
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Flow:
    """Flow command whose output goes to a file."""

    def __init__(self, folder: Path, *words: str) -> None:
        """Start it in a session of its own, as a terminal would."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.log = folder, folder / f"log-{len(list(folder.glob('log-*')))}.txt"
        with open(self.log, "w") as log:
            command = [sys.executable, str(FLOW), "--no-pylint", *words]
            environment = {
                **make_variables(folder),
                "METAFLOW_RUN_MAX_WORKERS": "4",
                "METAFLOW_RESUME_MAX_WORKERS": "4",
            }
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """Return all output so far."""
        return self.log.read_text(errors="replace")

    @property
    def run_id(self) -> str:
        """Return Metaflow's run id."""
        return RUN_ID.findall(self.output)[0]

    def wait(self) -> int:
        """Wait until it ends; return its exit code."""
        return self.process.wait(timeout=LIMIT)

    def find_tasks(self, step: str) -> list[int]:
        """Find processes of a step that still run."""
        pids = [int(pid) for name, pid in STARTED.findall(self.output) if name == step]
        return [pid for pid in pids if is_running(pid)]


def is_running(pid: int) -> bool:
    """Return whether a process lives (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def find_newest_step(home: Path, run_id: str, step: str) -> int:
    """Find the newest checkpoint that a run has written in a step."""
    files = home.glob(f".vdt/checkpoints/VDTFlow/{run_id}/{step}/*/*.pt")
    return max((int(path.name.split(".")[0]) for path in files), default=0)


def find_newest_point(home: Path, step: str) -> int:
    """Find the last step of a flow step's own curve in MLflow's database."""
    key = {"pretrain_critic": "critic/q_loss", "train_actor": "actor/total_loss"}[step]
    with contextlib.closing(sqlite3.connect(home / ".vdt" / "mlflow.db")) as connection:
        row = connection.execute("SELECT max(step) FROM metrics WHERE key = ?", [key]).fetchone()
    return row[0] or 0


def wait_for_moment(flow: Flow, kill: Kill) -> int | None:
    """Wait until a kill is due; return the process to kill, or None if the step or the flow ended before."""
    home, pids = flow.folder / "home", list[int]()
    while flow.process.poll() is None:
        if not RUN_ID.search(flow.output):
            time.sleep(0.02)
            continue
        pids = flow.find_tasks(kill.step)
        started = any(name == kill.step for name, _ in STARTED.findall(flow.output))
        if pids and find_newest_step(home, flow.run_id, kill.step) >= kill.share * TOTALS[kill.step]:
            break
        if started and not pids:
            return None
        time.sleep(0.01)
    else:
        return None
    pid = flow.process.pid if kill.target == "parent" else pids[0]
    wait_for_event(flow, kill, pid)
    return pid


def wait_for_event(flow: Flow, kill: Kill, pid: int) -> None:
    """Wait for the moment's own condition, or a few seconds."""
    home = flow.folder / "home"
    if kill.moment == "random":
        time.sleep(kill.delay)
        return
    journal, folder = (
        home / ".vdt" / "mlflow.db-wal",
        home / ".vdt" / "checkpoints" / "VDTFlow" / flow.run_id / kill.step,
    )
    size, deadline = (
        journal.stat().st_size if journal.exists() else 0,
        time.monotonic() + (30 if kill.moment == "uncovered" else 5),
    )
    while time.monotonic() < deadline:
        if kill.moment == "uncovered" and is_uncovered(flow, kill):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)  # else another checkpoint may come before the kill, on a busy machine
                if is_uncovered(flow, kill):
                    return
                os.kill(pid, signal.SIGCONT)
        if kill.moment == "write" and any(folder.glob("*/.*.part")):
            return
        if kill.moment == "flush" and journal.exists() and journal.stat().st_size > size:
            return
        time.sleep(0.0005)


def is_uncovered(flow: Flow, kill: Kill) -> bool:
    """Return whether MLflow has points beyond the step's newest checkpoint."""
    home = flow.folder / "home"
    return find_newest_point(home, kill.step) > find_newest_step(home, flow.run_id, kill.step)


def run_with_kills(folder: Path, kills: list[Kill], seeds: str = "0") -> Iterator[tuple[Kill, str]]:
    """Run the flow, kill it at each moment, resume it every time; return the outcome of each kill.

    A kill whose moment did not come (the step was faster) is reported as "missed" and the flow goes on to the next.
    """
    flow = Flow(folder, *make_words(seeds))
    for kill in kills:
        pid = wait_for_moment(flow, kill)
        if pid is None:
            yield kill, "missed"
            continue
        tasks = [task for step in TOTALS for task in flow.find_tasks(step)]
        at = find_newest_step(flow.folder / "home", flow.run_id, kill.step)
        try:
            os.kill(pid, kill.signal)
        except ProcessLookupError:  # the step came to its end at that moment
            yield kill, "missed"
            continue
        killed = time.monotonic()
        code = flow.wait()
        while kill.target == "parent" and any(map(is_running, tasks)):
            assert time.monotonic() - killed < 30, f"orphans of {flow.log}: {[p for p in tasks if is_running(p)]}"
            time.sleep(0.05)
        if code == 0:  # it came to its end first
            yield kill, "missed"
            return
        yield kill, f"checkpoint {at}, exit {code}, all gone after {time.monotonic() - killed:.1f} s"
        flow = Flow(folder, "resume", "--origin-run-id", flow.run_id)
    code = flow.wait()
    assert code == 0, flow.output[-6000:]


@contextlib.contextmanager
def mount_tmpfs(folder: Path, megabytes: int) -> Iterator[None]:
    """Mount a small disk of its own; skip the test without the permission."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("only root can mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def read_results(home: Path) -> dict[str, Any]:
    """Read the newest report without timings."""
    (path,) = (home / "reports").glob("[!0-9]*/report.json")
    return dict(strip_timings(json.loads(path.read_text())))


def strip_timings(value: Any) -> Any:
    """Remove measurements of the machine and random names from a report."""
    if isinstance(value, dict):
        if isinstance(value.get("curves"), dict):  # by MLflow run
            value = {**value, "curves": list(value["curves"].values())}
        return {key: strip_timings(item) for key, item in value.items() if key not in TIMINGS}
    return [strip_timings(item) for item in value] if isinstance(value, list) else value


def find_final_checkpoints(home: Path) -> dict[str, Path]:
    """Return step/cell -> the last checkpoint of the run that finished the step."""
    found: dict[str, Path] = {}
    for done in sorted(home.glob(".vdt/checkpoints/VDTFlow/*/*/*/DONE"), key=lambda path: path.stat().st_mtime):
        found["/".join(done.parts[-3:-1])] = done.parent / done.read_text().strip()
    return found


def read_curves(home: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Return MLflow run name -> metric -> (step, value), as stored; every run must be finished."""
    client = open_store(home)
    experiment = client.get_experiment_by_name("vdt")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}, [(r.info.run_id, r.info.status) for r in runs]
    return {
        run.info.run_name: {
            key: sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, key))
            for key in run.data.metrics
            if not key.startswith(COSTS)  # no two runs take the same time
        }
        for run in runs
    }


def assert_same_outcome(home: Path, undisturbed: Path) -> str:
    """Assert bitwise equal checkpoints, reports and curves; return how many of each were compared."""
    wanted, found = find_final_checkpoints(undisturbed), find_final_checkpoints(home)
    assert set(wanted) == set(found) and wanted
    for name, path in wanted.items():
        assert_identical(load_state(found[name]), load_state(path), name)
    assert read_results(home) == read_results(undisturbed)
    curves = read_curves(undisturbed)
    assert read_curves(home) == curves
    points = sum(len(points) for run in curves.values() for points in run.values())
    same = sum(found[name].read_bytes() == path.read_bytes() for name, path in wanted.items())
    return f"{len(wanted)} checkpoints equal ({same} files to the byte), report equal, {points} points equal"

"""A killed step goes on from its last checkpoint, in the same MLflow run, with curves as if nothing had happened."""

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from support.flow import ENV, LIMIT, make_variables, start_flow
from vdt.tracking import open_store

STEPS = 1200  # gradient steps of the actor
INTERVAL = 600  # between checkpoints
EVERY = 3  # 400 points per curve
OVERRIDES = (
    f"actor.gradient_steps={STEPS} actor.batch_size=128 policy.context_length=20 "
    f"checkpoint.interval_steps={INTERVAL} checkpoint.interval_seconds=10000 online.environment_steps=0"
)


def get_last_logged_step(home: Path) -> int:
    database = home / ".vdt" / "mlflow.db"
    if not database.exists():
        return 0
    with contextlib.closing(sqlite3.connect(database)) as connection:
        row = connection.execute("SELECT max(step) FROM metrics WHERE key = 'actor/total_loss'").fetchone()
    return row[0] or 0


def get_last_checkpoint(home: Path) -> int:
    found = home.glob(".vdt/checkpoints/VDTFlow/*/train_actor/*/*.pt")
    return max((int(path.name.split(".")[0]) for path in found), default=0)


def test_kill_and_resume(tmp_path: Path) -> None:
    home = tmp_path / "home"
    lines: list[str] = []
    words = ["run", "--env", ENV, "--preset", "smoke", "--source", "collected", "--set", OVERRIDES]
    with start_flow(tmp_path, *words) as flow:
        assert flow.stdout is not None
        for line in flow.stdout:
            lines.append(line)
            if found := re.search(r"train_actor/\d+ \(pid (\d+)\)\] Task is starting", line):
                kill_between_checkpoints(home, int(found[1]))
    output = "".join(lines)
    assert flow.returncode == 1, output
    checkpoint, logged = get_last_checkpoint(home), get_last_logged_step(home)
    assert 0 < checkpoint < logged < STEPS, "the kill must come after points that no checkpoint covers"

    client = open_store(home)
    experiment = client.get_experiment_by_name("vdt")
    assert experiment is not None
    (killed,) = client.search_runs([experiment.experiment_id])
    assert killed.info.status == "FAILED"

    (command,) = re.findall(r"^\s+(VDT_HOME=\S+ .* resume --origin-run-id \d+)$", output, re.MULTILINE)
    resumed = subprocess.run(
        f"env {command}",
        shell=True,
        cwd="/",
        env=make_variables(tmp_path),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert f"continuing from step {checkpoint:,}" in resumed.stdout
    started = re.findall(r"/(\w+)/\d+ \(pid \d+\)\] Task is starting", resumed.stdout)
    assert started == ["train_actor", "seed_buffer", "tune_online", "evaluate", "report", "end"]

    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == killed.info.run_id
    assert run.info.status == "FINISHED"
    curves = [key for key in run.data.metrics if key.startswith("actor/")]
    assert "actor/total_loss" in curves
    for key in curves:
        history = client.get_metric_history(run.info.run_id, key)
        assert sorted(m.step for m in history) == list(range(EVERY, STEPS + 1, EVERY)), f"hole or duplicate in {key}"
    history = client.get_metric_history(run.info.run_id, "critic/q_loss")
    assert sorted(m.step for m in history) == list(range(1, 61)), "the critic was not trained again"


def kill_between_checkpoints(home: Path, pid: int) -> None:
    """SIGKILL a step once MLflow has points beyond its newest checkpoint."""
    deadline = time.monotonic() + LIMIT
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        checkpoint = get_last_checkpoint(home)
        if checkpoint and get_last_logged_step(home) > checkpoint == get_last_checkpoint(home):
            os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.02)
    pytest.fail("the step ended before it could be killed")

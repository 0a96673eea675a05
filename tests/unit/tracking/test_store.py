"""A tracking store that is away, was left by a killed process, or was made by another MLflow."""

import contextlib
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy

from flows.hooks import on_error
from vdt.cli import run
from vdt.experiments.resolve import resolve_config
from vdt.system.home import ROOT
from vdt.system.processes import describe_process
from vdt.tracking import (
    MLflowTracker,
    Record,
    Status,
    StoreError,
    create_run,
    find_runs,
    finish_runs,
    list_flow_runs,
    make_continue_record,
    make_local_id,
    open_store,
    send_now,
    settle_abandoned,
    upgrade_store,
)
from vdt.tracking.deliver import deliver, find_local_ids
from vdt.tracking.mlflow_run import ENDED, PROCESS
from vdt.tracking.waiting import find_undelivered

CONFIG = resolve_config("walker2d-medium-v2", preset="smoke")
NOBODY = "http://127.0.0.1:9"  # the discard port: refused at once


def find_all_runs(home: Path) -> list[str]:
    client = open_store(home)
    experiment = client.get_experiment_by_name("vdt")
    assert experiment is not None
    return [run.info.run_id for run in client.search_runs([experiment.experiment_id])]


def test_a_server_that_is_never_there_loses_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two processes of one step, the first one killed after its checkpoint at 5; the second repeats 6 to 8."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run_id = create_run(home, CONFIG, "1", "run")
    assert run_id.startswith("local-")
    longest = 0.0
    for first, last in ((1, 8), (6, 20)):
        tracker = MLflowTracker(home, run_id, opening=make_continue_record("1"), interval=0.05)
        for step in range(first, last + 1):
            began = time.monotonic()
            tracker.log(step, {"critic/q_loss": float(step)})
            tracker.flush()
            longest = max(longest, time.monotonic() - began)
        tracker.close()
    assert longest < 1.0, "training waits for no store"
    assert send_now(home, run_id, [Status(status="FINISHED")]) == run_id
    (waiting,) = find_undelivered(home)
    assert deliver(home) == 1
    assert f"{waiting}: kept" in capsys.readouterr().out
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert deliver(home) == 0
    assert find_undelivered(home) == [] and deliver(home) == 0
    (found,) = find_all_runs(home)
    client = open_store(home)
    run = client.get_run(found)
    assert run.info.status == "FINISHED" and run.data.params["env"] == CONFIG.env
    points = [(m.step, m.value) for m in client.get_metric_history(found, "critic/q_loss")]
    assert sorted(points) == [(step, float(step)) for step in range(1, 21)]


def test_runs_of_killed_processes_are_settled_and_others_left_alone(home: Path) -> None:
    running, left, elsewhere = (create_run(home, CONFIG.with_seed(seed), "1", "run") for seed in range(3))
    client = open_store(home)
    code = "import os; from vdt.system.processes import describe_process; print(describe_process(os.getpid()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    client.set_tag(left, PROCESS, done.stdout.strip())
    client.set_tag(elsewhere, PROCESS, "another-host:1:0/0")
    assert settle_abandoned(home) == [left]
    assert [client.get_run(run_id).info.status for run_id in (running, left, elsewhere)] == [
        "RUNNING",
        "FAILED",
        "RUNNING",
    ]
    finish_runs(home, [running], "FINISHED")
    assert settle_abandoned(home) == []


def test_runs_on_every_page_are_found_and_settled(home: Path, gone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vdt.tracking.store.PAGE", 2)
    run_ids = {create_run(home, CONFIG.with_seed(seed), "1", "run") for seed in range(5)}
    client = open_store(home)
    for run_id in run_ids:
        client.set_tag(run_id, PROCESS, gone)
    assert set(find_runs(home, "1")) == set(find_local_ids(home).values()) == run_ids
    assert [len(flow.cells) for flow in list_flow_runs(home)] == [5]
    assert set(settle_abandoned(home)) == run_ids
    assert {client.get_run(run_id).info.status for run_id in run_ids} == {"FAILED"}


def finish_later(home: Path, run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finish a run while the store is not to be asked: its status waits."""
    with monkeypatch.context() as patch:
        patch.setenv("VDT_TRACKING", "later")
        finish_runs(home, [run_id], "FINISHED")


def test_a_run_whose_status_waits_is_left_alone(home: Path, gone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    local, client = make_local_id(), open_store(home)
    killed, finished = (create_run(home, CONFIG.with_seed(seed), "1", "run") for seed in range(2))
    named = create_run(home, CONFIG.with_seed(2), "1", "run", local_id=local)
    for run_id in (killed, finished, named):
        client.set_tag(run_id, PROCESS, gone)
    for name in (finished, local):
        finish_later(home, name, monkeypatch)
    assert settle_abandoned(home) == [killed]
    assert deliver(home) == 0
    for run_id in (finished, named):
        run = client.get_run(run_id)
        assert run.info.status == "FINISHED" and ENDED not in run.data.tags


@pytest.mark.parametrize(
    ("record", "status"), [(Status(status="FINISHED"), "FINISHED"), (make_continue_record("2"), "RUNNING")]
)
def test_what_another_process_sends_meanwhile_counts(
    home: Path, gone: str, monkeypatch: pytest.MonkeyPatch, record: Record, status: str
) -> None:
    run_id, client = create_run(home, CONFIG, "1", "run"), open_store(home)
    client.set_tag(run_id, PROCESS, gone)

    def send_and_answer(process: str) -> bool:
        send_now(home, run_id, [record])
        return process == gone

    monkeypatch.setattr("vdt.tracking.runs.is_gone", send_and_answer)  # asked after the search for running ones
    assert settle_abandoned(home) == []
    assert client.get_run(run_id).info.status == status


def test_a_step_finished_before_a_failure_is_repeated_in_a_run_of_its_own(home: Path) -> None:
    run_id = create_run(home, CONFIG, "1", "run")
    finish_runs(home, [run_id], "FAILED")
    tracker = MLflowTracker(home, run_id, opening=make_continue_record("2", repeats=True))
    tracker.log(1, {"critic/q_loss": 1.0})
    tracker.close()
    client = open_store(home)
    assert tracker.run_id != run_id
    assert client.get_run(tracker.run_id).data.tags["vdt.forked_from"] == run_id
    assert client.get_run(run_id).info.status == "FAILED" and not client.get_run(run_id).data.metrics
    later = MLflowTracker(home, tracker.run_id, opening=make_continue_record("2", repeats=True))
    later.close()
    assert later.run_id == tracker.run_id, "later steps of the same flow run stay with it"
    again = MLflowTracker(home, run_id, opening=make_continue_record("2", repeats=True))
    again.close()
    assert again.run_id == tracker.run_id, "so does the same step that was killed after it"


def make_old_database(path: Path) -> str:
    """A database as the MLflow before the newest schema made it; its schema's version."""
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base

    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    config = _get_alembic_config(str(engine.url))
    script = ScriptDirectory.from_config(config)
    (head,) = script.get_heads()
    older = str(script.get_revision(head).down_revision)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, older)
        connection.execute(sqlalchemy.text("CREATE TABLE kept (value INTEGER)"))
    engine.dispose()
    return older


def test_an_older_database_is_upgraded_and_the_old_file_kept(home: Path) -> None:
    path = home / ".vdt" / "mlflow.db"
    path.parent.mkdir(parents=True)
    older = make_old_database(path)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"older than .*`vdt db upgrade`"):
        create_run(home, CONFIG, "1", "run")
    assert path.read_bytes() == before, "MLflow itself would have changed it in place"
    assert run(["db", "upgrade"]) == 0
    run_id = create_run(home, CONFIG, "1", "run")
    assert open_store(home).get_run(run_id).info.status == "RUNNING"
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'kept'").fetchall()
    assert path.with_name(f"mlflow.db.{older}.bak").is_file()
    assert upgrade_store(home) is None, "nothing is left to do"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("UPDATE alembic_version SET version_num = 'ffffffffffff'", "has schema ffffffffffff, which MLflow"),
        ("ALTER TABLE alembic_version RENAME TO something_else", "is no MLflow database"),
        (None, "is damaged"),
    ],
)
def test_a_database_that_cannot_be_used_is_left_as_it_is(
    home: Path, damage: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = home / ".vdt" / "mlflow.db"
    path.parent.mkdir(parents=True)
    if damage is None:
        path.write_bytes(b"no database at all" * 1000)
    else:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
            connection.execute("INSERT INTO alembic_version VALUES ('0')")
            connection.execute(damage)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=message):
        create_run(home, CONFIG, "1", "run")
    assert path.read_bytes() == before
    assert find_undelivered(home) == []
    on_error(SimpleNamespace(id="17"))  # a flow that fails over it still says how to go on
    output = capsys.readouterr().out
    assert "resume --origin-run-id 17" in output and "WARNING: tracking: the store refuses" in output
    assert message in output and path.read_bytes() == before


@pytest.mark.parametrize("begun", ["", "PRAGMA journal_mode=WAL", "CREATE TABLE one (value INTEGER); DROP TABLE one"])
def test_a_database_whose_creation_was_killed_is_new(home: Path, begun: str) -> None:
    path = home / ".vdt" / "mlflow.db"
    path.parent.mkdir(parents=True)
    path.touch()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(begun)
    assert open_store(home).get_run(create_run(home, CONFIG, "1", "run")).info.status == "RUNNING"


def test_only_the_creation_leaves_writing_to_the_system(home: Path) -> None:
    client = open_store(home)
    with client._tracking_client.store.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() != 0
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_who_we_are_is_ours_alone() -> None:
    assert describe_process(1) != describe_process(2)

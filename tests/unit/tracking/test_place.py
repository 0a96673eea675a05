"""Where the store lies: addresses that are refused, homes that move, files that a group shares, pages for a browser."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vdt.experiments.resolve import resolve_config
from vdt.system.home import ROOT
from vdt.tracking import (
    MLflowTracker,
    StoreError,
    create_run,
    describe_runs_page,
    make_artifact_records,
    open_store,
)
from vdt.tracking.store import get_tracking_uri, hold_store

CONFIG = resolve_config("walker2d-medium-v2", preset="smoke")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("sqlite:///mlflow.db", r"depends on the folder .* here sqlite:////.*/mlflow\.db$"),
        ("sqlite://", "depends on the folder"),
        ("./mlruns", "is a folder, and MLflow keeps runs in databases"),
        ("file:///data/mlruns", "is a folder"),
        ("/data/mlruns", "is a folder"),
    ],
)
def test_a_store_whose_place_is_not_certain_is_refused(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, message: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(StoreError, match=message):
        create_run(home, CONFIG, "1", "run")
    assert not list(tmp_path.rglob("*.db")) and not list(tmp_path.rglob("*.jsonl"))


@pytest.mark.parametrize("name", ["what?", "my%20runs"])
def test_a_home_folder_that_no_address_can_hold_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows a question mark is read as options of the connection, and %20 as a space: the file would lie elsewhere."""
    with pytest.raises(StoreError, match=r"has [?%] in its path, .* set VDT_HOME to another folder"):
        create_run(tmp_path / name, CONFIG, "1", "run")
    assert not list(tmp_path.rglob("*.db"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert get_tracking_uri(tmp_path / name) == "http://127.0.0.1:5000"


@pytest.mark.parametrize("uri", ["http://127.0.0.1:5000", "postgresql+psycopg2://host/db", "sqlite:////data/mlflow.db"])
def test_servers_and_absolute_files_are_accepted(home: Path, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert get_tracking_uri(home) == uri


@pytest.fixture
def shared_umask() -> Iterator[None]:
    before = os.umask(0o002)
    yield
    os.umask(before)


def test_a_group_may_write_what_its_members_make(home: Path, shared_umask: None, tmp_path: Path) -> None:
    """With umask 002 each of two users may go on with the other's database; SQLite alone would make it 0644."""
    file = tmp_path / "table.md"
    file.write_text("| a |")
    run_id = create_run(home, CONFIG, "1", "run")
    connection = open_store(home)  # its companions -wal and -shm are there while it is open
    tracker = MLflowTracker(home, run_id, interval=60)
    tracker.put(*make_artifact_records([file], ""))
    tracker.flush()
    tracker.close()
    files = [path for path in (home / ".vdt").rglob("*") if path.is_file()]
    assert {"mlflow.db", "mlflow.db-wal", "mlflow.db-shm", "mlflow.lock"} <= {path.name for path in files}
    ours = [path for path in files if "mlartifacts" not in path.parts]
    assert {path.name: stat.filemode(path.stat().st_mode) for path in ours} == {
        path.name: "-rw-rw-r--" for path in ours
    }
    assert connection.get_run(run_id).info.status == "RUNNING"


def test_artifacts_follow_a_home_that_moves(home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "table.md"
    file.write_text("| a |")
    code = (  # a process of its own, as each step is: MLflow remembers where the artifacts of a run lie
        "from pathlib import Path; from vdt.tracking import create_named_run; "
        f"print(create_named_run(Path({str(home)!r}), 'run', {{}}, {{}}, '1', 'run', {{'table.md': '| a |'}}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    run_id = done.stdout.split()[-1]
    moved = tmp_path / "moved"
    home.rename(moved)
    client = open_store(moved)
    assert (moved / ".vdt" / "mlartifacts").as_uri() in caplog.text
    assert Path(client.download_artifacts(run_id, "table.md")).read_text() == "| a |"
    tracker = MLflowTracker(moved, run_id)
    tracker.put(*make_artifact_records([file], "later"))
    tracker.close()
    assert not home.exists(), "nothing goes to the old place"
    assert Path(client.download_artifacts(run_id, "later/table.md")).read_text() == "| a |"
    assert open_store(moved).get_experiment_by_name("vdt").artifact_location.startswith(moved.as_uri())


def test_the_page_of_the_runs_names_the_experiment_and_the_kind_of_list(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = describe_runs_page(home)
    experiment = open_store(home).get_experiment_by_name("vdt").experiment_id
    where = f"#/experiments/{experiment}/runs?workflowType=machine_learning"
    assert page.address == f"http://127.0.0.1:5000/{where}"
    assert page.command.endswith(" ui")


@pytest.mark.timeout(60)
def test_who_only_reads_waits_for_no_lock(home: Path) -> None:
    open_store(home)
    with hold_store(home):
        assert open_store(home, make=False).get_experiment_by_name("vdt") is not None

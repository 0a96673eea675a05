"""A store that several machines may use: SQLite on a network file system, servers with passwords."""

import contextlib
import http.server
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import vdt.system.mounts
from support.server import serve_handler
from vdt.cli import run
from vdt.experiments.resolve import resolve_config
from vdt.system.home import prepare
from vdt.tracking import (
    MLflowTracker,
    StoreError,
    create_run,
    finish_runs,
    get_tracking_uri,
    open_store,
    serve_runs,
    tell_of_undelivered,
    upgrade_store,
)

CONFIG = resolve_config("walker2d-medium-v2", preset="smoke")
SECRET = "s3cret-of-alice"


def mount(monkeypatch: pytest.MonkeyPatch, home: Path, options: str) -> None:
    table = home.parent / "mounts"
    table.write_text(f"/dev/sda1 / ext4 rw 0 0\nserver:/a {home} nfs4 {options} 0 0\n")
    monkeypatch.setattr(vdt.system.mounts, "TABLE", table)


def get_journal(home: Path) -> str:
    with contextlib.closing(sqlite3.connect(home / ".vdt" / "mlflow.db")) as connection:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def test_a_database_on_a_network_file_system_has_a_rollback_journal(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"from pathlib import Path; from vdt.tracking import open_store; open_store(Path({str(home)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert get_journal(home) == "wal"
    mount(monkeypatch, home, "rw,local_lock=none")  # as if the home had moved there
    run_id = create_run(home, CONFIG, "1", "run")
    tracker = MLflowTracker(home, run_id)
    tracker.log(1, {"critic/q_loss": 1.0})
    tracker.close()
    assert get_journal(home) == "delete"
    assert open_store(home).get_run(run_id).data.metrics == {"critic/q_loss": 1.0}
    (home / ".vdt" / "mlflow.db").unlink()
    open_store(home)
    assert get_journal(home) == "delete", "one that is made there"


def test_a_file_system_whose_locks_are_local_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mount(monkeypatch, home, "rw,nolock")
    with pytest.raises(
        StoreError, match=r"nfs4 at .*, mounted with nolock: SQLite's locks would not reach other machines"
    ):
        open_store(home)
    monkeypatch.setenv("VDT_TRACKING", "later")
    assert create_run(home, CONFIG, "1", "run").startswith("local-")


class Refusing(http.server.BaseHTTPRequestHandler):
    """Server that lets nobody in."""

    def do_GET(self) -> None:
        self.send_response(403)
        self.end_headers()

    do_POST = do_PUT = do_GET

    def log_message(self, *_: object) -> None:
        pass


def test_passwords_are_neither_printed_nor_kept(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)
    prepare()
    with serve_handler(Refusing) as address:
        for uri in (address.replace("://", f"://alice:{SECRET}@"), f"http://alice:{SECRET}@127.0.0.1:9"):
            monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
            try:
                run_id = create_run(home, CONFIG, "1", "run")
            except StoreError as error:
                print(error)
                run_id = "local-1"
            tracker = MLflowTracker(home, run_id)
            tracker.log(1, {"critic/q_loss": 1.0})
            tracker.close()
            finish_runs(home, [run_id], "FINISHED")
            tell_of_undelivered(home)
            assert run(["deliver"]) == 1
            for other in (["runs"], ["ui"], ["db", "upgrade"]):
                assert run(other) == 2
    output = capfd.readouterr()
    kept = [file.read_text(errors="replace") for file in home.rglob("*") if file.is_file()]
    assert "://***@127.0.0.1" in output.out + output.err and kept
    assert not [text for text in (output.out, output.err, caplog.text, *kept) if SECRET in text]


def test_refusals_of_an_address_hide_its_password(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"ftp://alice:{SECRET}@host/x")
    with pytest.raises(StoreError, match=r"ftp://\*\*\*@host/x") as refused:
        get_tracking_uri(home)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://alice:{SECRET}@host/x")
    with pytest.raises(StoreError, match=r"postgresql://\*\*\*@host/x lies elsewhere") as elsewhere:
        upgrade_store(home)
    assert SECRET not in f"{refused.value}{elsewhere.value}"


def test_the_address_of_a_store_is_no_word_of_a_command(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other users of a machine see the words of a command."""
    started: list[str] = []
    monkeypatch.setattr("os.execv", lambda program, words: started.extend(words))
    monkeypatch.setattr("os.environ", dict(os.environ))
    os.environ["MLFLOW_TRACKING_URI"] = uri = f"postgresql://alice:{SECRET}@host/x"
    serve_runs(home)
    assert started and not [word for word in started if SECRET in word]
    assert os.environ["MLFLOW_BACKEND_STORE_URI"] == uri

"""SQLite file of a home folder: made whole, checked before MLflow opens it, upgraded on a copy."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vdt.system.files import atomic_write, make_new_file
from vdt.system.mounts import find_mount
from vdt.tracking.errors import StoreError

logger = logging.getLogger(__name__)

MIGRATIONS = "store/db_migrations"  # of the package mlflow: its database's versions, read by alembic
OTHERWISE = "move it away, or set MLFLOW_TRACKING_URI"
ADDRESSES = {  # columns that hold absolute addresses of artifacts
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}


def is_new(path: Path) -> bool:
    """Return whether a database is still to be made; a killed process leaves an empty file behind."""
    return not path.exists() or _query(path, "SELECT count(*) FROM sqlite_master") == "0"


def create_database(path: Path) -> None:
    """Create MLflow's tables in a file beside, set its journal, and move the file into place whole.

    MLflow would make them in place without a lock, and a killed process would leave tables of no known version.
    """
    from mlflow import MlflowClient

    with _make_beside(path) as fresh:
        with _write_without_waiting():
            MlflowClient(f"sqlite:///{fresh}").search_experiments(max_results=1)
        set_journal(fresh, path)
        with atomic_write(path) as file:
            file.write(fresh.read_bytes())


def check_schema(path: Path) -> None:
    """Check that a database has the schema of the installed MLflow, which would otherwise change it in place.

    Raises:
        StoreError: saying whether `vdt db upgrade` helps.
    """
    import mlflow

    found = _read_schema_version(path)
    if found == _read_migrations().get_current_head():
        return
    if found in _list_known_versions():
        raise StoreError(
            f"{path} was made by an MLflow older than {mlflow.__version__} (schema {found}); `vdt db upgrade` brings it "
            "up to date and keeps a copy of the old file"
        )
    raise StoreError(
        f"{path} has schema {found}, which MLflow {mlflow.__version__} does not know; use the MLflow that wrote it, {OTHERWISE}"
    )


def upgrade_database(path: Path) -> Path | None:
    """Run `mlflow db upgrade` on a copy; only when that went well does it take the place of the old file, which is kept.

    Returns:
        Where the old file is kept; none if nothing was to be done.

    Raises:
        StoreError: if MLflow cannot upgrade it; the file is then left as it was.
        sqlite3.OperationalError: if another process uses it.
    """
    found = _read_schema_version(path)
    if found == _read_migrations().get_current_head():
        return None
    kept = path.with_name(f"{path.name}.{found or 'unknown'}.bak")
    with _make_beside(path) as copy:
        with contextlib.closing(sqlite3.connect(path)) as old, contextlib.closing(sqlite3.connect(copy)) as new:
            if old.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                raise sqlite3.OperationalError(f"{path} is locked by another process and cannot be upgraded now")
            old.backup(new)
        words = [sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{copy}"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise StoreError(f"`mlflow db upgrade` failed ({reason}); {path} is left as it was: {OTHERWISE}")
        set_journal(copy, path)
        os.replace(path, kept)
        os.replace(copy, path)
    return kept


def follow_moved_folder(path: Path, old: str, new: str) -> None:
    """Correct the artifact addresses in the database of a moved home folder.

    Addresses of artifacts outside the home folder, or still only at the old place, are not changed.

    Args:
        path: the database.
        old: file address of the artifacts in the database.
        new: file address below the home folder.
    """
    there = _is_folder(new)
    if old == new or not old.endswith("/.vdt/mlartifacts") or (_is_folder(old) and not there):
        return
    with contextlib.closing(sqlite3.connect(path, timeout=20)) as connection, connection:
        for table, column in ADDRESSES.items():
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
            )
    logger.info(f"tracking: the home folder was moved; artifacts are looked for in {new}, no longer in {old}")


def _is_folder(address: str) -> bool:
    from urllib.parse import unquote, urlparse

    return Path(unquote(urlparse(address).path)).is_dir()


@contextlib.contextmanager
def _write_without_waiting() -> Iterator[None]:
    """Disable syncing of SQLite's files: hundreds of changes to a new file need not reach the disk one by one."""
    from sqlalchemy import event
    from sqlalchemy.pool import Pool

    def relax(connection: Any, _: object) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(Pool, "connect", relax)
    try:
        yield
    finally:
        event.remove(Pool, "connect", relax)


@contextlib.contextmanager
def _make_beside(path: Path) -> Iterator[Path]:
    """Create an empty file beside `path` with the permissions of the umask; SQLite copies them to its companions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".mlflow-") as folder:
        file = Path(folder) / path.name
        os.close(make_new_file(file))
        yield file


def check_file_system(path: Path) -> None:
    """Check that SQLite's locks on a file reach the other machines that may use it.

    Raises:
        StoreError: naming the mount's option that keeps them to this machine.
    """
    mount = find_mount(path)
    if mount.local_lock:
        raise StoreError(
            f"{path} lies on {mount}, mounted with {mount.local_lock}: SQLite's locks would not reach other machines, and two "
            f"that write would damage it. Set VDT_TRACKING=later, or MLFLOW_TRACKING_URI to a server"
        )


def set_journal(path: Path, place: Path) -> None:
    """Set the journal of a database that is, or will be, at `place`.

    On a network file system it is a rollback journal (`DELETE`): a write-ahead log is shared in memory, which machines
    do not share (https://sqlite.org/wal.html).

    Raises:
        sqlite3.OperationalError: if another process uses it.
    """
    mode = "DELETE" if find_mount(place).is_network else "WAL"
    with contextlib.closing(sqlite3.connect(path, timeout=20)) as connection:
        (found,) = connection.execute(f"PRAGMA journal_mode={mode}").fetchone()
    if found != mode.lower():
        raise sqlite3.OperationalError(f"{path} is locked by another process and cannot get another journal now")


def leave_write_ahead_log(path: Path) -> None:
    """Set the journal of a database that was made elsewhere and is on a network file system now; see `set_journal`."""
    if find_mount(path).is_network and _has_write_ahead_log(path):
        set_journal(path, path)


def _has_write_ahead_log(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(20)[18:] == b"\x02\x02"  # versions to write and to read it: SQLite's file format, 1.3.3


def _read_migrations() -> Any:
    """Return alembic's view of the database versions that the installed MLflow knows."""
    import mlflow
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(Path(mlflow.__file__).parent / MIGRATIONS))


def _list_known_versions() -> set[str]:
    return {script.revision for script in _read_migrations().walk_revisions()}


def _read_schema_version(path: Path) -> str:
    return _query(path, "SELECT version_num FROM alembic_version")


def _query(path: Path, sql: str) -> str:
    """Return the first value that is found, or an empty string."""
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            row = connection.execute(sql).fetchone()
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise
        if not os.access(path, os.R_OK | os.W_OK):
            raise StoreError(f"{path} cannot be read and written by this user ({error}); {OTHERWISE}") from None
        raise StoreError(f"{path} is no MLflow database ({error}); {OTHERWISE}") from None
    except sqlite3.DatabaseError as error:
        raise StoreError(f"{path} is damaged ({error}); {OTHERWISE}") from None
    return str(row[0]) if row else ""

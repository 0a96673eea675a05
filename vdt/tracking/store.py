"""The tracking store itself: found or created, brought to this MLflow's version, and never harmed."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdt.system.files import atomic_write
from vdt.system.locks import hold_lock

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "vdt"
PATIENCE = {  # our own retries take over where MLflow's would keep a caller for minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


class StoreError(ValueError):
    """The tracking store is there and cannot be used as it is; waiting does not help."""


def get_store_errors() -> tuple[type[Exception], ...]:
    """What a store raises that is away, locked, full or slow."""
    import sqlalchemy.exc
    from mlflow.exceptions import MlflowException

    return (MlflowException, sqlalchemy.exc.SQLAlchemyError, sqlite3.Error, OSError)


def open_store(base: Path) -> MlflowClient:
    """A client of `MLFLOW_TRACKING_URI`, or of the SQLite store of a home folder, created if it is not there.

    Raises:
        StoreError: if the store was made by a newer MLflow, or cannot be brought to this one's version.
    """
    folder = base / ".vdt"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
    with hold_store(base):  # processes that race on a fresh database break it
        if uri.startswith("sqlite:////"):
            _prepare_database(Path(uri.removeprefix("sqlite:///")), folder / "mlartifacts")
        from mlflow import MlflowClient

        client = MlflowClient(uri)
        if client.get_experiment_by_name(EXPERIMENT) is None:
            artifacts = (folder / "mlartifacts").as_uri() if uri.startswith("sqlite:") else None
            client.create_experiment(EXPERIMENT, artifacts)
    return client


def get_experiment_id(client: MlflowClient) -> str:
    """Id of the experiment that `open_store` makes."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return str(experiment.experiment_id)


def hold_store(base: Path) -> contextlib.AbstractContextManager[None]:
    """The lock of a home folder's store."""
    return hold_lock(base / ".vdt" / "mlflow.lock", "the tracking store")


def _prepare_database(path: Path, artifacts: Path) -> None:
    if not path.exists() or _is_empty(path):
        _create_database(path, artifacts)
        return
    from mlflow.store.db.utils import _get_latest_schema_revision

    found, wanted = _read_schema_version(path), _get_latest_schema_revision()
    if found != wanted:
        _upgrade_database(path, found)


def _create_database(path: Path, artifacts: Path) -> None:
    """Create all tables in a file beside, in write-ahead mode, and move it into place whole."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with _make_beside(path) as fresh:
        with _write_without_waiting():
            SqlAlchemyStore(f"sqlite:///{fresh}", artifacts.as_uri()).engine.dispose()
        _set_write_ahead(fresh)
        with atomic_write(path) as file:
            file.write(fresh.read_bytes())


@contextlib.contextmanager
def _write_without_waiting() -> Iterator[None]:
    """SQLite leaves its files to the system's cache: hundreds of changes to a file that nobody has need not be on disk each."""
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
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".mlflow-") as folder:
        yield Path(folder) / path.name


def _set_write_ahead(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def _is_empty(path: Path) -> bool:
    """Whether nothing was ever put there: whoever began to create it was killed before the first table."""
    return _query(path, "SELECT count(*) FROM sqlite_master") == "0"


def _read_schema_version(path: Path) -> str:
    return _query(path, "SELECT version_num FROM alembic_version")


def _query(path: Path, sql: str) -> str:
    """The first value that is found, or an empty string."""
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            row = connection.execute(sql).fetchone()
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise
        raise StoreError(f"{path} is no MLflow database ({error}); move it away, or set MLFLOW_TRACKING_URI") from None
    except sqlite3.DatabaseError as error:
        raise StoreError(f"{path} is damaged ({error}); move it away, or set MLFLOW_TRACKING_URI") from None
    return str(row[0]) if row else ""


def _upgrade_database(path: Path, found: str) -> None:
    """Upgrade a copy; only when that went well does it take the place of the old file, which is kept."""
    import mlflow
    import sqlalchemy
    from alembic.util import CommandError
    from mlflow.store.db.utils import _upgrade_db

    kept = path.with_name(f"{path.name}.{found or 'unknown'}.bak")
    with _make_beside(path) as copy:
        with contextlib.closing(sqlite3.connect(path)) as old, contextlib.closing(sqlite3.connect(copy)) as new:
            if old.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                raise sqlite3.OperationalError(f"{path} is locked by another process and cannot be upgraded now")
            old.backup(new)
        engine = sqlalchemy.create_engine(f"sqlite:///{copy}")
        try:
            _upgrade_db(engine)
        except (CommandError, sqlalchemy.exc.SQLAlchemyError) as error:
            reason = str(error).splitlines()[0]
            raise StoreError(
                f"{path} has schema {found}, which MLflow {mlflow.__version__} cannot upgrade ({reason}); it is left as "
                "it was. Use the MLflow that wrote it, move the file away, or set MLFLOW_TRACKING_URI"
            ) from None
        finally:
            engine.dispose()
        _set_write_ahead(copy)
        os.replace(path, kept)
        os.replace(copy, path)
    print(
        f"tracking: {path} was upgraded for MLflow {mlflow.__version__}; the old file is kept as {kept.name}",
        flush=True,
    )

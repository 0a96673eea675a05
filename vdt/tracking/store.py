"""Tracking store: its address, its creation where it is missing, and the refusal of one that cannot be used."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vdt.system.locks import hold_lock
from vdt.tracking.database import (
    check_file_system,
    check_schema,
    create_database,
    follow_moved_folder,
    is_new,
    leave_write_ahead_log,
    upgrade_database,
)
from vdt.tracking.errors import StoreError, hide_password

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

EXPERIMENT = "vdt"
PAGE = 1000  # runs per request
PATIENCE = {  # this package's retries replace MLflow's, which would block a caller for minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
SERVERS = ("http", "https", "databricks", "postgresql", "mysql", "mssql")
SQLITE = "sqlite:///"


def get_tracking_uri(base: Path) -> str:
    """Return `MLFLOW_TRACKING_URI`, or the address of the SQLite database of a home folder.

    Raises:
        StoreError: if the variable names a folder, or a file whose place depends on where a program starts; without it, if
            the home folder's path cannot stand in a database's address.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        if odd := sorted(set("?%").intersection(str(base))):
            raise StoreError(
                f"the folder {base} has {' and '.join(odd)} in its path, which the address of an SQLite database cannot "
                "hold; set VDT_HOME to another folder, or MLFLOW_TRACKING_URI to a server"
            )
        return f"{SQLITE}{base / '.vdt' / 'mlflow.db'}"
    scheme, _, rest = uri.partition(":")
    shown = hide_password(uri)
    accepted = f"{SQLITE}/FOLDER/mlflow.db with an absolute path, or the address of a server"
    if scheme == "sqlite":
        if not rest.startswith("////"):
            absolute = f"{SQLITE}{Path(rest.lstrip('/') or 'mlflow.db').resolve()}"
            raise StoreError(
                f"MLFLOW_TRACKING_URI={shown} depends on the folder that a program starts in; accepted are {accepted}, "
                f"here {absolute}"
            )
    elif scheme.split("+")[0] not in SERVERS:
        raise StoreError(
            f"MLFLOW_TRACKING_URI={shown} is a folder, and MLflow keeps runs in databases; accepted are {accepted}. "
            "Unset it for a database below VDT_HOME"
        )
    return uri


def has_store(base: Path) -> bool:
    """Return whether there is a store to open: its database was made, or it is a server's."""
    uri = get_tracking_uri(base)
    return not uri.startswith(SQLITE) or Path(uri.removeprefix(SQLITE)).is_file()


def open_store(base: Path, *, make: bool = True) -> MlflowClient:
    """Return a client of the store (`get_tracking_uri`), made if it is not there.

    Args:
        base: the home folder.
        make: whether to make a database that is not there.

    Raises:
        StoreError: if the address is not accepted, the database was made by another MLflow or is none, its file system
            keeps locks to this machine, or the experiment was deleted; if the database is not there and must not be made.
    """
    uri, folder = get_tracking_uri(base), base / ".vdt"
    if not make and not has_store(base):
        raise StoreError(f"there is no tracking store {uri}; VDT_HOME or MLFLOW_TRACKING_URI says where one is")
    for name in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient  # before the lock: seconds on a busy machine

    # MLflow makes tables and experiments without a lock: processes that race break them. Who only reads waits for none.
    with hold_store(base) if make else contextlib.nullcontext():
        if uri.startswith(SQLITE):
            _prepare(Path(uri.removeprefix(SQLITE)), make=make)
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        artifacts = (folder / "mlartifacts").as_uri()
        if experiment is not None:
            _check_experiment(experiment)
            if uri == f"{SQLITE}{folder / 'mlflow.db'}":
                follow_moved_folder(folder / "mlflow.db", experiment.artifact_location, artifacts)
        elif make:
            client.create_experiment(EXPERIMENT, artifacts if uri.startswith(SQLITE) else None)
    return client


def upgrade_store(base: Path) -> Path | None:
    """Upgrade the database of a home folder, see `upgrade_database`.

    Raises:
        StoreError: if there is none, or the store lies elsewhere.
    """
    uri, path = get_tracking_uri(base), base / ".vdt" / "mlflow.db"
    if uri != f"{SQLITE}{path}":
        raise StoreError(f"MLFLOW_TRACKING_URI={hide_password(uri)} lies elsewhere; `mlflow db upgrade` works on it")
    if not path.exists():
        raise StoreError(f"there is no database {path}; the first run makes it")
    with hold_store(base):
        return upgrade_database(path)


def _prepare(database: Path, *, make: bool) -> None:
    check_file_system(database)
    if make and is_new(database):
        create_database(database)
    else:
        check_schema(database)
        leave_write_ahead_log(database)


def _check_experiment(experiment: Experiment) -> None:
    if experiment.lifecycle_stage == "deleted":
        raise StoreError(
            f"the MLflow experiment {EXPERIMENT} was deleted; bring it back with `mlflow experiments restore "
            f"--experiment-id {experiment.experiment_id}` (MLFLOW_TRACKING_URI set), or remove it for good with `mlflow gc`"
        )


def get_experiment_id(client: MlflowClient) -> str:
    """Return the id of the experiment that `open_store` makes."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return str(experiment.experiment_id)


def search_runs(client: MlflowClient, condition: str = "") -> Iterator[Run]:
    """Yield the runs of the experiment that meet a condition, in as many requests as it takes.

    Make a list of them before changing what the condition asks for: a page begins at a number, and runs would be left out.
    """
    experiment, token = get_experiment_id(client), None
    while True:
        page = client.search_runs([experiment], condition, max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def hold_store(base: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the lock of a home folder's store."""
    return hold_lock(base / ".vdt" / "mlflow.lock", "the tracking store")

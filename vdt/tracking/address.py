"""Address of MLflow's list of runs, and the command that serves it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from vdt.system.home import make_vdt_command
from vdt.tracking.errors import hide_password
from vdt.tracking.store import get_experiment_id, get_tracking_uri, open_store

HOST, PORT = "127.0.0.1", 5000
ONE_WORKER = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # else eight processes more, of which some outlive it
BACKEND = "MLFLOW_BACKEND_STORE_URI"  # MLflow's variable: address of the store that its server serves
NO_LIFESPAN = [
    "--uvicorn-opts",
    "--lifespan off",
]  # only tidies up after MLflow's assistant; Ctrl-C ends in its traceback
RUNS = "#/experiments/{}/runs?workflowType=machine_learning"  # without the type MLflow opens its page for chat traces


@dataclass(frozen=True)
class RunsPage:
    """Page of the runs in MLflow.

    Attributes:
        address: for a browser.
        command: serves the address, for a shell; empty where `MLFLOW_TRACKING_URI` is a server's.
    """

    address: str
    command: str


def describe_runs_page(base: Path, port: int = PORT) -> RunsPage:
    """Return the page that lists the runs of the store.

    Args:
        base: the home folder.
        port: of the address, where it is served on this machine.

    Raises:
        StoreError: if the store cannot be used.
        Exception: of `get_store_errors`, if it does not answer.
    """
    page, uri = RUNS.format(get_experiment_id(open_store(base))), get_tracking_uri(base)
    if uri.startswith(("http:", "https:")):
        return RunsPage(f"{hide_password(uri).rstrip('/')}/{page}", "")
    return RunsPage(f"http://{HOST}:{port}/{page}", make_vdt_command("ui"))


def serve_runs(base: Path, port: int = PORT) -> None:
    """Replace this process by MLflow's server of a home folder's store, with one worker.

    The store's address goes to it as an environment variable: other users of the machine see the words of a command.
    """
    where = ["--workers", "1", "--host", HOST, "--port", str(port), *NO_LIFESPAN]
    os.environ.update({**ONE_WORKER, BACKEND: get_tracking_uri(base)})
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", *where])

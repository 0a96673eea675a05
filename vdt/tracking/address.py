"""Where a person finds the runs: the address of MLflow's list, and the command that serves it."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from vdt.tracking.store import get_experiment_id, get_tracking_uri, open_store

HOST, PORT = "127.0.0.1", 5000
ONE_WORKER = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # else eight processes more, of which some outlive it
RUNS = "#/experiments/{}/runs?workflowType=machine_learning"  # without the type MLflow opens its page for chat traces


@dataclass(frozen=True)
class RunsPage:
    """MLflow's list of our runs.

    Attributes:
        address: for a browser.
        command: what serves the address, for a shell; empty where `MLFLOW_TRACKING_URI` is a server's.
    """

    address: str
    command: str


def make_server_command(base: Path, port: int = PORT) -> list[str]:
    """Return the words that serve a home folder's store; they want `ONE_WORKER` in the environment."""
    here, mlflow = Path.cwd(), Path(sys.executable).with_name("mlflow")
    program = str(mlflow.relative_to(here)) if mlflow.is_relative_to(here) else str(mlflow)
    where = ["--workers", "1", "--host", HOST, "--port", str(port)]
    return [program, "server", *where, "--backend-store-uri", get_tracking_uri(base)]


def describe_runs_page(base: Path) -> RunsPage:
    """Return where the runs of the store are listed.

    Args:
        base: the home folder.

    Raises:
        StoreError: if the store cannot be used.
        Exception: of `get_store_errors`, if it does not answer.
    """
    page, uri = RUNS.format(get_experiment_id(open_store(base))), get_tracking_uri(base)
    if uri.startswith(("http:", "https:")):
        return RunsPage(f"{uri.rstrip('/')}/{page}", "")
    variables = [f"{name}={value}" for name, value in ONE_WORKER.items()]
    return RunsPage(f"http://{HOST}:{PORT}/{page}", " ".join([*variables, shlex.join(make_server_command(base))]))

"""A real tracking store, and a process that has ended."""

import os
from pathlib import Path

import pytest
from mlflow import MlflowClient

from vdt.system.processes import describe_process
from vdt.tracking.store import open_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One real store for the module: making its tables takes a second."""
    folder = tmp_path_factory.mktemp("store")
    open_store(folder)
    return folder


@pytest.fixture
def client(store: Path) -> MlflowClient:
    return open_store(store)


@pytest.fixture
def gone() -> str:
    """A process with this one's id and another start: it has ended."""
    host, pid, start = describe_process(os.getpid()).rsplit(":", 2)
    return f"{host}:{pid}:{start}0"

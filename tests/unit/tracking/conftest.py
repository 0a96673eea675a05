"""A real tracking store."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

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

"""Trained policies in MLflow: the models of a run, and models by id, version and alias. Nothing is made or changed."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from vdt.tracking.store import get_tracking_uri, open_store

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

CONFIG_FILE = "config.yaml"  # of a run


@dataclass(frozen=True)
class StoredModel:
    """Model that MLflow keeps.

    Attributes:
        name: of the logged model.
        location: address of its files.
        run_id: of the run that made it, empty where there is none.
        sha256: of its checkpoint, empty where it is not tagged.
        created: milliseconds since 1970.
    """

    name: str
    location: str
    run_id: str
    sha256: str
    created: int


@dataclass(frozen=True)
class StoredRun:
    """Run with what is said of its policies.

    Attributes:
        run_id: MLflow's.
        location: address of its files.
        tags: by name.
        metrics: last value by name.
    """

    run_id: str
    location: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]


class PolicyStore:
    """Reader of the tracking store of a home folder."""

    def __init__(self, base: Path) -> None:
        """Open the store that is there.

        Raises:
            StoreError: if there is none, or it cannot be used.
        """
        self.uri = get_tracking_uri(base)
        self._client = open_store(base, make=False)

    def find_run(self, run_id: str) -> StoredRun:
        """Return a run; raises one of `get_store_errors` if it is not there."""
        run = self._client.get_run(run_id)
        return StoredRun(run.info.run_id, run.info.artifact_uri, run.data.tags, run.data.metrics)

    def list_models(self, run_id: str) -> list[StoredModel]:
        """Return the ready models of a run, newest first."""
        experiment = self._client.get_run(run_id).info.experiment_id
        where = f"source_run_id = '{run_id}'"
        found = [
            _describe(model) for model in self._client.search_logged_models([experiment], where) if _is_ready(model)
        ]
        return sorted(found, key=lambda model: model.created, reverse=True)

    def find_model(self, model_id: str) -> StoredModel:
        """Return a model by its id, `m-…`; raises one of `get_store_errors` if it is not there."""
        return _describe(self._client.get_logged_model(model_id))

    def find_version(self, name: str, version: str) -> StoredModel:
        """Return a version of a registered model; raises as `find_model`."""
        return self._resolve(self._client.get_model_version(name, version))

    def find_alias(self, name: str, alias: str) -> StoredModel:
        """Return the version of a registered model that has an alias; raises as `find_model`."""
        return self._resolve(self._client.get_model_version_by_alias(name, alias))

    def _resolve(self, version: ModelVersion) -> StoredModel:
        """Return the logged model of a version, or the files that it was registered from."""
        if version.model_id:
            return self.find_model(str(version.model_id))
        location, run_id = self._client.get_model_version_download_uri(version.name, version.version), version.run_id
        plain = StoredModel("", location, str(run_id or ""), "", int(version.creation_timestamp))
        models = self.list_models(run_id) if run_id else []
        return next((model for model in models if model.location == location), plain)

    @contextlib.contextmanager
    def fetch(self, location: str) -> Iterator[Path]:
        """Yield the files at an address: in their place on this disk, else a copy that lasts as long as the block."""
        from mlflow.artifacts import download_artifacts

        with contextlib.ExitStack() as stack:
            here = urlparse(location).scheme in ("", "file")
            target = None if here else stack.enter_context(tempfile.TemporaryDirectory())
            yield Path(download_artifacts(artifact_uri=location, dst_path=target, tracking_uri=self.uri))

    def read_config(self, run: StoredRun) -> str | None:
        """Return the text of a run's configuration; none if it has none."""
        files = {file.path for file in self._client.list_artifacts(run.run_id)}
        if CONFIG_FILE not in files:
            return None
        with self.fetch(f"{run.location}/{CONFIG_FILE}") as path:
            return path.read_text(encoding="utf-8")


def _describe(model: LoggedModel) -> StoredModel:
    return StoredModel(
        str(model.name),
        str(model.artifact_location),
        str(model.source_run_id or ""),
        str((model.tags or {}).get("sha256", "")),
        int(model.creation_timestamp),
    )


def _is_ready(model: LoggedModel) -> bool:
    return str(model.status) == "READY"

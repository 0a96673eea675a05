"""Logged models of a run: a file, with the texts that MLflow needs to load it. Keeping one again changes nothing."""

from __future__ import annotations

import logging
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vdt.tracking.records import Checkpoint
from vdt.tracking.store import get_experiment_id

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

logger = logging.getLogger(__name__)

FACTS = (
    "env",
    "scored_in",
    "method",
    "patch",
    "preset",
    "seed",
    "data_md5",
    "data_source",
)  # tags of a run that its models have, too
SCORE_METRIC = "score_metric"  # tag of a model: the name of the metric that is its score
DESCRIPTION = "MLmodel"  # file by which MLflow knows a model


class ModelKeeper:
    """Keeper of one run's models."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        """Bind to a run of an open store."""
        self._client, self._run_id = client, run_id

    def keep(self, record: Checkpoint) -> str | None:
        """Keep a checkpoint's file, unless that was done before; return the model's id, none where the file is gone."""
        model = self._find(record)
        if model is None or str(model.status) != "READY":
            if not Path(record.path).is_file():
                logger.warning(f"tracking: {record.path} is gone; there is no model {record.name}")
                return None
            model = self._make(record, model)
        return str(model.model_id)

    def _find(self, record: Checkpoint) -> LoggedModel | None:
        """Return the run's model of the same file; one that MLflow can load has the record's name, too."""
        where = f"source_run_id = '{self._run_id}' AND tags.sha256 = '{record.sha256}'"
        where += f" AND name = '{record.name}'" if record.texts else ""
        found = self._client.search_logged_models([get_experiment_id(self._client)], where)
        return found[0] if found else None

    def _make(self, record: Checkpoint, begun: LoggedModel | None) -> LoggedModel:
        """Make a model or complete one whose making was cut short; a ready one has its files and is linked to the run."""
        from mlflow.entities import LoggedModelOutput

        client, run = self._client, self._client.get_run(self._run_id)
        known = {name: run.data.tags[name] for name in FACTS if run.data.tags.get(name)}
        tags = {**known, "path": record.path, "sha256": record.sha256, "step": str(record.step)}
        model = begun or client.create_logged_model(run.info.experiment_id, record.name, self._run_id, tags=tags)
        self._upload(record, model)
        outputs = run.outputs.model_outputs if run.outputs else []
        if model.model_id not in {output.model_id for output in outputs}:
            client.log_outputs(self._run_id, [LoggedModelOutput(model.model_id, record.step)])
        return client.finalize_logged_model(model.model_id, "READY")

    def _upload(self, record: Checkpoint, model: LoggedModel) -> None:
        """Copy the file, and the texts beside it, into the store."""
        if not record.texts:
            self._client.log_model_artifact(model.model_id, record.path)
            return
        with tempfile.TemporaryDirectory() as temporary:
            _write_with_ids(record, Path(temporary), model)
            place = Path(temporary, record.place)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(record.path, place)
            self._client.log_model_artifacts(model.model_id, temporary)


def write_texts(texts: Mapping[str, str], folder: Path) -> None:
    """Write the texts of a model, by place in its folder."""
    for place, text in texts.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(text)


def _write_with_ids(record: Checkpoint, folder: Path, model: LoggedModel) -> None:
    """Write a model's texts with its ids, which only the store gives."""
    from mlflow.models import Model

    write_texts(record.texts, folder)
    described = Model.load(folder)
    described.model_id, described.run_id, described.model_uuid = model.model_id, model.source_run_id, uuid.uuid4().hex
    described.save(str(folder / DESCRIPTION))

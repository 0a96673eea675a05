"""Brings records into an MLflow run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdt.tracking.delivery import Record

if TYPE_CHECKING:
    from mlflow import MlflowClient


class RunSender:
    """Brings records into an MLflow run. Repeating a record changes nothing."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        """Bind to a run."""
        self.client, self.run_id = client, run_id
        self.experiment_id = client.get_run(run_id).info.experiment_id

    def __call__(self, records: Sequence[Record]) -> None:
        """Send records in their order, metrics between two other records in as few calls as possible."""
        from mlflow.entities import Metric

        points: list[Metric] = []
        for record in records:
            if record["kind"] == "metrics":
                points += [
                    Metric(key, value, record["time"], record["step"]) for key, value in record["metrics"].items()
                ]
                continue
            self._send_metrics(points)
            points = []
            if record["kind"] == "checkpoint":
                self._send_checkpoint(record)
            elif Path(record["path"]).exists():
                self.client.log_artifact(self.run_id, record["path"], record["folder"] or None)
            else:
                print(f"warning: tracking: {record['path']} is gone and cannot be logged", flush=True)
        self._send_metrics(points)

    def _send_metrics(self, points: Sequence[Any]) -> None:
        for start in range(0, len(points), 1000):  # MLflow's limit
            self.client.log_batch(self.run_id, metrics=points[start : start + 1000])

    def _send_checkpoint(self, record: Record) -> None:
        from mlflow.entities import Metric

        path, tags = Path(record["path"]), {key: str(record[key]) for key in ("path", "sha256", "step")}
        where = f"name = '{record['name']}' AND source_run_id = '{self.run_id}'"
        known = self.client.search_logged_models([self.experiment_id], where)
        if known and known[0].tags.get("sha256") == record["sha256"] and str(known[0].status) == "READY":
            return
        model = known[0] if known else self.client.create_logged_model(self.experiment_id, record["name"], self.run_id)
        self.client.set_logged_model_tags(model.model_id, tags)
        if is_final(path):
            self.client.log_model_artifact(model.model_id, str(path))
        metrics = record["metrics"].items()
        self._send_metrics(
            [Metric(f"checkpoint/{k}", v, record["time"], record["step"], model_id=model.model_id) for k, v in metrics]
        )
        self.client.finalize_logged_model(model.model_id, "READY")  # last: what is ready is complete


def is_final(path: Path) -> bool:
    """Whether a checkpoint is the last of a finished training step (named by the DONE file beside it)."""
    marker = path.parent / "DONE"
    return path.exists() and marker.exists() and marker.read_text().strip() == path.name

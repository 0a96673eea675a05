"""Brings records into an MLflow run. Repeating a record changes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vdt.tracking.errors import StoreError
from vdt.tracking.outbox import Record
from vdt.tracking.store import get_experiment_id, hold_store, open_store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

FLOW_RUN = "metaflow.run_id"  # tag: the newest flow run that writes to this run
PROCESS = "vdt.process"  # tag: its main process
FORKED_FROM = "vdt.forked_from"  # tag: the run whose finished step was run again
STUDY = "study"  # tag: names of the studies that a run belongs to, with commas
LOCAL_ID = "vdt.local_id"  # tag: what the run is called until the store knows it
LOCAL = "local-"  # how such an id begins
PARAMS_PER_CALL = 100  # MLflow's limits
METRICS_PER_CALL = 1000


class RunSender:
    """Sends the records of one run in their order; opens the store when there is something to send.

    A metric's point is sent only if its step is beyond the metric's last one in the store: a step that goes on from its
    last checkpoint computes some points a second time, and a record may be sent again after a failure. Steps of one metric
    must therefore not start over within a run.

    Attributes:
        run_id: where records go. A local id becomes MLflow's, and a repeat of a finished step gets a run of its own.
        left_out: points that were in the store already.
    """

    def __init__(self, base: Path, run_id: str) -> None:
        """Bind to a run of a home folder's store."""
        self.base, self.run_id, self.left_out = base, run_id, 0
        self._opened: MlflowClient | None = None
        self._last: dict[str, int] | None = None  # last step of each metric in the store

    def __call__(self, records: Sequence[Record]) -> None:
        """Send records, metrics between two other records in as few calls as possible."""
        try:
            points: list[Metric] = []
            for record in records:
                if record["kind"] == "metrics":
                    points += self._select(record)
                    continue
                self._send_metrics(points)
                points = []
                getattr(self, f"_send_{record['kind']}")(record)
            self._send_metrics(points)
        except Exception:
            self._last = None  # some may have arrived
            raise

    @property
    def client(self) -> MlflowClient:
        """Of the store, opened now if it was not."""
        if self._opened is None:
            self._opened = open_store(self.base)
        return self._opened

    def _known_run(self) -> str:
        """MLflow's id of the run."""
        if self.run_id.startswith(LOCAL):
            found = self._find(f"tags.`{LOCAL_ID}` = '{self.run_id}'")
            if found is None:
                raise StoreError(f"run {self.run_id} is not in the store; its records are in another folder")
            self.run_id = found
        return self.run_id

    def _find(self, condition: str) -> str | None:
        found = self.client.search_runs([get_experiment_id(self.client)], condition, max_results=1)
        return str(found[0].info.run_id) if found else None

    def _select(self, record: Record) -> list[Metric]:
        from mlflow.entities import Metric

        if self._last is None:
            known = self.client.get_run(self._known_run()).data.to_proto().metrics
            self._last = {metric.key: metric.step for metric in known}
        step = record["step"]
        fresh: list[Metric] = []
        for key, value in record["metrics"].items():
            if step > self._last.get(key, -1):
                fresh.append(Metric(key, value, record["time"], step))
                self._last[key] = step
        self.left_out += len(record["metrics"]) - len(fresh)
        return fresh

    def _send_metrics(self, points: Sequence[Metric]) -> None:
        for start in range(0, len(points), METRICS_PER_CALL):
            self.client.log_batch(self._known_run(), metrics=points[start : start + METRICS_PER_CALL])

    def _send_create(self, record: Record) -> None:
        """Make the run with its parameters and files, or complete one whose making was cut short."""
        tags = {**record["tags"], LOCAL_ID: self.run_id}
        if self.run_id.startswith(LOCAL):
            known = self._find(f"tags.`{LOCAL_ID}` = '{self.run_id}'")
            self.run_id = known or self._create(tags, record["name"])
        self._send_params(record["params"])
        for name, text in record["files"].items():
            self.client.log_text(self.run_id, text, name)

    def _create(self, tags: Mapping[str, str], name: str) -> str:
        run = self.client.create_run(get_experiment_id(self.client), tags=dict(tags), run_name=name)
        return str(run.info.run_id)

    def _send_params(self, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        items = [Param(key, value) for key, value in params.items()]
        for start in range(0, len(items), PARAMS_PER_CALL):
            self.client.log_batch(self.run_id, params=items[start : start + PARAMS_PER_CALL])

    def _send_continue(self, record: Record) -> None:
        """A flow run goes on with the run, or with a new one if it repeats what was finished."""
        run = self.client.get_run(self._known_run())
        mine = run.data.tags.get(FLOW_RUN) == record["flow_run"]
        if not mine and (run.info.status == "FINISHED" or record["repeats"]):
            if not record["fork"]:
                return
            self._fork(run, record["flow_run"])
        self.client.update_run(self.run_id, status="RUNNING")
        for name, value in ((FLOW_RUN, record["flow_run"]), (PROCESS, record["process"])):
            self.client.set_tag(self.run_id, name, value)

    def _fork(self, run: Run, flow_run: str) -> None:
        from mlflow.entities import DatasetInput

        known = self._find(f"tags.`{FORKED_FROM}` = '{run.info.run_id}' AND tags.`{FLOW_RUN}` = '{flow_run}'")
        self._last = None
        if known:
            self.run_id = known
            return
        tags = {k: v for k, v in run.data.tags.items() if not k.startswith("mlflow.") or k.startswith("mlflow.source")}
        tags.pop(LOCAL_ID, None)
        self.run_id = self._create({**tags, FORKED_FROM: run.info.run_id, FLOW_RUN: flow_run}, run.info.run_name)
        self._send_params(run.data.params)
        datasets = run.inputs.dataset_inputs if run.inputs else []
        if datasets:
            again = [DatasetInput(item.dataset, item.tags) for item in datasets]
            self.client.log_inputs(self.run_id, datasets=again)
        print(
            f"tracking: MLflow run {run.info.run_id} holds a finished step and is kept; its repeat goes to a new run, "
            f"{self.run_id}",
            flush=True,
        )

    def _send_status(self, record: Record) -> None:
        if self.client.get_run(self._known_run()).info.status != record["status"]:
            self.client.set_terminated(self.run_id, record["status"])

    def _send_tags(self, record: Record) -> None:
        run_id = self._known_run()
        for name, value in record["tags"].items():
            self.client.set_tag(run_id, name, value)

    def _send_study(self, record: Record) -> None:
        """A study takes over a run of another one."""
        known = self.client.get_run(self._known_run()).data.tags.get(STUDY, "")
        names = ",".join(dict.fromkeys([*filter(None, known.split(",")), record["study"]]))
        if names != known:
            self.client.set_tag(self.run_id, STUDY, names)

    def _send_dataset(self, record: Record) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        run_id, source = self._known_run(), record["source"]
        dataset = Dataset(
            name=record["name"],
            digest=source["md5"],
            source_type="dvc",
            source=json.dumps(source),
            profile=json.dumps(record["card"]),
        )
        entry = DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])
        client = self.client  # opened before, for that takes the same lock
        with hold_store(self.base):  # MLflow fails where two processes enter the same new data set at once
            client.log_inputs(run_id, datasets=[entry])
        self.client.log_dict(run_id, {**source, "card": record["card"]}, "dataset_card.json")
        self.client.set_tag(run_id, "data_source", source["source"])
        self.client.set_tag(run_id, "data_label", source["label"])
        self.client.set_tag(run_id, "data_md5", source["md5"])
        self.client.update_run(run_id, name=record["run_name"])

    def _send_artifact(self, record: Record) -> None:
        if Path(record["path"]).exists():
            self.client.log_artifact(self._known_run(), record["path"], record["folder"] or None)
        else:
            print(f"warning: tracking: {record['path']} is gone and cannot be logged", flush=True)

    def _send_checkpoint(self, record: Record) -> None:
        from mlflow.entities import Metric

        path, tags = Path(record["path"]), {key: str(record[key]) for key in ("path", "sha256", "step")}
        experiment, run_id = get_experiment_id(self.client), self._known_run()
        where = f"name = '{record['name']}' AND source_run_id = '{run_id}'"
        known = self.client.search_logged_models([experiment], where)
        if known and known[0].tags.get("sha256") == record["sha256"] and str(known[0].status) == "READY":
            return
        model = known[0] if known else self.client.create_logged_model(experiment, record["name"], run_id)
        self.client.set_logged_model_tags(model.model_id, tags)
        if is_final(path):
            self.client.log_model_artifact(model.model_id, str(path))
        there = {(metric.key, metric.step) for metric in model.metrics or []}
        metrics = {f"checkpoint/{key}": value for key, value in record["metrics"].items()}
        self._send_metrics(
            [
                Metric(key, value, record["time"], record["step"], model_id=model.model_id)
                for key, value in metrics.items()
                if (key, record["step"]) not in there
            ]
        )
        self.client.finalize_logged_model(model.model_id, "READY")  # last: what is ready is complete


def is_final(path: Path) -> bool:
    """Whether a checkpoint is the last of a finished training step (named by the DONE file beside it)."""
    marker = path.parent / "DONE"
    return path.exists() and marker.exists() and marker.read_text().strip() == path.name

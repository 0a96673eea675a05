"""Sender of records to an MLflow run. Repeating a record changes nothing."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdt.tracking.errors import StoreError
from vdt.tracking.models import ModelKeeper
from vdt.tracking.records import (
    Artifact,
    Checkpoint,
    Continue,
    Create,
    DatasetEntry,
    InitialPolicyEntry,
    JoinStudy,
    Metrics,
    Record,
    Register,
    Status,
    Tags,
    from_mapping,
)
from vdt.tracking.registry import ModelMissingError, register_policy
from vdt.tracking.store import get_experiment_id, hold_store, open_store
from vdt.tracking.waiting import LOCAL

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Dataset, Metric, Run

logger = logging.getLogger(__name__)

FLOW_RUN = "metaflow.run_id"  # tag: the newest flow run that writes to this run
FIRST_FLOW_RUN = "metaflow.first_run_id"  # tag: the one that began it
PROCESS = "vdt.process"  # tag: its main process
FORKED_FROM = "vdt.forked_from"  # tag: the run whose finished step was run again
CONTINUES = "vdt.continues"  # tag: the line that continues a search, which is no run of Metaflow's
ENDED, BY_USER = "vdt.ended", "stopped"  # tag: why the run ended before it was finished; its value after Ctrl-C
STUDY = "study"  # tag: names of the studies that a run belongs to, with commas
INIT_POLICY = "init_policy"  # tag: address of the policy that training began from
INIT_DIGEST = "init_sha256"  # tag: digest of its file
INIT_RUN = "init_run_id"  # tag: the run that it was trained in, if the store has it
LOCAL_ID = "vdt.local_id"  # tag: the run's id until it is in the store
PARENT = "mlflow.parentRunId"  # tag: the run below which MLflow's pages show this one
REPORT_OF = "report_of"  # tag: of the run that holds a study's report
SHARED_FROM = "{}_shared_from"  # tag: the run whose critic, or actor, this one has
CONTINUED_FROM = "{}_continued_from"  # tag: the run that had worked on it before, unfinished
RUN_TAGS = (PARENT, *(tag.format(part) for tag in (SHARED_FROM, CONTINUED_FROM) for part in ("critic", "actor")))
PARAMS_PER_CALL = 100  # MLflow's limits
METRICS_PER_CALL = 1000


class RunSender:
    """Sender of one run's records in their order; opens the store when there is something to send.

    A metric's point is sent only if its step is beyond the metric's last one in the store: a step that goes on from its
    last checkpoint computes some points a second time, and a record may be sent again after a failure. Steps of one metric
    must therefore not start over within a run.

    Attributes:
        run_id: where records go. A local id becomes MLflow's, and a repeat of a finished step gets a run of its own.
        left_out: points that were in the store already.
    """

    def __init__(self, base: Path, run_id: str, client: MlflowClient | None = None) -> None:
        """Bind to a run of a home folder's store, which is opened when it is needed unless `client` is given."""
        self.base, self.run_id, self.left_out = base, run_id, 0
        self._opened = client
        self._last: dict[str, int] | None = None  # last step of each metric in the store

    def __call__(self, mappings: Sequence[Mapping[str, Any]]) -> None:
        """Send records as the outbox keeps them, metrics between two other records in as few calls as possible."""
        try:
            points: list[Metric] = []
            for record in map(from_mapping, mappings):
                if isinstance(record, Metrics):
                    points += self._select(record)
                    continue
                self._send_metrics(points)
                points = []
                self._send(record)
            self._send_metrics(points)
        except Exception:
            self._last = None  # some may have arrived
            raise

    def _send(self, record: Record) -> None:
        senders: Mapping[type[Record], Callable[[Any], None]] = {
            Create: self._create_run,
            Continue: self._continue_run,
            Status: self._set_status,
            Tags: lambda tags: self._set_tags(tags.tags),
            JoinStudy: self._join_study,
            InitialPolicyEntry: self._enter_initial,
            DatasetEntry: self._enter_dataset,
            Artifact: self._keep_artifact,
            Checkpoint: self._keep_checkpoint,
            Register: self._register,
        }
        senders[type(record)](record)

    @property
    def client(self) -> MlflowClient:
        """Return the client of the store, opened now if it was not."""
        if self._opened is None:
            self._opened = open_store(self.base)
        return self._opened

    def find_run(self) -> str:
        """Return MLflow's id of the run.

        Raises:
            StoreError: if the id is a local one that the store has not seen.
        """
        if self.run_id.startswith(LOCAL):
            found = self._find(LOCAL_ID, self.run_id)
            if found is None:
                raise StoreError(f"run {self.run_id} is not in the store; its records are in another folder")
            self.run_id = found
        return self.run_id

    def _find(self, tag: str, value: str, more: str = "") -> str | None:
        """Return the id of a run that has a tag, and meets a further condition."""
        condition = f"tags.`{tag}` = '{value}'{more}"
        found = self.client.search_runs([get_experiment_id(self.client)], condition, max_results=1)
        return str(found[0].info.run_id) if found else None

    def _resolve(self, tags: Mapping[str, str]) -> dict[str, str]:
        """Return tags in which other runs have MLflow's ids, as far as the store has them; `deliver` does the rest."""
        late = {name for name in RUN_TAGS if tags.get(name, "").startswith(LOCAL)}
        return {**tags, **{name: self._find(LOCAL_ID, tags[name]) or tags[name] for name in late}}

    def _select(self, record: Metrics | Checkpoint, model_id: str | None = None) -> list[Metric]:
        """Return the points that the store lacks; those of a logged model are linked to it and to the run's data set."""
        from mlflow.entities import Metric

        if self._last is None:
            known = self.client.get_run(self.find_run()).data.to_proto().metrics
            self._last = {metric.key: metric.step for metric in known}
        fresh = {key: value for key, value in record.metrics.items() if record.step > self._last.get(key, -1)}
        self._last.update(dict.fromkeys(fresh, record.step))
        self.left_out += len(record.metrics) - len(fresh)
        data = self._find_dataset() if model_id and fresh else None
        where = (data.name, data.digest) if data else (None, None)
        return [Metric(key, value, record.time, record.step, model_id, *where) for key, value in fresh.items()]

    def _find_dataset(self) -> Dataset | None:
        """Return the run's data set, if it is known already."""
        inputs = self.client.get_run(self.find_run()).inputs
        return inputs.dataset_inputs[0].dataset if inputs and inputs.dataset_inputs else None

    def _send_metrics(self, points: Sequence[Metric]) -> None:
        for start in range(0, len(points), METRICS_PER_CALL):
            self.client.log_batch(self.find_run(), metrics=points[start : start + METRICS_PER_CALL])

    def _create_run(self, record: Create) -> None:
        """Make the run with its parameters and files, or complete one whose making was cut short.

        A study has one run for its reports: a second one is not made.
        """
        tags = {**self._resolve(record.tags), LOCAL_ID: self.run_id}
        if self.run_id.startswith(LOCAL):
            known = self._find(LOCAL_ID, self.run_id)
            if known is None and REPORT_OF in tags:
                known = self._find(REPORT_OF, tags[REPORT_OF])
                if known:
                    self.client.set_tag(known, LOCAL_ID, self.run_id)
            self.run_id = known or self._create(tags, record.name)
        self._send_params(record.params)
        for name, text in record.files.items():
            self.client.log_text(self.run_id, text, name)

    def _create(self, tags: Mapping[str, str], name: str) -> str:
        run = self.client.create_run(get_experiment_id(self.client), tags=dict(tags), run_name=name)
        return str(run.info.run_id)

    def _send_params(self, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        items = [Param(key, value) for key, value in params.items()]
        for start in range(0, len(items), PARAMS_PER_CALL):
            self.client.log_batch(self.run_id, params=items[start : start + PARAMS_PER_CALL])

    def _continue_run(self, record: Continue) -> None:
        """Continue the run for a flow run, or begin a new one if it repeats a finished step."""
        run = self.client.get_run(self.find_run())
        mine = run.data.tags.get(FLOW_RUN) == record.flow_run
        begun = None if mine or not record.fork else self._find_fork(run, record.flow_run)
        if begun or (not mine and (run.info.status == "FINISHED" or record.repeats)):
            if not record.fork:
                return
            self._last = None
            self.run_id = begun or self._fork(run, record.flow_run)
        self.client.update_run(self.run_id, status="RUNNING")
        for name, value in ((FLOW_RUN, record.flow_run), (PROCESS, record.process)):
            self.client.set_tag(self.run_id, name, value)
        if run.data.tags.get(ENDED):
            self.client.set_tag(self.run_id, ENDED, "")

    def _find_fork(self, run: Run, flow_run: str) -> str | None:
        """Return the run that an earlier step of a flow run has begun for a repeat."""
        return self._find(FORKED_FROM, run.info.run_id, f" AND tags.`{FLOW_RUN}` = '{flow_run}'")

    def _fork(self, run: Run, flow_run: str) -> str:
        """Begin a new run with the parameters, tags and data of a finished one; return its id."""
        from mlflow.entities import DatasetInput

        tags = {k: v for k, v in run.data.tags.items() if not k.startswith("mlflow.") or k.startswith("mlflow.source")}
        tags.pop(LOCAL_ID, None)
        self.run_id = self._create({**tags, FORKED_FROM: run.info.run_id, FLOW_RUN: flow_run}, run.info.run_name)
        self._send_params(run.data.params)
        datasets = run.inputs.dataset_inputs if run.inputs else []
        models = run.inputs.model_inputs if run.inputs else []
        if datasets or models:
            again = [DatasetInput(item.dataset, item.tags) for item in datasets]
            self.client.log_inputs(self.run_id, datasets=again, models=models)
        logger.info(
            f"tracking: MLflow run {run.info.run_id} holds a finished step and is kept; its repeat goes to a new run, "
            f"{self.run_id}"
        )
        return self.run_id

    def _set_status(self, record: Status) -> None:
        if self.client.get_run(self.find_run()).info.status != record.status:
            self.client.set_terminated(self.run_id, record.status)

    def _set_tags(self, tags: Mapping[str, str]) -> None:
        run_id = self.find_run()
        for name, value in self._resolve(tags).items():
            self.client.set_tag(run_id, name, value)

    def _join_study(self, record: JoinStudy) -> None:
        known = self.client.get_run(self.find_run()).data.tags.get(STUDY, "")
        names = ",".join(dict.fromkeys([*filter(None, known.split(",")), record.study]))
        if names != known:
            self.client.set_tag(self.run_id, STUDY, names)

    def _enter_initial(self, record: InitialPolicyEntry) -> None:
        """Name the policy that training began from, and the run that it was trained in, if the store has it."""
        from mlflow.entities import LoggedModelInput

        client, run_id = self.client, self.find_run()
        found = client.search_logged_models(
            [get_experiment_id(client)],
            f"tags.sha256 = '{record.sha256}'",
            order_by=[{"field_name": "creation_timestamp", "ascending": True}],
            max_results=1,
        )
        tags = {INIT_POLICY: record.address, INIT_DIGEST: record.sha256}
        for model in found:
            tags[INIT_RUN] = str(model.source_run_id)
            client.log_inputs(run_id, models=[LoggedModelInput(model.model_id)])
        self._set_tags(tags)

    def _enter_dataset(self, record: DatasetEntry) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        run_id, source = self.find_run(), record.source
        dataset = Dataset(
            name=record.name,
            digest=source["md5"],
            source_type="dvc",
            source=json.dumps(source),
            profile=json.dumps(record.card),
        )
        entry = DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])
        client = self.client  # opened before, for that takes the same lock
        with hold_store(self.base):  # MLflow fails where two processes log the same new data set at once
            client.log_inputs(run_id, datasets=[entry])
        self.client.log_dict(run_id, {**source, "card": record.card}, "dataset_card.json")
        self._set_tags({f"data_{key}": source[key] for key in ("source", "label", "md5")})
        self.client.update_run(run_id, name=record.run_name)

    def _keep_artifact(self, record: Artifact) -> None:
        if Path(record.path).exists():
            self.client.log_artifact(self.find_run(), record.path, record.folder or None)
        else:
            logger.warning(f"tracking: {record.path} is gone and cannot be logged")

    def _keep_checkpoint(self, record: Checkpoint) -> None:
        """Keep the file as a model of the run, once; set its tags, and link the metrics measured with it."""
        keeper = ModelKeeper(self.client, self.find_run())
        model_id = keeper.keep(record)
        if model_id and record.tags:
            self.client.set_logged_model_tags(model_id, dict(record.tags))
        self._send_metrics(self._select(record, model_id))

    def _register(self, record: Register) -> None:
        """Register a model of the run; one that is not there is reported, for no later try would find it."""
        try:
            register_policy(self.base, self.find_run(), record.sha256, record.name)
        except ModelMissingError as error:
            logger.warning(f"register: {error}")

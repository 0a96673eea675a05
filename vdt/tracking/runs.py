"""The tracking store and the life of its runs: created in `start`, continued by each step, finished at the end."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdt.config import Config
from vdt.runtime import ROOT
from vdt.tracking.delivery import deliver_backlog
from vdt.tracking.sender import RunSender

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENT = "vdt"
FLOW_RUN = "metaflow.run_id"  # tag: the newest flow run that writes to this run
FORKED_FROM = "vdt.forked_from"  # tag: the finished run whose step was run again
PARAMS_PER_CALL = 100  # MLflow's limit


@dataclass(frozen=True)
class RunIdentity:
    """What a run is called before its data is known, and after."""

    config: Config
    source: str | None = None

    @property
    def name(self) -> str:
        """`<env as a file's name>-<source>-<method>-s<seed>`; without the source until it is known."""
        parts = (self.config.file_name, self.source, self.config.method, f"s{self.config.seed}")
        return "-".join(part for part in parts if part)


def backlog_of(base: Path, run_id: str) -> Path:
    """Where records wait that the store did not take."""
    return base / ".vdt" / "undelivered" / f"{run_id}.jsonl"


def open_store(base: Path) -> MlflowClient:
    """A client of `MLFLOW_TRACKING_URI`, or of the SQLite store of a home folder, created if it is not there."""
    folder = base / ".vdt"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
    with _one_at_a_time(base):  # processes that race on a fresh database break it
        if uri.startswith("sqlite:////"):
            _create_database(Path(uri.removeprefix("sqlite:///")), folder / "mlartifacts")
        from mlflow import MlflowClient

        client = MlflowClient(uri)
        if client.get_experiment_by_name(EXPERIMENT) is None:
            artifacts = (folder / "mlartifacts").as_uri() if uri.startswith("sqlite:") else None
            client.create_experiment(EXPERIMENT, artifacts)
    return client


@contextlib.contextmanager
def _one_at_a_time(base: Path) -> Iterator[None]:
    """Hold the lock of a home folder's store."""
    with open(base / ".vdt" / "mlflow.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _create_database(path: Path, artifacts: Path) -> None:
    """Create all tables in a file beside, in write-ahead mode, and move it into place whole."""
    if path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".mlflow-") as folder:
        fresh = Path(folder) / "mlflow.db"
        SqlAlchemyStore(f"sqlite:///{fresh}", artifacts.as_uri()).engine.dispose()
        with contextlib.closing(sqlite3.connect(fresh)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        os.replace(fresh, path)


def get_git_commit() -> str | None:
    """Commit of the code, if it lies in a git work tree that has one."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--verify", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None


def create_run(base: Path, config: Config, flow_run: str, command: str) -> str:
    """Create a cell's run with its parameters and `config.yaml`; returns its id.

    Args:
        base: home folder.
        config: resolved configuration of the cell.
        flow_run: id of the flow's run.
        command: what the user typed, without secrets.
    """
    tags = {
        "env": config.env,
        "method": config.method,
        "preset": config.preset,
        "seed": str(config.seed),
        "source": config.data.source,
    }
    run_id = create_named_run(base, RunIdentity(config).name, tags, config.flatten(), flow_run, command)
    open_store(base).log_text(run_id, config.to_yaml(), "config.yaml")
    return run_id


def create_named_run(
    base: Path, name: str, tags: Mapping[str, str], params: Mapping[str, Any], flow_run: str, command: str
) -> str:
    """Create a run of any flow, see `create_run`; returns its id."""
    from mlflow.entities import Param

    client = open_store(base)
    more = {
        FLOW_RUN: flow_run,
        "metaflow.first_run_id": flow_run,
        "mlflow.source.name": command,
        "mlflow.source.git.commit": get_git_commit(),
    }
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None  # open_store makes it
    given = {key: value for key, value in {**tags, **more}.items() if value}
    run = client.create_run(experiment.experiment_id, tags=given, run_name=name)
    entries = [Param(key, str(value)) for key, value in params.items()]
    for start in range(0, len(entries), PARAMS_PER_CALL):
        client.log_batch(run.info.run_id, params=entries[start : start + PARAMS_PER_CALL])
    return str(run.info.run_id)


def continue_run(base: Path, run_id: str, flow_run: str, *, fork: bool = True) -> str:
    """Mark a run as running on behalf of a flow run; returns the id to write to.

    A run that is finished is a result and stays as it is. If a step of it is run again on purpose, what comes goes to
    a new run with the same parameters, tags and data, and a tag that names the old one.

    Args:
        base: home folder.
        run_id: the cell's run so far.
        flow_run: id of the flow's run that goes on with it.
        fork: False to add to a finished run instead (reports).
    """
    client = open_store(base)
    run = client.get_run(run_id)
    if run.info.status == "FINISHED" and run.data.tags.get(FLOW_RUN) != flow_run:
        if not fork:
            return run_id
        run_id = _fork(client, run)
        print(
            f"tracking: MLflow run {run.info.run_id} is finished and kept; this goes to a new run, {run_id}", flush=True
        )
    client.update_run(run_id, status="RUNNING")
    client.set_tag(run_id, FLOW_RUN, flow_run)
    return run_id


def _fork(client: MlflowClient, run: Run) -> str:
    from mlflow.entities import DatasetInput, Param

    tags = {k: v for k, v in run.data.tags.items() if not k.startswith("mlflow.") or k.startswith("mlflow.source")}
    tags[FORKED_FROM] = run.info.run_id
    fresh = client.create_run(run.info.experiment_id, tags=tags, run_name=run.info.run_name)
    run_id = str(fresh.info.run_id)
    params = [Param(key, value) for key, value in run.data.params.items()]
    for start in range(0, len(params), PARAMS_PER_CALL):
        client.log_batch(run_id, params=params[start : start + PARAMS_PER_CALL])
    datasets = run.inputs.dataset_inputs if run.inputs else []
    if datasets:
        client.log_inputs(run_id, datasets=[DatasetInput(item.dataset, item.tags) for item in datasets])
    return run_id


def log_dataset(base: Path, run_id: str, config: Config, snapshot: Mapping[str, Any]) -> None:
    """Enter a snapshot as the run's data set and put its source into the run's name.

    Args:
        base: home folder.
        run_id: the cell's run.
        config: the cell's configuration.
        snapshot: `dataclasses.asdict` of a `vdt.data.snapshot.Snapshot`. Its md5 (DVC's) becomes the digest.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    client = open_store(base)
    source = {key: snapshot[key] for key in ("path", "md5", "size", "source", "label", "reason")}
    dataset = Dataset(
        name=f"{config.file_name}-{snapshot['source']}",
        digest=snapshot["md5"],
        source_type="dvc",
        source=json.dumps(source),
        profile=json.dumps(snapshot["card"]),
    )
    entry = DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])
    with _one_at_a_time(base):  # MLflow fails where two processes enter the same new data set at once
        client.log_inputs(run_id, datasets=[entry])
    client.log_dict(run_id, {**source, "card": snapshot["card"]}, "dataset_card.json")
    client.set_tag(run_id, "data_source", snapshot["source"])
    client.set_tag(run_id, "data_label", snapshot["label"])
    client.set_tag(run_id, "data_md5", snapshot["md5"])
    client.update_run(run_id, name=RunIdentity(config, snapshot["source"]).name)


def log_files(base: Path, run_id: str, files: Sequence[Path], folder: str) -> None:
    """Keep copies of files with a run, now."""
    client = open_store(base)
    for path in files:
        client.log_artifact(run_id, str(path), folder)


def find_runs(base: Path, flow_run: str) -> list[str]:
    """Ids of the runs that a flow run has written to."""
    client = open_store(base)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None  # open_store makes it
    found = client.search_runs([experiment.experiment_id], f"tags.`{FLOW_RUN}` = '{flow_run}'", max_results=1000)
    return [str(run.info.run_id) for run in found]


def finish_runs(base: Path, run_ids: Sequence[str], status: str) -> None:
    """Deliver what still waits and set the final status.

    Args:
        base: home folder.
        run_ids: MLflow's.
        status: "FINISHED" or "FAILED".
    """
    client = open_store(base)
    for run_id in run_ids:
        if client.get_run(run_id).info.status != status:
            client.set_terminated(run_id, status)
        deliver_backlog(backlog_of(base, run_id), RunSender(client, run_id))

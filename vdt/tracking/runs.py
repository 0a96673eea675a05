"""Life cycle of a cell's run: created in `start`, continued by each step, finished at the end, settled after a kill."""

from __future__ import annotations

import functools
import logging
import os
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdt.config.convergence import estimate_convergence
from vdt.config.schema import Config
from vdt.config.task import TaskConfig
from vdt.system.home import ROOT
from vdt.system.processes import describe_process, is_gone
from vdt.tracking.errors import StoreError, describe_failure, get_first_line, get_store_errors, is_refusal
from vdt.tracking.mlflow_run import ENDED, FIRST_FLOW_RUN, FLOW_RUN, LOCAL_ID, PARENT, PROCESS, STUDY, RunSender
from vdt.tracking.outbox import append_records, deliver_backlog, remove_backlog
from vdt.tracking.records import (
    Artifact,
    Continue,
    Create,
    DatasetEntry,
    InitialPolicyEntry,
    Record,
    Status,
    Tags,
    to_mapping,
)
from vdt.tracking.run_names import choose_color, make_run_name
from vdt.tracking.store import open_store, search_runs
from vdt.tracking.waiting import LOCAL, backlog_of, delivers_later, find_undelivered

if TYPE_CHECKING:
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

GAP = "critic.expected_gap"  # tag: share of the gap to its fixed point that the critic is expected to leave
COLOR = "mlflow.runColor"  # tag: color of a run in MLflow's pages
TRIAL, TRIAL_STATE = "trial", "trial_state"  # tags: number of a search's trial; "pruned" where it was stopped


def make_local_id() -> str:
    """Return a new id for a run that the store does not have yet."""
    return f"{LOCAL}{uuid.uuid4().hex}"


def send_now(base: Path, run_id: str, records: Sequence[Record]) -> str:
    """Send records now, after the waiting ones; keep them if the store does not take them, or is to get them later.

    Returns:
        The run that they went to, or `run_id` if they wait.

    Raises:
        StoreError: if the store is there and cannot be used; the records are kept.
    """
    if delivers_later():
        return _keep(base, run_id, records)
    try:
        return _deliver(base, run_id, records)
    except get_store_errors() as error:
        logger.warning(f"tracking: {describe_failure(error)}; records are kept in {backlog_of(base, run_id)}")
        return run_id


def send_to_each(base: Path, run_ids: Sequence[str], records: Sequence[Record]) -> None:
    """Send the same records to many runs as `send_now` does; once the store does not answer, the others' are kept.

    Raises:
        StoreError: as of `send_now`.
    """
    away, client = delivers_later(), None
    for run_id in run_ids:
        _keep(base, run_id, records)
        if away:
            continue
        try:
            sender = RunSender(base, run_id, client)
            client = sender.client
            deliver_backlog(backlog_of(base, run_id), sender)
        except get_store_errors() as error:
            logger.warning(f"tracking: {describe_failure(error)}; records are kept in {backlog_of(base, run_id)}")
            away = not is_refusal(error)


def _keep(base: Path, run_id: str, records: Sequence[Record]) -> str:
    if records:
        append_records(backlog_of(base, run_id), [to_mapping(record) for record in records])
    return run_id


def _deliver(base: Path, run_id: str, records: Sequence[Record]) -> str:
    sender = RunSender(base, _keep(base, run_id, records))
    deliver_backlog(backlog_of(base, run_id), sender)
    return sender.run_id


@functools.cache
def get_git_commit() -> str | None:
    """Return the commit of the code, if it is in a git work tree that has one."""
    return _ask_git("rev-parse", "--verify", "HEAD") or None


@functools.cache
def is_code_changed() -> bool:
    """Return whether files that git knows differ from its commit, or new ones lie in the package."""
    return bool(_ask_git("status", "--porcelain", "--", "vdt", "flows", "params"))


def _ask_git(*words: str) -> str:
    """Return git's answer about the folder of the code; empty where there is none."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=10, check=False
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def create_run(
    base: Path,
    config: Config,
    flow_run: str,
    command: str,
    *,
    patch: str = "",
    shown: str = "",
    study: str = "",
    more_tags: Mapping[str, str] | None = None,
    local_id: str = "",
) -> str:
    """Create a cell's run with its parameters and `config.yaml`; return its id.

    If the store is away, or is to get records later, the run has a local id until they are delivered.

    Args:
        base: home folder.
        config: resolved configuration of the cell.
        flow_run: id of the flow's run.
        command: the user's command, without secrets.
        patch: name of the patch that the cell carries, if any.
        shown: what distinguishes the run beside method and data (`name_variant`), of which name and color tell; by default
            the patch.
        study: name of the study that it belongs to, if any.
        more_tags: e.g. of a search (`make_trial_tags`).
        local_id: of `make_local_id`; one that the store knows already returns its run, so that a start which was cut
            short and is repeated makes no second one.
    """
    convergence = estimate_convergence(config.flatten())
    tags = {
        **(more_tags or {}),
        "env": config.env,
        "scored_in": _describe_scores(config.task),
        "method": config.method,
        "patch": patch,
        "preset": config.preset,
        "seed": str(config.seed),
        "source": config.data.source,
        STUDY: study,
        COLOR: choose_color(config, shown or patch),
        GAP: "" if convergence is None else f"{convergence.gap:.3g}",
    }
    name, files = make_run_name(config, patch=shown or patch), {"config.yaml": config.to_yaml()}
    init = config.init
    more = [InitialPolicyEntry(address=init.policy, sha256=init.sha256)] if init.sha256 else []
    return create_named_run(
        base, name, tags, config.flatten(), flow_run, command, files, records=more, local_id=local_id
    )


def _describe_scores(task: TaskConfig) -> str:
    """Return what decides a score beside the policy: the environment, its settings and length, and the scale."""
    made = f"{task.environment_id} {task.environment_kwargs}, {task.horizon} steps"
    return f"{made}, 0 and 100 are {task.reference_return_min:g} and {task.reference_return_max:g}"


def create_named_run(
    base: Path,
    name: str,
    tags: Mapping[str, str],
    params: Mapping[str, Any],
    flow_run: str,
    command: str,
    files: Mapping[str, str] | None = None,
    process: str = "",
    records: Sequence[Record] = (),
    local_id: str = "",
) -> str:
    """Create a run of any flow, see `create_run`; `files` are texts by name, `records` follow. Return its id.

    Its process is the parent of this one, which is a step's, unless `process` names another.
    """
    more = {
        FLOW_RUN: flow_run,
        PROCESS: process or describe_process(os.getppid()),
        FIRST_FLOW_RUN: flow_run,
        "mlflow.source.name": command,
        "mlflow.source.git.commit": get_git_commit(),
        "git_commit": get_git_commit(),
        "git_changed": "yes" if get_git_commit() and is_code_changed() else "",
    }
    record = Create(
        name=name,
        tags={key: str(value) for key, value in {**tags, **more}.items() if value},
        params={key: str(value) for key, value in params.items()},
        files=files or {},
    )
    run_id = local_id or make_local_id()
    if delivers_later():
        return _keep(base, run_id, [record, *records])
    expected: tuple[type[Exception], ...] = (StoreError, *get_store_errors())
    try:
        return _deliver(base, run_id, [record, *records])
    except expected as error:
        if is_refusal(error):  # the flow ends here, so none of its records may be sent later
            remove_backlog(backlog_of(base, run_id))
            raise StoreError(get_first_line(error)) from None
        logger.warning(f"tracking: {describe_failure(error)}; records are kept in {backlog_of(base, run_id)}")
        return run_id


def make_trial_tags(trial: int, parent: str) -> dict[str, str]:
    """Return the tags of a cell of a search's trial; a parent's local id is replaced once the store has that run."""
    return {TRIAL: str(trial), **({PARENT: parent} if parent else {})}


def make_continue_record(flow_run: str, *, repeats: bool = False, fork: bool = True) -> Continue:
    """Return a record that marks a run as running in this flow's process; see `Continue` for the arguments."""
    return Continue(flow_run=flow_run, process=describe_process(os.getppid()), repeats=repeats, fork=fork)


def name_dataset(config: Config, source: str) -> str:
    """Return the name of a data set: its env and the kind of source that it comes from."""
    return f"{config.file_name}-{source}"


def make_dataset_record(config: Config, snapshot: Mapping[str, Any], patch: str = "") -> DatasetEntry:
    """Return a record that sets a snapshot as the run's data set and adds its source to the run's name.

    Args:
        config: the cell's configuration.
        snapshot: `dataclasses.asdict` of a `vdt.datasets.snapshot.Snapshot`. Its md5 (DVC's) becomes the digest.
        patch: what the run's name tells beside method and data (`name_variant`), if anything.
    """
    return DatasetEntry(
        name=name_dataset(config, snapshot["source"]),
        run_name=make_run_name(config, source=snapshot["source"], patch=patch),
        source={key: snapshot[key] for key in ("path", "md5", "size", "source", "label", "reason")},
        card=snapshot["card"],
    )


def make_artifact_records(files: Sequence[Path], folder: str) -> list[Record]:
    """Return records that keep copies of files with a run."""
    return [Artifact(path=str(path), folder=folder) for path in files]


def find_runs(base: Path, flow_run: str) -> list[str]:
    """Find the ids of the runs that a flow run has written to."""
    found = search_runs(open_store(base), f"tags.`{FLOW_RUN}` = '{flow_run}'")
    return [str(run.info.run_id) for run in found]


def is_finished(base: Path, run_id: str) -> bool:
    """Return whether the store has a run as finished; a run that it has not seen yet is not.

    Args:
        base: home folder.
        run_id: MLflow's, or a local one.

    Raises:
        StoreError: if the store cannot be used; those of `get_store_errors` if it is away.
    """
    client = open_store(base)
    is_local = run_id.startswith(LOCAL)
    found = search_runs(client, f"tags.`{LOCAL_ID}` = '{run_id}'") if is_local else [client.get_run(run_id)]
    return any(run.info.status == "FINISHED" for run in found)


def finish_runs(base: Path, run_ids: Sequence[str], status: str, *, ended: str = "") -> None:
    """Deliver waiting records and set the final status.

    Args:
        base: home folder.
        run_ids: MLflow's, or local ones.
        status: "FINISHED" or "FAILED".
        ended: value of the tag `ENDED`, set if it is not empty.
    """
    tags: list[Record] = [Tags(tags={ENDED: ended})] if ended else []
    for run_id in run_ids:
        send_now(base, run_id, [*tags, Status(status=status)])


def settle_abandoned(base: Path) -> list[str]:
    """Mark as failed the runs whose flow was killed before it could do so; return their ids.

    Only flows that ended on this machine are known: a run of another machine is not changed. Nor is one whose records wait
    in this home folder, for its final status may be among them.
    """
    client = open_store(base)
    left = [run for run in search_runs(client, "attributes.status = 'RUNNING'") if _is_left(run)]
    waiting = {path.stem for path in find_undelivered(base)}  # by MLflow's id, or by the local one
    settled = []
    for run in left:
        run_id = str(run.info.run_id)
        if waiting & {run_id, run.data.tags.get(LOCAL_ID)}:
            continue
        if _is_left(client.get_run(run_id)):  # not if its records have arrived, or it was resumed, since the search
            client.set_tag(run_id, ENDED, "its process was killed; noticed later")
            client.set_terminated(run_id, "FAILED")
            logger.info(f"tracking: MLflow run {run_id} was left by a killed process; it is FAILED until it is resumed")
            settled.append(run_id)
    return settled


def _is_left(run: Run) -> bool:
    """Return whether a run is unfinished and its process has ended."""
    return run.info.status == "RUNNING" and is_gone(run.data.tags.get(PROCESS, "::"))

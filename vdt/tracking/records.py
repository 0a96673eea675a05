"""Records sent to an MLflow run, one dataclass a kind; as plain mappings they wait in files until the store takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Create:
    """Creation of the run with its parameters and files.

    Attributes:
        name: of the run, for people.
        tags: by name.
        params: by name.
        files: texts by file name.
    """

    name: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Continue:
    """Continuation of the run by a flow run.

    A run that is finished is a result and stays as it is; so does one that holds a finished step. If such a step is run
    again on purpose, its records go to a new run. That has the same parameters, tags and data, and a tag with the old run.

    Attributes:
        flow_run: id of the flow's run that goes on with it.
        process: its main process (`describe_process`).
        repeats: whether the step was finished before.
        fork: False to add to such a run instead (reports).
    """

    flow_run: str
    process: str
    repeats: bool = False
    fork: bool = True


@dataclass(frozen=True, kw_only=True)
class Status:
    """Status of a run that is over, a word of MLflow: "FINISHED", "FAILED" or "KILLED"."""

    status: str


@dataclass(frozen=True, kw_only=True)
class Tags:
    """Tags to set."""

    tags: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class JoinStudy:
    """Study to add to those that the run belongs to."""

    study: str


@dataclass(frozen=True, kw_only=True)
class InitialPolicyEntry:
    """Policy that the run's training began from: an input of the run, if it is a logged model of the store.

    Attributes:
        address: as it was given.
        sha256: of its file.
    """

    address: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class DatasetEntry:
    """Snapshot that becomes the run's data set and adds its source to the run's name.

    Attributes:
        name: of the data set.
        run_name: of the run, now that its data is known.
        source: path, md5, size, source, label, reason.
        card: the dataset card.
    """

    name: str
    run_name: str
    source: Mapping[str, Any]
    card: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Point to add to some curves.

    Attributes:
        step: gradient or environment step.
        time: milliseconds since 1970.
        metrics: values by full name.
    """

    step: int
    time: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """File to copy into a folder of the run's artifacts."""

    path: str
    folder: str = ""


@dataclass(frozen=True)
class ModelFiles:
    """Texts that make a file an MLflow model.

    Attributes:
        texts: by place in the model's folder, among them MLmodel.
        place: of the file in that folder.
    """

    texts: Mapping[str, str]
    place: str


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Checkpoint to keep as a logged model with its file, and the metrics measured with it.

    Attributes:
        name: of the model, where it is new.
        path: of the file.
        sha256: of its content; a run has one model for each.
        step: training step that it was saved at.
        time: milliseconds since 1970.
        metrics: values by full name.
        texts: that make it a model which MLflow can load, by name; without them it is a file that is kept.
        place: of the file in the model; its own name at the top if empty.
        tags: to set on the model.
    """

    name: str
    path: str
    sha256: str
    step: int
    time: int
    metrics: Mapping[str, float]
    texts: Mapping[str, str] = field(default_factory=dict)
    place: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Register:
    """Registration of the model of a checkpoint that the run holds.

    Attributes:
        name: of the registered model.
        sha256: of the checkpoint.
    """

    name: str
    sha256: str


Record = (
    Create
    | Continue
    | Status
    | Tags
    | JoinStudy
    | InitialPolicyEntry
    | DatasetEntry
    | Metrics
    | Artifact
    | Checkpoint
    | Register
)
KINDS: Mapping[str, type[Record]] = {
    "create": Create,
    "continue": Continue,
    "status": Status,
    "tags": Tags,
    "study": JoinStudy,
    "initial": InitialPolicyEntry,
    "dataset": DatasetEntry,
    "metrics": Metrics,
    "artifact": Artifact,
    "checkpoint": Checkpoint,
    "register": Register,
}
NAMES = {kind: name for name, kind in KINDS.items()}


def to_mapping(record: Record) -> dict[str, Any]:
    """Return a record as a JSON-able mapping."""
    return {"kind": NAMES[type(record)], **asdict(record)}


def from_mapping(mapping: Mapping[str, Any]) -> Record:
    """Return the record of a mapping.

    Raises:
        ValueError: if there is no such kind, or its values have other names.
    """
    values = dict(mapping)
    kind = KINDS.get(str(values.pop("kind", "")))
    if kind is None:
        raise ValueError(f"{mapping.get('kind')!r} is no kind of record: {', '.join(KINDS)}")
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"a record of kind {NAMES[kind]} is not complete ({error})") from None

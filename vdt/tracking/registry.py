"""Registry of models: versions under a name, of which the one with the best score has the alias `champion`."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vdt.system.locks import hold_lock
from vdt.tracking.errors import StoreError
from vdt.tracking.models import DESCRIPTION, FACTS, SCORE_METRIC
from vdt.tracking.store import get_experiment_id, open_store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

logger = logging.getLogger(__name__)

CHAMPION = "champion"
VERSIONS = "mlflow.modelVersions"  # MLflow's tag of a model
SCORE = "score"  # tag of a version
COMPARED = {  # tags that must agree -> how it is said that they do not
    "env": "another env",
    "scored_in": "another environment or another scale of scores",
    "data_md5": "other data",
}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\- ]{0,199}")


class ModelMissingError(StoreError):
    """Policy that the store does not hold as a model that MLflow can load."""


@dataclass(frozen=True)
class Registration:
    """Outcome of a registration.

    Attributes:
        name: of the registered model.
        version: of this policy under that name.
        is_champion: whether it has the alias.
        message: a sentence that says what was compared.
    """

    name: str
    version: str
    is_champion: bool
    message: str


def check_model_name(name: str) -> str:
    """Return a registered model's name.

    Raises:
        ValueError: if MLflow would refuse it, or an address could not hold it.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name for a registered model: letters, digits, spaces and _.- only, 1 to 200")
    return name


def register_policy(base: Path, run_id: str, sha256: str, name: str) -> Registration:
    """Register the model of a checkpoint, and make it the champion if its score beats the champion's.

    Registering a model again under its name changes nothing but the champion, which is compared anew.

    Args:
        base: home folder of the store.
        run_id: MLflow's, of the run that holds the model.
        sha256: of the checkpoint.
        name: of the registered model, made if it is new.

    Raises:
        ModelMissingError: if the run has no such model that MLflow can load.
        StoreError: if the store cannot be used.
        Exception: of `get_store_errors`, if the store does not answer.
    """
    client = open_store(base)
    with hold_lock(base / ".vdt" / "registry.lock", "the model registry"):
        model = _find_model(client, run_id, sha256)
        version = _find_or_make_version(client, model, name)
        _name_version(client, model, version)
        is_champion, message = _compare(client, version)
    done = Registration(name, str(version.version), is_champion, message)
    logger.info(f"register: {message}")
    return done


def _find_model(client: MlflowClient, run_id: str, sha256: str) -> LoggedModel:
    """Return the ready model of a checkpoint that MLflow can load."""
    where = f"source_run_id = '{run_id}' AND tags.sha256 = '{sha256}'"
    for model in client.search_logged_models([get_experiment_id(client)], where):
        files = {file.path for file in client.list_logged_model_artifacts(model.model_id)}
        if str(model.status) == "READY" and DESCRIPTION in files:
            return client.get_logged_model(model.model_id)
    raise ModelMissingError(
        f"MLflow run {run_id} has no model of this policy that MLflow can load: it is of an earlier release, or its file "
        "was gone when it was to be kept"
    )


def _find_or_make_version(client: MlflowClient, model: LoggedModel, name: str) -> ModelVersion:
    """Return the model's version under a name; the name is made if it is new."""
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    known = client.search_model_versions(f"name = '{name}'")
    for version in known:
        if (version.run_id, version.tags.get("sha256")) == (model.source_run_id, model.tags["sha256"]):
            return version
    score = _find_score(model)
    kept = (*FACTS, "sha256", "agent", "acts", SCORE_METRIC)
    tags = {} if score is None else {SCORE: repr(score)}
    tags |= {key: model.tags[key] for key in kept if model.tags.get(key)}
    return client.create_model_version(
        name, model.artifact_location, model.source_run_id, tags=tags, model_id=model.model_id
    )


def _name_version(client: MlflowClient, model: LoggedModel, version: ModelVersion) -> None:
    """Set the tag by which a model's page in MLflow names its versions."""
    known, mine = json.loads(model.tags.get(VERSIONS, "[]")), {"name": version.name, "version": str(version.version)}
    if mine not in known:
        client.set_logged_model_tags(model.model_id, {VERSIONS: json.dumps([*known, mine])})


def _find_score(model: LoggedModel) -> float | None:
    """Return the score of the policy as it acts in the model; none where it was not evaluated on whole episodes."""
    key = model.tags.get(SCORE_METRIC)
    values = [(metric.step, metric.timestamp, metric.value) for metric in model.metrics or [] if metric.key == key]
    return max(values)[2] if values else None


def _compare(client: MlflowClient, version: ModelVersion) -> tuple[bool, str]:
    """Set the alias if the version is better than its holder; return whether the version has it, and why."""
    champion = _find_champion(client, version.name)
    mine = f"{version.name} version {version.version}"
    if SCORE not in version.tags:
        return False, f"{mine} has no score, for it was not evaluated on whole episodes; the champion stays as it is"
    scored = f"{mine}: score {_show(version)} on {_describe(version)}"
    if champion is None:
        return _crown(client, version, f"{scored}; it is the first champion")
    if str(champion.version) == str(version.version):  # a database gives numbers, a server texts
        return True, f"{scored}; it is the champion already"
    theirs = f"the champion, version {champion.version}"
    if differing := [why for tag, why in COMPARED.items() if champion.tags.get(tag) != version.tags.get(tag)]:
        return False, (
            f"{scored}; {theirs}, has {_show(champion)} on {_describe(champion)}: {' and '.join(differing)}, so they are "
            "not compared and it stays champion"
        )
    if SCORE not in champion.tags or float(version.tags[SCORE]) > float(champion.tags[SCORE]):
        return _crown(client, version, f"{scored} beats {theirs}, with {_show(champion)}; it is the champion now")
    return False, f"{scored} does not beat {theirs}, with {_show(champion)}, which stays champion"


def _crown(client: MlflowClient, version: ModelVersion, message: str) -> tuple[bool, str]:
    client.set_registered_model_alias(version.name, CHAMPION, version.version)
    return True, message


def _find_champion(client: MlflowClient, name: str) -> ModelVersion | None:
    """Return the version that has the alias, with its tags; none where no version has."""
    holder = client.get_registered_model(name).aliases.get(CHAMPION)
    return None if holder is None else client.get_model_version(name, holder)


def _show(version: ModelVersion) -> str:
    return f"{float(version.tags[SCORE]):.2f}" if SCORE in version.tags else "no score"


def _describe(version: ModelVersion) -> str:
    """Return env and data of a version."""
    return f"{version.tags.get('env', 'an unknown env')} (data md5 {version.tags.get('data_md5', 'unknown')})"

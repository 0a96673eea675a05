"""Addresses of trained policies: files, folders, runs of MLflow and Metaflow, models of MLflow."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vdt.agent.policy_files import (
    NAMES,
    PolicyFile,
    Scores,
    find_last,
    list_continued_policies,
    read_scores,
)
from vdt.checkpoint.names import CheckpointError
from vdt.config.errors import suggest
from vdt.config.layers import config_from_yaml
from vdt.system.files import compute_file_digest
from vdt.system.home import home

if TYPE_CHECKING:
    from vdt.tracking import PolicyStore, StoredModel, StoredRun

ACCEPTED = (
    "a checkpoint file (.pt) or its folder, an MLflow run id, runs:/RUN, runs:/RUN/NAME, models:/NAME/VERSION, "
    "models:/NAME@ALIAS, models:/MODEL_ID, a Metaflow run id, or VDTFlow/RUN"
)
DEFAULT_FLOW = "VDTFlow"  # whose run ids may stand alone
MLFLOW_RUN = re.compile(r"(?:runs:/)?([0-9a-f]{32})(?:/(.+?))?/?")
MODEL = re.compile(r"models:/(?:(m-[0-9a-f]{32})|([^/@]+)/(\d+)|([^/@]+)@([^/@]+))/?")
METAFLOW_RUN = re.compile(r"(?:(\w*Flow)/)?([\w.-]+)/?")
SETTINGS = ("single", "candidates", "lookahead", "held_out")  # as `eval/<policy>_<setting>_<measurement>` names them
# Names of logged models -> policy; release 0.2.0 and training steps name them by phase and step.
MODEL_NAMES = {
    "offline": re.compile(r"policy-offline|actor-\d+|offline"),
    "online": re.compile(r"policy-online|online-\d+|online"),
    "online_best": re.compile(r"policy-online-best|online-best-\d+|online_best"),
}


@contextlib.contextmanager
def find_policy(where: str | Path, *, name: str | None = None, cell: str | None = None) -> Iterator[PolicyFile]:
    """Yield the checkpoint at an address; one that had to be fetched lasts as long as the block.

    A path that exists is taken as such. Of a run's policies, `online` is taken, else `offline`: the one whose score MLflow
    and the last screen of a run show.

    Args:
        where: one of `ACCEPTED`.
        name: of the policy: "offline", "online" or "online_best", or as MLflow names them, "policy-online-best".
        cell: key of the cell, where a Metaflow run has several.

    Raises:
        CheckpointError: if there is no policy, or several and none is chosen.
        ValueError: if `name` is no policy's name.
    """
    if not isinstance(where, str | Path) or not str(where).strip():  # Path("") is the present folder
        raise CheckpointError(f"no policy at {where!r}: accepted are text or a path, {ACCEPTED}")
    wanted, text, path = None if name is None else _read_name(name), str(where), Path(where)
    chosen = {"name": name, "cell": cell}
    if os.path.isfile(path):  # false for what is no path at all
        _refuse(chosen, "a file holds one policy")
        yield read_scores(path)
    elif os.path.isdir(path):
        _refuse(chosen, "a folder of checkpoints has one policy")
        yield _find_in_folder(path)
    elif text.startswith("models:") or MLFLOW_RUN.fullmatch(text):
        _refuse({"cell": cell}, "a run of MLflow has one cell")
        with _find_in_mlflow(text, wanted) as policy:
            yield policy
    elif (found := METAFLOW_RUN.fullmatch(text)) and (found[1] or found[2].isdigit()):
        yield _find_in_flow(found[1] or DEFAULT_FLOW, found[2], wanted, cell)
    else:
        raise CheckpointError(f"no policy at {text!r}: there is no such file, and accepted are {ACCEPTED}")


def _read_name(name: str) -> str:
    """Return the name of a policy as `NAMES` has it."""
    plain = str(name).removeprefix("policy-").replace("-", "_")
    if plain not in NAMES:
        raise ValueError(f"name must be one of {', '.join(NAMES)}, not {name!r}{suggest(plain, NAMES)}")
    return plain


def _refuse(given: Mapping[str, str | None], reason: str) -> None:
    """Refuse choices where there is nothing to choose."""
    for what, value in given.items():
        if value is not None:
            raise CheckpointError(f"{what}={value!r}: {reason}, so there is nothing to choose")


def _find_in_folder(folder: Path) -> PolicyFile:
    last = find_last(folder)
    if last is not None:
        return read_scores(last)
    files, below = sorted(folder.glob("*.pt")), sorted(marker.parent for marker in folder.glob("*/**/DONE"))
    if files:
        raise CheckpointError(f"{folder} is of a step that is not finished; its newest checkpoint is {files[-1].name}")
    if below:
        raise CheckpointError(f"{folder} holds several folders of checkpoints; choose one: {_join(below)}")
    raise CheckpointError(f"{folder} holds no checkpoint; accepted are {ACCEPTED}")


def _find_in_flow(flow: str, run_id: str, name: str | None, cell: str | None) -> PolicyFile:
    """Return a policy of a Metaflow run, by the checkpoints below the home folder; Metaflow itself is not asked."""
    run, where = home() / ".vdt" / "checkpoints" / flow / run_id, f"Metaflow run {flow}/{run_id}"
    cells = list_continued_policies(run, home())
    if not cells and not run.is_dir():
        raise CheckpointError(f"no checkpoints of {where} in {run.parent}; VDT_HOME says where runs are kept")
    if not cells:
        raise CheckpointError(f"{where} has no finished policy yet ({run})")
    others = sorted({path.name for path in run.glob("*/*") if path.is_dir()} - cells.keys())
    known = {key: ", ".join(policies) for key, policies in cells.items()} | dict.fromkeys(others, "none yet")
    listed = "; ".join(f"{key}: {policies}" for key, policies in known.items())
    if cell is not None and cell not in cells:
        raise CheckpointError(f"{where} has {listed}, and no cell {cell!r}{suggest(cell, cells)}")
    if cell is None and len(known) > 1:
        raise CheckpointError(
            f"{where} has several cells; choose one by cell=…, or give the cell's run of MLflow: {listed}"
        )
    policies = cells[next(iter(cells)) if cell is None else cell]
    policy = policies[_choose(policies, name, where)]
    if not policy.path.is_file():
        raise CheckpointError(f"{policy.path}, a policy of {where}, is gone")
    if not policy.sha256:
        return replace(read_scores(policy.path), name=policy.name)
    return policy


def _choose(known: Collection[str], name: str | None, where: str) -> str:
    """Return the wanted policy, or the first of `NAMES` that is known."""
    chosen = next((one for one in NAMES if one in known), None) if name is None else name
    if chosen is None or chosen not in known:
        raise CheckpointError(f"{where} has no policy {name or ''}".rstrip() + f"; it has {_join(known) or 'none'}")
    return chosen


@contextlib.contextmanager
def _find_in_mlflow(where: str, name: str | None) -> Iterator[PolicyFile]:
    """Yield the checkpoint of a run or a model of MLflow."""
    from vdt.tracking import PolicyStore, StoreError, describe_failure, get_store_errors

    with contextlib.ExitStack() as stack:
        try:
            expected: tuple[type[Exception], ...] = (StoreError, *get_store_errors())
        except ModuleNotFoundError as error:
            raise CheckpointError(
                f"{where} is an address of MLflow, and the package {error.name} is not installed"
            ) from None
        try:
            store = PolicyStore(home())
            policy = _find_model(store, where, name, stack)
        except expected as error:
            raise CheckpointError(f"no policy at {where!r}: {describe_failure(error)}") from error
        yield policy


def _find_model(store: PolicyStore, where: str, name: str | None, stack: contextlib.ExitStack) -> PolicyFile:
    if run := MLFLOW_RUN.fullmatch(where):
        model = _find_in_run(store, run[1], run[2], name)
    elif address := MODEL.fullmatch(where):
        _refuse({"name": name}, "a model is one policy")
        model = _find_by_address(store, address)
    else:
        raise CheckpointError(f"{where!r} is no address of a model; accepted are {ACCEPTED}")
    path = _find_checkpoint(stack.enter_context(store.fetch(model.location)), model.sha256, where)
    found = PolicyFile(path, _name_policy(model.name) or "", model.sha256)
    if not model.run_id:
        return found
    stored = store.find_run(model.run_id)
    text = store.read_config(stored)
    return replace(
        found,
        mlflow_run_id=stored.run_id,
        scores=_read_scores(stored.metrics, found.name),
        data=_read_data(stored),
        config=None if text is None else config_from_yaml(text),
    )


def _find_by_address(store: PolicyStore, address: re.Match[str]) -> StoredModel:
    model_id, name, version, alias_of, alias = address.groups()
    if model_id:
        return store.find_model(model_id)
    return store.find_version(name, version) if version else store.find_alias(alias_of, alias)


def _find_in_run(store: PolicyStore, run_id: str, place: str | None, name: str | None) -> StoredModel:
    """Return a model of a run: the one of a name, or of a policy's name, or the first of `NAMES`; the newest of several."""
    models, where = store.list_models(run_id), f"MLflow run {run_id}"
    if place is not None:
        _refuse({"name": name}, f"runs:/{run_id}/{place} names a policy")
        by_name = next((model for model in models if model.name == place), None)
        if by_name is not None:
            return by_name
        plain = place.removeprefix("policy-").replace("-", "_")
        if plain not in NAMES:
            raise CheckpointError(f"{where} has no model {place!r}; it has {_join(m.name for m in models) or 'none'}")
        name = plain
    policies: dict[str, StoredModel] = {}
    for model in models:  # newest first
        if (known := _name_policy(model.name)) is not None:
            policies.setdefault(known, model)
    return policies[_choose(policies, name, where)]


def _name_policy(model: str) -> str | None:
    return next((name for name, pattern in MODEL_NAMES.items() if pattern.fullmatch(model)), None)


def _find_checkpoint(place: Path, sha256: str, where: str) -> Path:
    """Return the checkpoint of a model: its one `.pt` file, or of several the one with the recorded digest."""
    files = [place] if place.is_file() else sorted(place.rglob("*.pt"))
    if len(files) > 1:
        files = [file for file in files if compute_file_digest(file, "sha256") == sha256]
    if not files:
        raise CheckpointError(f"{where} holds no checkpoint of this project (.pt)")
    return files[0]


def _read_scores(metrics: Mapping[str, float], policy: str) -> Scores:
    """Return the measurements of a policy by setting, from a run's metrics."""
    scores: dict[str, dict[str, float]] = {}
    for key, value in sorted(metrics.items()):
        for setting in SETTINGS:
            prefix = f"eval/{policy}_{setting}_"
            if key.startswith(prefix):
                scores.setdefault(setting, {})[key.removeprefix(prefix)] = value
    return scores


def _read_data(run: StoredRun) -> dict[str, str]:
    return {key: run.tags[f"data_{key}"] for key in ("source", "label", "md5") if f"data_{key}" in run.tags}


def _join(items: Sequence[object] | Iterator[object] | Collection[str]) -> str:
    return ", ".join(map(str, items))

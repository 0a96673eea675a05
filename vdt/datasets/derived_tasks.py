"""Tasks without a file of their own: `--env data:PATH`, `--env minari:ID`, and named tasks on Minari's data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vdt.config.task import LONGEST_HORIZON
from vdt.data.errors import DataError
from vdt.datasets.ends import EndSettings
from vdt.datasets.hdf5 import scan_file
from vdt.datasets.minari import MinariSet, describe_environment, open_sets
from vdt.datasets.npz import scan_folder
from vdt.datasets.own_files import OwnFiles
from vdt.datasets.summary import (
    NO_REFERENCE,
    OWN_REFERENCE,
    DataSummary,
    check_continuous,
    check_enough,
    derive_own_reference,
    derive_targets,
    derive_task,
)


def derive_file_task(path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the task of `--env data:PATH`: dotted key -> value.

    Args:
        path: an HDF5 file or a folder.
        given: settings of `--set`; `task.horizon` and `data.episode_ends` decide where episodes end, and so all returns.
            With `task.environment_id` one episode is enough, since none is held out.

    Raises:
        DataError: if it is of no accepted format, or holds too few episodes.
    """
    found = OwnFiles.find(path)
    state = found.read_state()
    horizon = given.get("task.horizon")
    limit = (
        horizon if isinstance(horizon, int) and horizon > 0 else None
    )  # anything else is refused with all other values
    settings = EndSettings(str(given.get("data.episode_ends", "checked")), limit, own=True)
    summary = scan_folder(path, limit, found.files) if found.is_folder else scan_file(path, settings)
    digest = found.compute_digest()
    if found.read_state() != state:
        raise DataError(f"{path}: was written to while it was read; run again when it is whole")
    if given.get("task.environment_id") is None:
        check_enough(path, summary, ". If a time limit ended several without a mark, say it: --set task.horizon=N")
    if "task.action_low" not in given:
        check_continuous(path, summary)
    task = derive_task(summary)
    if summary.longest_ended and limit is None and given.get("task.environment_id") is None:
        task["task.horizon"] += 1  # no time limit is known, so a longest episode with both flags ended by itself
    _check_horizon(path, task, ". Cut episodes after N steps with --set task.horizon=N, or record fewer steps a second")
    return {
        **task,
        **_describe_given_scale(task, given),
        "task.family": "data",
        "task.licence": "that of the file given",
        "task.d4rl_sha256": digest,
    }


def derive_minari_task(dataset_id: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the task of `--env minari:ID`: dotted key -> value.

    Args:
        dataset_id: Minari's.
        given: settings of `--set`; with `task.environment_id` the data set need not name an environment.

    Raises:
        DataError: if it is unavailable, or of no accepted format.
    """
    (minari_set,) = sets = open_sets([dataset_id])
    summary = minari_set.scan()
    environment = _describe_environment(sets, given)
    if not environment and given.get("task.environment_id") is None:
        check_enough(dataset_id, summary)
    task = derive_task(summary)
    _check_horizon(dataset_id, task)
    return {
        **task,
        "task.family": "minari",
        "task.licence": minari_set.licence,
        **_describe_actions(minari_set, summary),
        **derive_own_reference(summary),
        **_describe_given_scale(task, given),
        **minari_set.get_reference(),
        **environment,
        "task.minari_ids": [dataset_id],
    }


def _describe_given_scale(task: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what takes the place of "no scale" where the user gives one."""
    keys = ("task.reference_return_min", "task.reference_return_max")
    known = task["task.reference"] == NO_REFERENCE and any(key in given for key in keys)
    return {"task.reference": OWN_REFERENCE} if known else {}


def _check_horizon(name: object, task: Mapping[str, Any], advice: str = "") -> None:
    if task["task.horizon"] > LONGEST_HORIZON:
        raise DataError(
            f"{name}: its longest episode has {task['task.horizon']} steps; accepted are at most {LONGEST_HORIZON}{advice}"
        )


def derive_named_task(env: str, task: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes of a named task on Minari's data: the environment, and the returns to request.

    Where a bridge makes the task D4RL's, Minari's own observations, rewards and score are kept: D4RL's returns do not
    apply.

    Args:
        env: its name.
        task: its facts, dotted key -> value.
        given: settings of `--set`.

    Raises:
        DataError: if there is no such data for the task, or it is unavailable.
    """
    dataset_ids = task.get("task.minari_ids", [])
    if not dataset_ids:
        raise DataError(
            f"--source minari: Minari has no data for {env} (task.minari_ids is empty); use another --source"
        )
    sets = open_sets(dataset_ids)
    environment = _describe_environment(sets, given)
    if not environment:
        raise DataError(f"--source minari: {', '.join(dataset_ids)} names no environment to evaluate {env} in")
    summary = MinariSet.scan_all(sets)
    derived, targets = derive_task(summary), derive_targets(summary)
    named = {**environment, **_describe_actions(sets[0], summary)}
    if task.get("task.bridge", "none") == "none":
        return {**named, "task.candidate_returns": targets["task.candidate_returns"]}
    size = {"task.bridge": "none", "task.observation_size": derived["task.observation_size"]}
    own = derive_own_reference(summary)
    return {**named, **size, **targets, **own, **_describe_given_scale(own, given), **sets[0].get_reference()}


def _describe_environment(sets: list[MinariSet], given: Mapping[str, Any]) -> dict[str, Any]:
    return {} if "task.environment_id" in given else describe_environment(sets)


def _describe_actions(minari_set: MinariSet, summary: DataSummary) -> dict[str, Any]:
    """Return the range of the environment's actions, or of the data's where the environment's has no bounds."""
    names = ("task.action_low", "task.action_high")
    bounds, derived = minari_set.get_action_bounds(float(summary.action_limits.max())), derive_task(summary)
    return dict(zip(names, bounds, strict=True)) if bounds else {name: derived[name] for name in names}

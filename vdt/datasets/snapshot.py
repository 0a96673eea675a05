"""Snapshots: a data set is written once, checked, versioned by DVC, and read by every later step.

`python -m vdt.datasets.snapshot --env walker2d-medium-v2` makes one from the command line (stage `snapshot` of dvc.yaml).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vdt.config.layers import load_yaml
from vdt.config.schema import Config
from vdt.data.storage import DataError, read_snapshot, write_trajectories
from vdt.data.trajectory import TrajectoryDataset
from vdt.datasets.card import describe, describe_missing, format_card, make_card
from vdt.datasets.checksums import compare_checksum
from vdt.datasets.choose import choose_source, get_snapshot_path
from vdt.datasets.loaded_data import LABELS, Choice
from vdt.datasets.summary import OWN_REFERENCE
from vdt.system.files import check_folders, compute_file_digest, write_text
from vdt.system.home import FolderError
from vdt.system.locks import hold_lock

LOST_STEPS = "truncated episodes lost their last step"  # a note of 0.1.0
DVC_LOCK_TRIES, DVC_LOCK_SECONDS = 60, 7.0  # DVC itself waits 3 s each time


@dataclass(frozen=True)
class Snapshot:
    """What later steps need to know of a data set; plain values, so that it can be stored anywhere.

    Attributes:
        env: task name.
        source: "collected", "d4rl", "minari" or "path".
        label: what results on it are to be called.
        reason: why this source was taken.
        path: absolute path of the HDF5 file.
        md5: DVC's digest of the file.
        size: bytes.
        card: the dataset card.
    """

    env: str
    source: str
    label: str
    reason: str
    path: str
    md5: str
    size: int
    card: dict[str, Any]


def make_snapshot(config: Config, home: Path) -> Snapshot:
    """Resolve the source, then load, check, write and version the data, unless that was done before.

    Processes that want the same snapshot wait for the first one to make it.

    Args:
        config: `data` and `task` say what is wanted.
        home: folder below which the snapshot is written.

    Raises:
        FolderError: if the data folder cannot be written.
        DataError: if no source is within reach, or its data is not what the task needs; nothing is written then.
    """
    check_folders(home)
    choice = choose_source(config, home)
    _announce(config, choice)
    path = get_snapshot_path(home, config.file_name, choice.key)
    lock = home / ".vdt" / "locks" / f"{config.file_name}-{choice.key}.lock"
    with hold_lock(lock, f"data {choice.key}"):
        if path.is_file():
            dataset, card = read_snapshot(path)
            _check_version(path, card)
        else:
            _check_writable(path)
            recording = choice.load()
            dataset = recording.dataset
            _check(config, dataset)
            card = make_card(config.env, config.task, choice.source, recording)
            _write(path, dataset, card)
        md5, size = _find_version(path) or _add_to_dvc(home, path)
    print(f"data: {describe(dataset, card)}, md5 {md5}", flush=True)
    for sentence in describe_missing(dataset):
        print(f"data: {sentence}", flush=True)
    card = {**card, "reason": choice.reason}
    if choice.source == "collected" and (note := compare_checksum(choice.key, md5, card["recipe"])):
        print(f"WARNING: {note}", flush=True)
        card["notes"] = [*card["notes"], note]  # here alone: in the file it would change the md5
    return Snapshot(config.env, choice.source, LABELS[choice.source], choice.reason, str(path), md5, size, card)


def _announce(config: Config, choice: Choice) -> None:
    """Say loudly what is taken and why."""
    what = f"DATA  {config.env}  from source {choice.source.upper()}"
    if choice.source != "d4rl":
        what += f"  {LABELS[choice.source]}: its scores are not D4RL scores"
    lines = [what, f"why   {choice.reason}"]
    if config.task.reference == OWN_REFERENCE:
        lines.append(f"SCORE 0 and 100 are {config.task.reference}")
    if not config.has_environment:
        lines.append("NO ENVIRONMENT  online tuning and returns are not available; held-out episodes are evaluated on")
    print("\n".join(["=" * 100, *lines, "=" * 100]), flush=True)


def _check_version(path: Path, card: Mapping[str, Any]) -> None:
    """Refuse what an earlier version read with a loss.

    Raises:
        DataError: if last steps were dropped, with their rewards.
    """
    if lost := [note for note in card.get("notes", ()) if LOST_STEPS in note]:
        raise DataError(
            f"{path} was made by an earlier version, which dropped recorded rewards ({lost[0]}). "
            f"Delete {path.parent} and run again: every recorded step is kept now"
        )


def _check(config: Config, dataset: TrajectoryDataset) -> None:
    """What every source must have kept; the last check before anything is written."""
    task = config.task
    sizes = (dataset.observation_size, dataset.action_size)
    if sizes != (task.observation_size, task.action_size):
        raise DataError(
            f"{config.env}: the data has {sizes[0]} observations and {sizes[1]} actions; "
            f"accepted are {task.observation_size} and {task.action_size}"
        )
    if not dataset.target_steps:
        raise DataError(
            f"{config.env}: none of the {dataset.steps} steps has an observation after it, so the critic has no target; "
            f"accepted is at least one (next_observations, a longer episode, or a real end)"
        )
    for name in ("observations", "actions", "rewards"):
        if not np.isfinite(getattr(dataset, name)).all():
            raise DataError(f"{config.env}: {name} has values that are not finite; accepted are finite float32")
    if np.abs(dataset.actions).max() > 1.0:
        raise DataError(f"{config.env}: actions reach {np.abs(dataset.actions).max()}; accepted is [-1, 1]")


def _check_writable(path: Path) -> None:
    """Try the nearest folder above `path` that exists, so that collecting or fetching is not in vain."""
    folder = next(parent for parent in path.parents if parent.exists())
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise _make_folder_error(path, error) from None


def _write(path: Path, dataset: TrajectoryDataset, card: Mapping[str, Any]) -> None:
    try:
        write_trajectories(path, dataset, card)
    except OSError as error:  # e.g. the disk is full
        raise _make_folder_error(path, error) from None


def _make_folder_error(path: Path, error: OSError) -> FolderError:
    return FolderError(f"cannot write to {path} ({error.strerror}); set VDT_HOME to a folder that you can write to")


def _find_version(path: Path) -> tuple[str, int] | None:
    """md5 and size of a file that is versioned already; None if it is not, e.g. after a kill between writing and that.

    Raises:
        DataError: if the file was changed afterwards: it must not be used, or versioned anew, in silence.
    """
    record = path.with_name(f"{path.name}.dvc")
    if not record.is_file():
        return None
    recorded = load_yaml(record)["outs"][0]["md5"]
    found = compute_file_digest(path, "md5")
    if found != recorded:
        raise DataError(
            f"{path} has md5 {found}, but {record.name} records {recorded}: it is not the file that was versioned. "
            f"Run `dvc checkout {record}`, or delete {path.parent}"
        )
    return found, path.stat().st_size


def _add_to_dvc(home: Path, path: Path) -> tuple[str, int]:
    """`dvc add`, without git commands; works without a git repository, and makes the DVC repository if there is none.

    Returns:
        DVC's md5 of the file, and its size in bytes.
    """
    os.environ["DVC_NO_ANALYTICS"] = "1"
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo

    settings: dict[str, Any] = {"core": {"autostage": False, "analytics": False}}
    if not (home / ".git").exists():
        settings["core"]["no_scm"] = True
    quiet = contextlib.redirect_stdout(io.StringIO())
    try:
        with hold_lock(home / ".vdt" / "locks" / "dvc.lock", "DVC"):
            for _ in range(DVC_LOCK_TRIES):
                try:
                    with quiet:
                        return _add(Repo, home, settings, path)
                except LockError:
                    print(
                        f"data: DVC is locked by another process ({home / '.dvc' / 'tmp'}); waiting for it", flush=True
                    )
                    time.sleep(DVC_LOCK_SECONDS)
    except DvcException as error:
        raise DataError(f"DVC cannot version {path}: {error}") from error
    raise DataError(f"DVC cannot version {path}: its lock in {home / '.dvc' / 'tmp'} stays taken by another process")


def _add(repository: Any, home: Path, settings: dict[str, Any], path: Path) -> tuple[str, int]:
    if not (home / ".dvc").is_dir():
        repository.init(str(home), no_scm=True).close()  # with git, init would stage files there
    with repository(str(home), config=settings) as repo:
        out = repo.add([str(path)])[0].outs[0]
        return str(out.hash_info.value), int(out.meta.size)


def main(arguments: list[str] | None = None) -> None:
    """Make a snapshot and write its md5 and card to REPORTS/ENV/dataset.json."""
    import argparse

    from vdt.experiments.resolve import resolve_config
    from vdt.system.home import home

    parser = argparse.ArgumentParser(prog="python -m vdt.datasets.snapshot", description=main.__doc__)
    parser.add_argument("--env", required=True, help="name of a task, minari:NAMESPACE/NAME-vN, or data:PATH")
    parser.add_argument("--preset", default="laptop")
    parser.add_argument("--source", default="auto", help="auto, collected, d4rl, minari or path:FILE")
    parser.add_argument("--set", default="", dest="overrides", help='e.g. "data.steps=50000"')
    options = parser.parse_args(arguments)
    try:
        config = resolve_config(options.env, preset=options.preset, source=options.source, overrides=options.overrides)
        snapshot = make_snapshot(config, home())
    except (ValueError, FolderError) as error:
        parser.exit(1, f"error: {error}\n")
    folder = home() / "reports" / config.file_name
    stable = {"md5": snapshot.md5, "size": snapshot.size, "source": snapshot.source}
    card = {name: value for name, value in snapshot.card.items() if name != "reason"}  # differs from run to run
    write_text(folder / "dataset.json", json.dumps({**stable, "card": card}, indent=2, sort_keys=True) + "\n")
    write_text(folder / "dataset.md", format_card(snapshot.card))
    print(f"data: {folder / 'dataset.json'}", flush=True)


if __name__ == "__main__":
    main()

"""Snapshots: data sets written once, checked, versioned by DVC, and read by every later step."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vdt.config.schema import Config
from vdt.data.errors import DataError
from vdt.data.residence import NO_ROOM, Residence
from vdt.data.storage import read_snapshot, write_trajectories
from vdt.data.trajectory import LARGE, TrajectoryDataset
from vdt.datasets.card import describe, describe_clipping, describe_doubts, make_card, measure_scores
from vdt.datasets.checksums import compare_checksum, describe_missing_checksum
from vdt.datasets.choose import choose_episodes, choose_source, get_snapshot_path
from vdt.datasets.loaded_data import DataChoice, LoadedData, make_label
from vdt.datasets.own_doubts import log_doubts
from vdt.datasets.summary import NO_REFERENCE, OWN_REFERENCE, describe_action_scale, make_no_target_error
from vdt.datasets.versioning import add_version, find_version
from vdt.system.files import check_folders, remove_leftovers
from vdt.system.home import FolderError
from vdt.system.locks import hold_lock

LOST_STEPS = "truncated episodes lost their last step"  # a note of 0.1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """Facts about a data set for later steps; plain values, so that it can be stored anywhere.

    Attributes:
        env: task name.
        source: "collected", "d4rl", "minari" or "path".
        label: of results on it.
        reason: of the choice of this source.
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


def make_snapshot(config: Config, home: Path, given: Collection[str] = ()) -> Snapshot:
    """Resolve the source, then load, check, write and version the data, unless that was done before.

    Processes that want the same snapshot wait for the first one to make it.

    Args:
        config: `data` and `task` select the data.
        home: folder below which the snapshot is written.
        given: keys that the user has set; what was given is not advised.

    Raises:
        FolderError: if the data folder cannot be written.
        DataError: if no source is available, or its data does not fit the task; nothing is written then.
    """
    check_folders(home)
    choice = choose_source(config, home)
    _announce(config, choice, given)
    path = get_snapshot_path(home, config.file_name, choice.key)
    lock = home / ".vdt" / "locks" / f"{config.file_name}-{choice.key}.lock"
    with hold_lock(lock, f"data {choice.key}"):
        if not path.is_file():
            _make(config, choice, path)
        dataset, card = read_snapshot(path, Residence(config.data.residence))
        _check_version(path, card)
        md5, size = find_version(path) or add_version(home, path)
    _check_training(config, dataset)
    card = {**card, **measure_scores(dataset, config.task), "reason": choice.reason}
    logger.info(f"data: {describe(dataset, card)}, md5 {md5}")
    for sentence in describe_doubts(dataset, config.task):
        logger.info(f"data: {sentence}")
    if choice.source in ("path", "minari") and card["clipped_actions"]:
        logger.warning(f"data: {describe_clipping(card, config.task)}")
    if choice.source in ("path", "minari"):
        log_doubts(dataset, config.task, choice.actions, given)
    if choice.source == "collected":
        _compare(choice.key, md5, card)
    return Snapshot(
        config.env, choice.source, make_label(choice.source, config.task), choice.reason, str(path), md5, size, card
    )


def _make(config: Config, choice: DataChoice, path: Path) -> None:
    """Load, check and write the data. Files that held it meanwhile are gone afterwards."""
    _check_writable(path)
    remove_leftovers(path)
    recording = _load(choice, path)
    _check(config, recording.dataset)
    _write(path, recording.dataset, make_card(config.env, config.task, choice.source, recording))


def _load(choice: DataChoice, path: Path) -> LoadedData:
    try:
        return choice.load()
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise _make_folder_error(Path(error.filename or path), error) from None


def _compare(key: str, md5: str, card: dict[str, Any]) -> None:
    """Record in log and card that collected data differ from the recorded md5; log a recipe without a record."""
    if other := compare_checksum(key, md5, card["recipe"]):
        logger.warning(other)
        card["notes"] = [*card["notes"], other]  # here alone: in the file it would change the md5
    if missing := describe_missing_checksum(key, card["recipe"]):
        logger.info(f"data: {missing}")


def _announce(config: Config, choice: DataChoice, given: Collection[str]) -> None:
    """Log the chosen source and its reason."""
    what = f"DATA  {config.env}  from source {choice.source.upper()}"
    if choice.source != "d4rl":
        what += f"  {make_label(choice.source, config.task)}: its scores are not D4RL scores"
    lines = [what, f"why   {choice.reason}"]
    if choice.source == "d4rl" and not config.task.d4rl_sha256:
        lines.append("D4RL  by its name alone: no digest of the file is known, so its content is not verified")
    if config.task.reference in (OWN_REFERENCE, NO_REFERENCE):
        lines.append(f"SCORE 0 and 100 are {config.task.reference}")
    if config.env.startswith("data:"):
        lines.append(f"ACTIONS are {describe_action_scale(config.task, given='task.action_low' in given)}")
    if not config.has_environment:
        lines.append("NO ENVIRONMENT  online tuning and returns are not available; held-out episodes are evaluated on")
    logger.info("\n".join(["=" * 100, *lines, "=" * 100]))


def _check_version(path: Path, card: Mapping[str, Any]) -> None:
    """Refuse data that an earlier version read with a loss.

    Raises:
        DataError: if last steps were dropped, with their rewards.
    """
    if lost := [note for note in card.get("notes", ()) if LOST_STEPS in note]:
        raise DataError(
            f"{path} was made by an earlier version, which dropped recorded rewards ({lost[0]}). "
            f"Delete {path.parent} and run again: every recorded step is kept now"
        )


def _check(config: Config, dataset: TrajectoryDataset) -> None:
    """Check the guarantees of every source, last before anything is written."""
    task = config.task
    sizes = (dataset.observation_size, dataset.action_size)
    if sizes != (task.observation_size, task.action_size):
        raise DataError(
            f"{config.env}: the data has {sizes[0]} observations and {sizes[1]} actions; "
            f"accepted are {task.observation_size} and {task.action_size}"
        )
    if not dataset.target_steps:
        raise make_no_target_error(config.env, dataset.steps)
    if len(dataset) < 2 and config.data.held_out_fraction > 0:
        raise DataError(
            f"{config.env}: the data has one episode, and data.held_out_fraction {config.data.held_out_fraction:g} takes whole "
            "episodes; accepted are 0, or at least 2 episodes"
        )
    for name in LARGE:
        if not all(np.isfinite(block).all() for block in dataset.iterate_blocks(name)):
            raise DataError(f"{config.env}: {name} has values that are not finite; accepted are finite float32")
    _check_returns(config.env, dataset)
    largest = max(np.abs(block).max() for block in dataset.iterate_blocks("actions"))
    if largest > 1.0:
        raise DataError(f"{config.env}: actions reach {largest}; accepted is [-1, 1]")


def _check_training(config: Config, dataset: TrajectoryDataset) -> None:
    """Refuse a choice of episodes to train on that leaves a critic without a target."""
    if config.critic.gradient_steps == 0:
        return
    training = choose_episodes(dataset, config)[0].keep_best(config.data.keep_best_fraction)
    if not training.target_steps:
        chosen = "those that data.held_out_fraction, data.seed and data.keep_best_fraction leave to train on"
        raise make_no_target_error(f"{config.env}, {chosen}", training.steps)


def _check_returns(env: str, dataset: TrajectoryDataset) -> None:
    """Refuse an episode whose return-to-go is beyond float32 at any step."""
    limit = float(np.finfo(np.float32).max)
    largest_reward = max(float(np.abs(block).max()) for block in dataset.iterate_blocks("rewards"))
    if largest_reward * float(dataset.lengths.max()) <= limit:
        return
    for number, episode in enumerate(dataset):
        largest = float(np.abs(np.cumsum(episode.rewards[::-1], dtype=np.float64)).max())
        if largest > limit:
            raise DataError(
                f"{env}: rewards of episode {number} add up to {largest:g}; accepted are returns within float32, below "
                f"{limit:g}: record rewards in a larger unit"
            )


def _check_writable(path: Path) -> None:
    """Try the nearest folder above `path` that exists, before the work of collecting or fetching."""
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

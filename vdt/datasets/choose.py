"""Data sources and the choice between them.

`auto` takes the first available one: an earlier snapshot, a D4RL file in the cache folder, D4RL by network, and the
built-in source `collected`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from vdt.config.schema import Config
from vdt.data.action_range import make_range_recipe
from vdt.data.errors import DataError
from vdt.data.residence import Residence
from vdt.data.trajectory import FloatArray, TrajectoryDataset
from vdt.datasets.collected import find_collection
from vdt.datasets.d4rl import get_cache_file, load_d4rl, make_d4rl_key
from vdt.datasets.download import probe
from vdt.datasets.ends import EndSettings
from vdt.datasets.hdf5 import iterate_actions, read_recording
from vdt.datasets.loaded_data import DataChoice, LoadedData
from vdt.datasets.minari import open_sets, read_sets
from vdt.datasets.npz import iterate_folder_actions, read_folder
from vdt.datasets.own_files import OwnFiles
from vdt.datasets.relabel import relabel_recording

__all__ = ["DataChoice", "DataError", "LoadedData", "choose_episodes", "choose_source", "get_snapshot_path"]


def get_snapshot_path(home: Path, env: str, key: str) -> Path:
    """Return the file of a snapshot: HOME/data/ENV/KEY/trajectories.hdf5."""
    return home / "data" / env / key / "trajectories.hdf5"


def choose_source(config: Config, home: Path) -> DataChoice:
    """Choose the data source, without loading the data.

    Args:
        config: `data.source` is auto, collected, d4rl, minari or path:FILE; `env` may name its data itself.
        home: folder below which earlier snapshots are looked for.

    Raises:
        DataError: if the requested source, or with `auto` every source, is unavailable; it names the alternatives.
    """
    residence = Residence(config.data.residence, home / "data")
    choice = _choose(config, home, residence)
    load = choice.load
    return dataclasses.replace(choice, load=lambda: relabel_recording(load(), config.task, residence))


def _choose(config: Config, home: Path, residence: Residence) -> DataChoice:
    source = config.data.source
    if config.task.minari_ids and (source == "minari" or config.env.startswith("minari:")):
        return _choose_minari(config, residence)
    if config.env.startswith("data:"):
        return _choose_path(config, config.env.removeprefix("data:"), "--env data:PATH was given", residence)
    if source.startswith("path:"):
        given = source.removeprefix("path:")
        return _choose_path(config, given, f"--source path:{given} was given", residence)
    if source == "d4rl":
        return _choose_d4rl(config, home, residence)
    if source == "collected":
        return _choose_collected(config, "--source collected was given", residence)
    return _choose_any(config, home, residence)


def _choose_any(config: Config, home: Path, residence: Residence) -> DataChoice:
    """Choose the first available source (`auto`)."""
    d4rl_key, collection = make_d4rl_key(config), find_collection(config, residence)
    if get_snapshot_path(home, config.env, d4rl_key).is_file():
        return _d4rl(config, "auto: a snapshot of the D4RL file is here already", residence, fetch=False)
    if collection is not None and get_snapshot_path(home, config.env, collection.key).is_file():
        return _choose_collected(config, "auto: a snapshot collected with these settings is here already", residence)
    missing = "its task names no file of D4RL's (task.d4rl_url is empty)"
    if config.task.d4rl_url:
        cached = get_cache_file(config.task.d4rl_url)
        if cached.is_file():
            return _d4rl(
                config, f"auto: no snapshot yet, and D4RL's file is in the cache ({cached})", residence, fetch=False
            )
        problem = probe(config.task.d4rl_url)
        if problem is None:
            return _d4rl(
                config,
                f"auto: no snapshot, not in the cache, and {config.task.d4rl_url} answers",
                residence,
                fetch=True,
            )
        missing = f"no D4RL file at {cached}, and {config.task.d4rl_url} cannot be reached ({problem})"
    if collection is not None:
        reason = f"auto: no snapshot yet, {missing}, so the built-in source takes its place"
        return _choose_collected(config, reason, residence)
    fetch = (
        f"Download it where there is a network and put it into {cached.parent} (or set D4RL_DATASET_DIR); or use"
        if config.task.d4rl_url
        else "Use"
    )
    raise DataError(
        f"{config.env}: no data: {missing}. {fetch} --source path:FILE{' or --source minari' if config.task.minari_ids else ''}. "
        f"There is no behaviour policy for {config.task.environment_id} to collect with"
    )


def _choose_path(config: Config, given: str, reason: str, residence: Residence) -> DataChoice:
    """Choose a file or folder that the user named; its content is part of the snapshot's key.

    Of own data that is the content from which its facts were derived, whatever has come to it since.

    Raises:
        DataError: if there is no such file or folder.
    """
    path, task, settings = Path(given).expanduser().resolve(), config.task, EndSettings.from_config(config)
    listed = OwnFiles.find(path)
    digest = (task.d4rl_sha256 if settings.own else "") or listed.compute_digest()

    def load() -> LoadedData:
        found = listed.select(digest)
        if found.is_folder:
            horizon = task.horizon if settings.cuts else None
            loaded = read_folder(path, task, recipe, horizon, residence, found.files)
        else:
            loaded = read_recording(path, task, recipe, settings=settings, residence=residence)
        found.check(digest)
        return loaded

    def read_actions() -> Iterator[FloatArray]:
        found = listed.select(digest)
        return iterate_folder_actions(found.files) if found.is_folder else iterate_actions(path)

    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", path.stem).strip("._")[:40] or "file"
    recipe = {"file": path.name, "sha256": digest, "horizon": task.horizon}
    recipe.update(make_range_recipe(task.action_low, task.action_high))
    if settings.mode != "checked":
        recipe["episode_ends"] = settings.mode
    bridge = "" if task.bridge == "none" else f"{task.bridge}-"  # it may relabel rewards and ends
    what = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    actions = read_actions if settings.own else None  # of a task that is known, the range is its own
    return DataChoice("path", f"path-{bridge}{stem}-{what[:8]}", reason, load, actions)


def _choose_minari(config: Config, residence: Residence) -> DataChoice:
    sets = open_sets(config.task.minari_ids)
    digests = {minari_set.dataset_id: minari_set.compute_digest() for minari_set in sets}
    task = config.task
    recipe = {"minari": digests, "action_low": list(task.action_low), "action_high": list(task.action_high)}
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    where = f"evaluated in {task.environment_id}" if config.has_environment else "without an environment"
    reason = f"Minari's {', '.join(digests)} from {sets[0].folder.parent}, {where}"

    def read_actions() -> Iterator[FloatArray]:
        return (actions for one in sets for _, actions, _, _ in one.episodes.iterate(observations=False))

    bounded = bool(task.action_low) and sets[0].get_action_bounds(max(task.action_high)) is not None
    return DataChoice(
        "minari",
        f"minari-{digest[:8]}",
        reason,
        lambda: read_sets(sets, task, recipe, residence),
        None if bounded else read_actions,
    )


def _choose_d4rl(config: Config, home: Path, residence: Residence) -> DataChoice:
    if get_snapshot_path(home, config.env, make_d4rl_key(config)).is_file():
        return _d4rl(config, "--source d4rl was given; its snapshot is here already", residence, fetch=False)
    if not config.task.d4rl_url:
        raise DataError(
            f"--source d4rl: the task of {config.env} names no file of D4RL's (task.d4rl_url is empty); use --source auto or "
            f"path:FILE"
        )
    cached = get_cache_file(config.task.d4rl_url)
    if cached.is_file():
        return _d4rl(config, f"--source d4rl was given; the file is in the cache ({cached})", residence, fetch=False)
    problem = probe(config.task.d4rl_url)
    if problem is None:
        return _d4rl(config, f"--source d4rl was given; fetched from {config.task.d4rl_url}", residence, fetch=True)
    raise DataError(
        f"--source d4rl: no file at {cached}, and {config.task.d4rl_url} cannot be reached ({problem}). "
        f"Put the file there (or set D4RL_DATASET_DIR), or use --source collected or path:FILE"
    )


def _d4rl(config: Config, reason: str, residence: Residence, *, fetch: bool) -> DataChoice:
    return DataChoice("d4rl", make_d4rl_key(config), reason, lambda: load_d4rl(config, residence, fetch=fetch))


def _choose_collected(config: Config, reason: str, residence: Residence) -> DataChoice:
    collection = find_collection(config, residence)
    if collection is None:
        url = config.task.d4rl_url
        put = f"Put D4RL's file at {get_cache_file(url)} and use --source d4rl, or use" if url else "Use"
        raise DataError(
            f"--source collected: there is no behaviour policy for {config.task.environment_id} "
            f"(its ladder is {config.ladder!r}). {put} --source path:FILE, or train a ladder with flows/behavior_flow.py"
        )
    return DataChoice("collected", collection.key, reason, collection.load)


def choose_episodes(dataset: TrajectoryDataset, config: Config) -> tuple[TrajectoryDataset, TrajectoryDataset | None]:
    """Return the episodes to train on and the held-out ones, as far as the horizon goes (`data.beyond_horizon`)."""
    if config.data.beyond_horizon == "drop":
        dataset = dataset.keep_first(config.task.horizon)
    return dataset.split(config.data.held_out_fraction, config.data.seed)

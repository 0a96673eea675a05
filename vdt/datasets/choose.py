"""Data sources and the choice between them.

`auto` takes the first that is there: a snapshot made before, a D4RL file in the cache folder, D4RL by network, and the
built-in source `collected`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from vdt.config.schema import Config
from vdt.data.storage import DataError
from vdt.datasets.collected import find_collection
from vdt.datasets.d4rl import get_cache_file, load_d4rl, make_d4rl_key
from vdt.datasets.download import probe
from vdt.datasets.loaded_data import Choice, Recording
from vdt.datasets.minari import open_sets, read_sets
from vdt.datasets.path import choose_path
from vdt.datasets.relabel import relabel_recording

__all__ = ["Choice", "DataError", "Recording", "choose_source", "get_snapshot_path"]


def get_snapshot_path(home: Path, env: str, key: str) -> Path:
    """The file of a snapshot: HOME/data/ENV/KEY/trajectories.hdf5."""
    return home / "data" / env / key / "trajectories.hdf5"


def choose_source(config: Config, home: Path) -> Choice:
    """Decide where the data comes from, without loading it.

    Args:
        config: `data.source` says auto, collected, d4rl, minari or path:FILE; `env` may name its data itself.
        home: below it, earlier snapshots are looked for.

    Raises:
        DataError: if the source asked for, or with `auto` every source, is out of reach; it says what remains.
    """
    choice = _choose(config, home)
    load = choice.load
    return dataclasses.replace(choice, load=lambda: relabel_recording(load(), config.task))


def _choose(config: Config, home: Path) -> Choice:
    source = config.data.source
    if config.task.minari_ids and (source == "minari" or config.env.startswith("minari:")):
        return _choose_minari(config)
    if config.env.startswith("data:"):
        return choose_path(config, config.env.removeprefix("data:"), "--env data:PATH was given")
    if source.startswith("path:"):
        given = source.removeprefix("path:")
        return choose_path(config, given, f"--source path:{given} was given")
    if source == "d4rl":
        return _choose_d4rl(config, home)
    if source == "collected":
        return _choose_collected(config, "--source collected was given")
    return _choose_any(config, home)


def _choose_any(config: Config, home: Path) -> Choice:
    """`auto`."""
    d4rl_key, collection = make_d4rl_key(config), find_collection(config)
    if get_snapshot_path(home, config.env, d4rl_key).is_file():
        return _d4rl(config, "auto: a snapshot of the D4RL file is here already", fetch=False)
    if collection is not None and get_snapshot_path(home, config.env, collection.key).is_file():
        return _choose_collected(config, "auto: a snapshot collected with these settings is here already")
    cached = get_cache_file(config.task.d4rl_url)
    if cached.is_file():
        return _d4rl(config, f"auto: no snapshot yet, and D4RL's file is in the cache ({cached})", fetch=False)
    problem = probe(config.task.d4rl_url)
    if problem is None:
        return _d4rl(config, f"auto: no snapshot, not in the cache, and {config.task.d4rl_url} answers", fetch=True)
    missing = f"no D4RL file at {cached}, and {config.task.d4rl_url} cannot be reached ({problem})"
    if collection is not None:
        return _choose_collected(config, f"auto: no snapshot yet, {missing}, so the built-in source takes its place")
    raise DataError(
        f"{config.env}: no data: {missing}. Download it where there is a network and put it into {cached.parent} "
        f"(or set D4RL_DATASET_DIR); or use --source path:FILE"
        f"{' or --source minari' if config.task.minari_ids else ''}. "
        f"There is no behaviour policy for {config.task.environment_id} to collect with"
    )


def _choose_minari(config: Config) -> Choice:
    sets = open_sets(config.task.minari_ids)
    digests = {minari_set.dataset_id: minari_set.compute_digest() for minari_set in sets}
    task = config.task
    recipe = {"minari": digests, "action_low": list(task.action_low), "action_high": list(task.action_high)}
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    where = f"evaluated in {task.environment_id}" if config.has_environment else "without an environment"
    reason = f"Minari's {', '.join(digests)} from {sets[0].folder.parent}, {where}"
    return Choice("minari", f"minari-{digest[:8]}", reason, lambda: read_sets(sets, task, recipe))


def _choose_d4rl(config: Config, home: Path) -> Choice:
    if get_snapshot_path(home, config.env, make_d4rl_key(config)).is_file():
        return _d4rl(config, "--source d4rl was given; its snapshot is here already", fetch=False)
    cached = get_cache_file(config.task.d4rl_url)
    if cached.is_file():
        return _d4rl(config, f"--source d4rl was given; the file is in the cache ({cached})", fetch=False)
    problem = probe(config.task.d4rl_url)
    if problem is None:
        return _d4rl(config, f"--source d4rl was given; fetched from {config.task.d4rl_url}", fetch=True)
    raise DataError(
        f"--source d4rl: no file at {cached}, and {config.task.d4rl_url} cannot be reached ({problem}). "
        f"Put the file there (or set D4RL_DATASET_DIR), or use --source collected or path:FILE"
    )


def _d4rl(config: Config, reason: str, *, fetch: bool) -> Choice:
    return Choice("d4rl", make_d4rl_key(config), reason, lambda: load_d4rl(config, fetch=fetch))


def _choose_collected(config: Config, reason: str) -> Choice:
    collection = find_collection(config)
    if collection is None:
        raise DataError(
            f"--source collected: there is no behaviour policy for {config.task.environment_id} "
            f"(task.collected.ladder is {config.task.collected.ladder!r}). Put D4RL's file at "
            f"{get_cache_file(config.task.d4rl_url)} and use --source d4rl, or use --source path:FILE, "
            f"or train a ladder with flows/behavior_flow.py"
        )
    return Choice("collected", collection.key, reason, collection.load)

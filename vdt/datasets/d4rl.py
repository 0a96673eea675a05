"""Source `d4rl`: the original HDF5 file, from D4RL's cache folder or from its address."""

from __future__ import annotations

import hashlib
import logging
import os
import urllib.parse
from pathlib import Path
from typing import Any

from vdt.config.schema import Config
from vdt.data.action_range import make_range_recipe
from vdt.data.residence import MEMORY, Residence
from vdt.datasets.download import check_digest, download
from vdt.datasets.ends import EndSettings
from vdt.datasets.hdf5 import check_schema, read_recording
from vdt.datasets.loaded_data import LoadedData
from vdt.system.files import compute_file_digest

logger = logging.getLogger(__name__)


def get_cache_file(url: str) -> Path:
    """Return D4RL's own path of the file: `$D4RL_DATASET_DIR` or `~/.d4rl/datasets`, under the address's last part."""
    folder = os.environ.get("D4RL_DATASET_DIR") or "~/.d4rl/datasets"
    return Path(folder).expanduser() / Path(urllib.parse.urlsplit(url).path).name


def make_d4rl_key(config: Config) -> str:
    """Return the folder name of the snapshot."""
    task = config.task
    bridge = () if task.bridge == "none" else (task.bridge,)  # it may relabel rewards and ends
    mode = config.data.episode_ends
    ends = () if mode == "checked" else (mode,)
    scale = [f"{low} {high}" for low, high in zip(task.action_low, task.action_high, strict=True)]
    what = " ".join([task.d4rl_url, str(task.horizon), *bridge, *task.d4rl_repairs, *ends, *scale])
    digest = hashlib.sha256(what.encode()).hexdigest()
    return f"d4rl-{digest[:8]}"


def load_d4rl(config: Config, residence: Residence = MEMORY, *, fetch: bool) -> LoadedData:
    """Read the cached file, downloading it before if `fetch`.

    Raises:
        DataError: if it is unavailable, or does not fit the task.
    """
    url, task = config.task.d4rl_url, config.task
    path = get_cache_file(url)
    if fetch:
        logger.info(f"download: {url} -> {path}")
        download(url, path, lambda part: check_schema(part, task), task.d4rl_sha256)
    else:
        check_digest(path, task.d4rl_sha256)
    recipe: dict[str, Any] = {"url": url, "sha256": compute_file_digest(path, "sha256"), "horizon": task.horizon}
    recipe.update(make_range_recipe(task.action_low, task.action_high))
    if task.d4rl_repairs:
        recipe["repairs"] = list(task.d4rl_repairs)
    mode = config.data.episode_ends
    if mode != "checked":
        recipe["episode_ends"] = mode
    # D4RL's numbers rest on its unchanged files: contradictions of their marks are noted, not refused
    settings = EndSettings("marked" if mode == "checked" else mode, task.horizon)
    return read_recording(path, task, recipe, task.d4rl_repairs, settings, residence)

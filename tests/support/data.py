"""D4RL files of known content, small configurations for the data sources, and the paths of real files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from vdt.config.schema import Config
from vdt.experiments.resolve import resolve_config

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "http://127.0.0.1:9/folder/file.hdf5"  # the discard port: refused at once


def make_data_config(source: str, env: str = "walker2d-medium-v2", url: str = NOWHERE, **settings: Any) -> Config:
    """Make the smoke preset with another address; `settings` are keys with `__` for the dot."""
    text = " ".join(f"{key.replace('__', '.')}={value}" for key, value in {"task__d4rl_url": url, **settings}.items())
    return resolve_config(env, preset="smoke", source=source, overrides=text)


def make_small_config(
    source: str, url: str = NOWHERE, horizon: int = 5, d4rl_sha256: str = "", **settings: Any
) -> Config:
    """Make a task of two observations, one action and episodes of at most `horizon` steps."""
    sizes = {
        "task__observation_size": 2,
        "task__action_size": 1,
        "task__horizon": horizon,
        "task__d4rl_sha256": f"\"'{d4rl_sha256}'\"",
    }
    return make_data_config(source, url=url, **sizes, **settings)


def make_steps(count: int, *, terminals: tuple[int, ...] = (), timeouts: tuple[int, ...] = ()) -> dict[str, Any]:
    """Make arrays in D4RL's schema: step i has observation (i, -i), action i / 100 and reward i."""
    index = np.arange(count, dtype=np.float32)
    return {
        "observations": np.stack([index, -index], axis=1),
        "actions": index[:, None] / 100,
        "rewards": index,
        "terminals": np.isin(np.arange(count), terminals),
        "timeouts": np.isin(np.arange(count), timeouts),
    }


def write_hdf5(path: Path, arrays: dict[str, Any]) -> Path:
    """Write arrays as flat data sets."""
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
    return path


def find_real_file(name: str) -> Path:
    """Find a file of the shared test data, `VDT_TEST_DATA` or beside the repository; skip the test where it is absent."""
    folder = Path(os.environ.get("VDT_TEST_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / name).is_file():
        pytest.skip(f"{folder / name} is not here")
    return folder / name

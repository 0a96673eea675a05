"""Source `path:` and tasks `data:`: an HDF5 file in D4RL's schema, or a folder of npz episodes."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from vdt.config.schema import Config
from vdt.data.storage import DataError
from vdt.datasets.ends import EndSettings
from vdt.datasets.hdf5 import read_recording
from vdt.datasets.loaded_data import Choice, Recording
from vdt.datasets.npz import compute_folder_digest, list_episodes, read_folder
from vdt.system.files import compute_file_digest


def choose_path(config: Config, given: str, reason: str) -> Choice:
    """A file or folder that the user named; its content is part of the snapshot's key.

    Raises:
        DataError: if there is no such file or folder.
    """
    path, task = Path(given).expanduser().resolve(), config.task
    try:
        if path.is_dir():
            digest = compute_folder_digest(list_episodes(path))
        elif path.is_file():
            digest = compute_file_digest(path, "sha256")
        else:
            raise DataError(
                f"{given}: no such file; accepted is an HDF5 file in D4RL's schema or a folder of npz episodes"
            )
    except OSError as error:
        raise DataError(f"{given}: cannot be read ({error.strerror})") from None
    settings = EndSettings.from_config(config)

    def load() -> Recording:
        if path.is_dir():
            return read_folder(path, task, recipe, task.horizon if settings.cuts else None)
        return read_recording(path, task, recipe, settings=settings)

    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", path.stem).strip("._")[:40] or "file"
    recipe = {"file": path.name, "sha256": digest, "horizon": task.horizon}
    if task.action_low:
        recipe.update(action_low=list(task.action_low), action_high=list(task.action_high))
    if settings.mode != "checked":
        recipe["episode_ends"] = settings.mode
    bridge = "" if task.bridge == "none" else f"{task.bridge}-"  # it may relabel rewards and ends
    what = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    return Choice("path", f"path-{bridge}{stem}-{what[:8]}", reason, load)

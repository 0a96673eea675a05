"""Source `path:FILE`: any HDF5 file in D4RL's schema."""

from __future__ import annotations

import re
from pathlib import Path

from vdt.config import Config
from vdt.data.sources.hdf5 import read_recording
from vdt.data.sources.recording import Choice, DataError
from vdt.files import compute_file_digest


def choose_path(config: Config) -> Choice:
    """The file named by `--source path:FILE`; its content is part of the snapshot's key.

    Raises:
        DataError: if there is no such file.
    """
    given = config.data.source.removeprefix("path:")
    path = Path(given).expanduser().resolve()
    if not path.is_file():
        raise DataError(f"--source path:{given}: no such file; accepted is an HDF5 file in D4RL's schema")
    try:
        digest = compute_file_digest(path, "sha256")
    except OSError as error:
        raise DataError(f"--source path:{given}: cannot be read ({error.strerror})") from None
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", path.stem).strip("._")[:40] or "file"
    recipe = {"file": path.name, "sha256": digest, "horizon": config.task.horizon}
    return Choice(
        source="path",
        key=f"path-{stem}-{digest[:8]}",
        reason=f"--source path:{given} was given",
        load=lambda: read_recording(path, config.task, recipe),
    )

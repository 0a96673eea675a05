"""Files that later steps need. Where steps may run on other machines, their content travels through Metaflow's datastore."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vdt.config.errors import ConfigError
from vdt.system.files import atomic_write, compute_file_digest
from vdt.system.home import home

DIGESTS = ("sha256", "md5")
FIELDS = ("path", *DIGESTS, "parts", "below_home")  # that a description may have
PART_BYTES = 2**26  # 64 MB


def describe_file(flow: Any, path: Path, digest: str = "sha256") -> dict[str, Any]:
    """Return a file as an artifact: its path and digest and, unless the datastore is this machine's disk, its parts there.

    Args:
        flow: the running flow.
        path: the file.
        digest: one of `DIGESTS`.
    """
    file: dict[str, Any] = {"path": str(path), digest: compute_file_digest(path, digest)}
    if path.is_relative_to(home()):
        file["below_home"] = str(path.relative_to(home()))  # found again where the home folder was moved
    if not keeps_files_here(flow):
        file["parts"] = upload(_get_datastore(flow), path)
    return file


def upload(datastore: Any, path: Path) -> list[str]:
    """Keep a file in Metaflow's datastore in parts, since the datastore holds each part in memory; return their keys."""
    count = max(1, -(-path.stat().st_size // PART_BYTES))
    with open(path, "rb") as file:
        parts = (file.read(PART_BYTES) for _ in range(count))
        return [key for _, key in datastore.save_data(parts, len_hint=count)]


def download(datastore: Any, keys: Sequence[str], path: Path) -> None:
    """Write the file that `upload` has kept, one part in memory at a time."""
    with atomic_write(path) as target:
        for key in keys:
            ((_, content),) = datastore.load_data([key])
            target.write(content)


def fetch_file(flow: Any, file: dict[str, Any], folder: Path) -> Path:
    """Return the path of a described file, fetched from the datastore if it is not on this machine.

    Args:
        flow: the running flow.
        file: result of `describe_file`.
        folder: where fetched files are kept, each in a folder named by its digest.

    Raises:
        ConfigError: if it is gone or changed.
    """
    kind = next(name for name in DIGESTS if name in file)
    path = Path(file["path"])
    fetched = folder / str(file[kind]) / path.name
    places: tuple[Path, ...] = (path, home() / str(file.get("below_home", path)), fetched)
    for place in places:
        if place.is_file() and compute_file_digest(place, kind) == file[kind]:
            return place
    if "parts" in file:
        download(_get_datastore(flow), file["parts"], fetched)
        if compute_file_digest(fetched, kind) == file[kind]:
            return fetched
    raise ConfigError(f"{path}, made by an earlier step, is gone or changed; resume from the step that makes it")


def keeps_files_here(flow: Any) -> bool:
    """Return whether the datastore is this machine's disk, so that later steps find files at their paths."""
    return bool(_get_datastore(flow).TYPE == "local")


def _get_datastore(flow: Any) -> Any:
    """Return Metaflow's content-addressed store of a flow, a private attribute: no public one exists."""
    return flow._datastore.parent_datastore

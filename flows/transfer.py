"""Files that later steps need. Where steps may run on other machines, their content travels through Metaflow's datastore."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vdt.config.errors import ConfigError
from vdt.system.files import atomic_write, compute_file_digest
from vdt.system.home import home

DIGESTS = ("sha256", "md5")


def describe_file(flow: Any, path: Path, digest: str = "sha256") -> dict[str, str]:
    """Return a file as an artifact: its path and digest and, unless the datastore is this machine's disk, its key there.

    Args:
        flow: the running flow.
        path: the file.
        digest: one of `DIGESTS`.
    """
    file = {"path": str(path), digest: compute_file_digest(path, digest)}
    if path.is_relative_to(home()):
        file["below_home"] = str(path.relative_to(home()))  # found again where the home folder was moved
    if not keeps_files_here(flow):
        ((_, file["key"]),) = _get_datastore(flow).save_data([path.read_bytes()], len_hint=1)
    return file


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
    if "key" in file:
        ((_, content),) = _get_datastore(flow).load_data([file["key"]])
        with atomic_write(fetched) as target:
            target.write(content)
        if compute_file_digest(fetched, kind) == file[kind]:
            return fetched
    raise ConfigError(f"{path}, made by an earlier step, is gone or changed; resume from the step that makes it")


def keeps_files_here(flow: Any) -> bool:
    """Return whether the datastore is this machine's disk, so that later steps find files at their paths."""
    return bool(_get_datastore(flow).TYPE == "local")


def _get_datastore(flow: Any) -> Any:
    """Return Metaflow's content-addressed store of a flow, a private attribute: no public one exists."""
    return flow._datastore.parent_datastore

"""Safe reading of untrusted HDF5 files: no link leads out of the file, no array is larger than declared, errors are clear."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py

# Exceptions of h5py on a foreign or corrupted file, found by fuzzing.
UNREADABLE: tuple[type[Exception], ...] = (OSError, KeyError, ValueError, RuntimeError)


def get_node(group: h5py.Group, name: str, kind: type) -> Any:
    """Return a data set or group that the file itself holds.

    Args:
        group: of the file.
        name: of a member.
        kind: h5py.Dataset or h5py.Group.

    Raises:
        ValueError: if there is none: a link, an external or a virtual data set would lead out of the file.
    """
    node = group[name] if isinstance(group.get(name, getlink=True), h5py.HardLink) else None
    leads_out = isinstance(node, h5py.Dataset) and (node.external or node.is_virtual)
    if leads_out or not isinstance(node, kind):
        what = "data set" if kind is h5py.Dataset else "group"
        raise ValueError(f"is not a {what} stored in this file")
    if isinstance(node, h5py.Dataset):
        _check_filters(node)
    return node


def _check_filters(node: h5py.Dataset) -> None:
    """Raise ValueError naming a compression that is not installed."""
    plan = node.id.get_create_plist()
    for number in range(plan.get_nfilters()):
        code, _, _, name = plan.get_filter(number)
        if not h5py.h5z.filter_avail(code):
            raise ValueError(
                f"is compressed by HDF5 filter {code} ({name.decode(errors='replace') or 'no name'}), which is not installed "
                f"here; accepted are gzip, lzf and none: write it anew with h5repack -f GZIP=4, or install hdf5plugin's filter"
            )


def list_found(names: Iterable[str]) -> str:
    """Return the first names that were found, for an error message."""
    found = list(map(ascii, list(names)[:20]))
    return ", ".join(found) or "nothing"


def explain_unreadable(path: Path, error: Exception) -> str:
    """Return the reason why a file cannot be read: it is being written, or no whole HDF5 file."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, BlockingIOError) or "unable to lock file" in reason or "open for write" in reason:
        return (
            f"{path}: is open for writing, in another process or by one that did not close it; close it there, or run "
            f"h5clear -s {path.name} if nothing writes it any more"
        )
    if isinstance(error, PermissionError):
        return f"{path}: cannot be read (permission denied)"
    return f"{path}: not a whole HDF5 file ({reason}); is it truncated, or of another format?"

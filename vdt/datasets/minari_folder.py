"""Minari's folder of data sets, and how a data set is added to it."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from vdt.data.errors import DataError
from vdt.datasets.download import probe
from vdt.system.locks import hold_lock

logger = logging.getLogger(__name__)

ID = re.compile(r"(?:[-\w]+/)*[-\w]+?-v\d+", re.ASCII)
REMOTES = {"hf": "{endpoint}/api/datasets/{name}/{first}", "gcp": "https://storage.googleapis.com/{name}"}


def get_root() -> Path:
    """Return `$MINARI_DATASETS_PATH` or `~/.minari/datasets`."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets").expanduser()


def find_dataset(dataset_id: str) -> Path:
    """Return the folder with a data set's files, downloaded if it is not here and the remote answers quickly.

    Raises:
        DataError: if the id is malformed, or the data set is unavailable.
    """
    if not ID.fullmatch(dataset_id):
        raise DataError(f"{dataset_id!r} is no id of a Minari data set; accepted is NAMESPACE/NAME-vN or NAME-vN")
    root = get_root()
    folder = root / dataset_id / "data"
    if not folder.is_dir():
        _download(dataset_id, folder, root / f".{dataset_id.replace('/', '-')}.lock")
    return folder


def _download(dataset_id: str, folder: Path, lock: Path) -> None:
    missing = f"Minari's data set {dataset_id} is not at {folder.parent}"
    problem = _probe_remote(dataset_id)
    advice = f"Put it there, set MINARI_DATASETS_PATH, or fetch it with a network: minari download {dataset_id}"
    if problem is not None:
        raise DataError(f"{missing}, and its remote cannot be reached ({problem}). {advice}")
    import minari

    try:
        with hold_lock(lock, f"Minari's {dataset_id}"):
            if folder.is_dir():
                return  # another process was faster
            logger.info(f"download: Minari's {dataset_id} -> {folder.parent}")
            with write_beside(dataset_id):
                minari.download_dataset(dataset_id)
    except (ImportError, OSError, ValueError) as error:
        raise DataError(f"{missing}, and Minari could not fetch it ({str(error).splitlines()[0]}). {advice}") from None


def _probe_remote(dataset_id: str) -> str | None:
    """Return the reason why the remote does not answer; Minari itself would wait for half a minute and more."""
    kind, _, name = os.environ.get("MINARI_REMOTE", "hf://farama-minari").partition("://")
    if kind not in REMOTES:
        return f"MINARI_REMOTE is of kind {kind!r}; accepted are {', '.join(REMOTES)}"
    if kind == "hf" and os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return "HF_HUB_OFFLINE is set"
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    return probe(REMOTES[kind].format(endpoint=endpoint, name=urllib.parse.quote(name), first=dataset_id.split("/")[0]))


@contextlib.contextmanager
def write_beside(dataset_id: str) -> Iterator[None]:
    """Write a data set by Minari into a folder beside its own, and move it into place whole after the block.

    Raises:
        DataError: if nothing was written there, or the data set is there already.
    """
    root = get_root()
    root.mkdir(parents=True, exist_ok=True)
    before = os.environ.get("MINARI_DATASETS_PATH")
    with tempfile.TemporaryDirectory(dir=root, prefix=".vdt-") as beside:
        os.environ["MINARI_DATASETS_PATH"] = beside
        try:
            yield
        finally:
            if before is None:
                del os.environ["MINARI_DATASETS_PATH"]
            else:
                os.environ["MINARI_DATASETS_PATH"] = before
        written, target = Path(beside, dataset_id), root / dataset_id
        if not (written / "data").is_dir():
            raise DataError(f"Minari wrote no data set {dataset_id}")
        target.parent.mkdir(parents=True, exist_ok=True)
        for note in Path(beside).rglob("namespace_metadata.json"):
            if not (place := root / note.relative_to(beside)).exists():
                shutil.copy(note, place)
        try:
            written.rename(target)
        except OSError:
            raise DataError(f"{target} is there already; remove it first") from None

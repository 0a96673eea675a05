"""Versioning by DVC: computes a file's md5, keeps a copy, and writes a `.dvc` file beside it. No other module uses DVC."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vdt.config.layers import load_yaml
from vdt.data.errors import DataError
from vdt.system.files import compute_file_digest
from vdt.system.home import FolderError, name_user
from vdt.system.locks import hold_lock

INDEX_FOLDER = "DVC_SITE_CACHE_DIR"
LOCK_TRIES, LOCK_SECONDS = 60, 7.0  # DVC itself waits 3 s each time

logger = logging.getLogger(__name__)


def find_version(path: Path) -> tuple[str, int] | None:
    """Return md5 and size of a file that is versioned; none if it is not, e.g. after a kill between the two.

    Raises:
        DataError: if the file was changed afterwards: it must not be used, or versioned anew, in silence.
    """
    record = path.with_name(f"{path.name}.dvc")
    if not record.is_file():
        return None
    recorded = load_yaml(record)["outs"][0]["md5"]
    found = compute_file_digest(path, "md5")
    if found != recorded:
        raise DataError(
            f"{path} has md5 {found}, but {record.name} records {recorded}: it is not the file that was versioned. "
            f"Run `dvc checkout {record}`, or delete {path.parent}"
        )
    return found, path.stat().st_size


def add_version(home: Path, path: Path) -> tuple[str, int]:
    """Add a file by `dvc add` without git commands; no git repository is needed, a DVC one is made if there is none.

    Returns:
        DVC's md5 of the file, and its size in bytes.

    Raises:
        DataError: if DVC refuses, or another process keeps its lock.
        FolderError: if DVC cannot write to the home folder.
    """
    os.environ["DVC_NO_ANALYTICS"] = "1"
    name_user()  # required by DVC
    from dvc.exceptions import DvcException

    try:
        with hold_lock(home / ".vdt" / "locks" / "dvc.lock", "DVC"), _keep_dvc_to_itself(home):
            return _add_when_free(home, path)
    except DvcException as error:
        raise DataError(f"DVC cannot version {path}: {error}") from error
    except PermissionError as error:  # of another user of the same home folder
        raise FolderError(
            f"DVC cannot write to {error.filename or home / '.dvc'} ({error.strerror}); users who share {home} need one "
            f"group and umask 002, or set VDT_HOME to a folder of your own"
        ) from error


def _add_when_free(home: Path, path: Path) -> tuple[str, int]:
    from dvc.lock import LockError

    folder = home / ".dvc" / "tmp"
    for _ in range(LOCK_TRIES):
        try:
            return _add(home, path)
        except LockError:
            logger.info(f"data: DVC is locked by another process ({folder}); waiting for it")
            time.sleep(LOCK_SECONDS)
    raise DataError(f"DVC cannot version {path}: its lock in {folder} stays taken by another process")


def _add(home: Path, path: Path) -> tuple[str, int]:
    from dvc.repo import Repo

    if not (home / ".dvc").is_dir():
        Repo.init(str(home), no_scm=True).close()  # with git, init would stage files there
    settings: dict[str, Any] = {"autostage": False, "analytics": False}
    if not (home / ".git").exists():
        settings["no_scm"] = True
    with Repo(str(home), config={"core": settings}) as repo:
        out = repo.add([str(path)])[0].outs[0]
        return str(out.hash_info.value), int(out.meta.size)


@contextlib.contextmanager
def _keep_dvc_to_itself(home: Path) -> Iterator[None]:
    """Disable DVC's advice on git commands, and keep its index below `home`.

    DVC's own place for the index, /var/tmp/dvc, may belong to another user. A setting of the user stays.
    """
    dvc_logger = logging.getLogger("dvc")
    level, chosen = dvc_logger.level, os.environ.get(INDEX_FOLDER)
    dvc_logger.setLevel(logging.WARNING)
    os.environ[INDEX_FOLDER] = chosen or str(home / ".vdt" / "dvc")
    try:
        yield
    finally:
        dvc_logger.setLevel(level)
        if chosen is None:
            del os.environ[INDEX_FOLDER]

"""Atomic files: a reader finds the old content or the new, never a part of it."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import logging
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from vdt.system.home import FolderError
from vdt.system.locks import hold_lock
from vdt.system.mounts import find_mount

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path` for writing and reading; rename it onto `path` when the block ends well.

    File and folder are synced to disk before the block returns. If the block raises, `path` is untouched. The file has
    the permissions that the umask gives: where that lets a group write, the group shares it.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    descriptor = make_new_file(temporary)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def remove_leftovers(path: Path) -> None:
    """Remove what killed writers of `path` left beside it; only under a lock that every writer of it holds."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        leftover.unlink(missing_ok=True)


def make_new_file(path: Path) -> int:
    """Create a new file with the umask's permissions and return its descriptor; libraries use fewer, SQLite 0644."""
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)


def check_folders(base: Path) -> None:
    """Create the folders that a run writes to; try each with a file, and the last with a lock; warn of locks that are local.

    Raises:
        FolderError: naming the folder and the reason.
    """
    for folder in (base, base / "data", base / "reports", base / ".vdt"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            reason = error.strerror or str(error)
            raise FolderError(
                f"cannot write to {folder} ({reason}); set VDT_HOME to a folder that you can write to"
            ) from None
    with hold_lock(base / ".vdt" / "try.lock", "the check of its folders"):
        pass
    mount = find_mount(base)
    if mount.local_lock:
        logger.warning(
            f"{base} lies on {mount}, mounted with {mount.local_lock}: its locks hold on one machine only; cells that run "
            "on several could train the same network twice"
        )


def check_output(path: Path, *, overwrite: bool = False) -> None:
    """Check that a file can be written, before the work for it is done. Nothing is created.

    Raises:
        FolderError: if there is a folder of that name, a file that must stay, or no place to write to.
    """
    if path.is_dir():
        raise FolderError(f"{path} is a folder; name a file")
    if path.exists() and not overwrite:
        raise FolderError(f"{path} is there already; --overwrite replaces it")
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise FolderError(f"cannot write {path}: {folder}: {error.strerror or error}") from None


def write_output(path: Path, content: bytes) -> Path:
    """Write a file atomically and return its path.

    Raises:
        FolderError: naming the file and the reason; it is untouched then.
    """
    try:
        with atomic_write(path) as file:
            file.write(content)
    except OSError as error:
        raise FolderError(f"cannot write {path}: {error.strerror or error}") from None
    return path


def make_folder(folder: Path) -> None:
    """Create a folder and those above it so that they survive a power loss."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_folder(source: Path, target: Path) -> None:
    """Replace `target` by a copy of `source`: a reader finds the old content, for a moment none, or all of the new."""
    fresh = target.with_name(f".{target.name}.part")
    with hold_lock(target.with_name(f".{target.name}.lock"), str(target)):
        shutil.rmtree(fresh, ignore_errors=True)  # left by a kill
        shutil.copytree(source, fresh)
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)


def compute_file_digest(path: Path, algorithm: str) -> str:
    """Return the hexadecimal digest of a file's content, e.g. `compute_file_digest(path, "sha256")`."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def make_file_name(env: str) -> str:
    """Return a task's name as part of a file's name: D4RL's unchanged, `minari:a/b-v0` and `data:PATH` without slashes."""
    kind, separator, rest = env.partition(":")
    if not separator:
        return env
    if kind == "minari":
        return f"{kind}-{rest.replace('/', '.')}"  # Minari's names hold no dot: different ones stay different
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(rest).stem).strip("_")[:40] or "file"
    return f"{kind}-{stem}-{hashlib.sha256(rest.encode()).hexdigest()[:6]}"


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text atomically and return the path."""
    with atomic_write(path) as file:
        file.write(text.encode())
    return path

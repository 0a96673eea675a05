"""Files that the user names: an HDF5 file, or a folder of npz episodes. A digest names their content.

A robot may go on writing while a run begins. What a run reads is the content whose digest names its snapshot. Episodes
that come later, behind the others, are left out; any other change is an error.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from vdt.data.errors import DataError
from vdt.datasets.npz import list_episodes
from vdt.system.files import compute_file_digest

DIGITS = 12  # of a digest in a message
State = tuple[tuple[int, int], ...]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OwnFiles:
    """Files as they were listed.

    Attributes:
        path: of the HDF5 file, or of the folder.
        files: the HDF5 file alone, or the episodes in their order.
    """

    path: Path
    files: tuple[Path, ...]

    @classmethod
    def find(cls, path: Path) -> OwnFiles:
        """List the files at a path.

        Raises:
            DataError: if there is none, or it cannot be read.
        """
        try:
            if path.is_dir():
                return cls(path, tuple(list_episodes(path)))
            if path.is_file():
                return cls(path, (path,))
        except OSError as error:
            raise _make_error(path, error) from None
        raise DataError(f"{path}: no such file; accepted is an HDF5 file in D4RL's schema or a folder of npz episodes")

    @property
    def is_folder(self) -> bool:
        """Return whether they are episodes."""
        return self.files != (self.path,)

    def read_state(self) -> State:
        """Return time of change and size of each file.

        Raises:
            DataError: if one is gone.
        """
        try:
            return tuple((state.st_mtime_ns, state.st_size) for state in (file.stat() for file in self.files))
        except OSError as error:
            raise _make_error(self.path, error) from None

    def compute_digest(self) -> str:
        """Compute the SHA-256 of the file, or over names and contents of the episodes; kept while they are unchanged.

        Raises:
            DataError: if one cannot be read.
        """
        return self._compute_digests()[-1]

    def _compute_digests(self) -> Sequence[str]:
        """Compute the digest of the file, or those of the first episode, the first two, and so on."""
        try:
            return _compute_digests(self.files, self.read_state(), by_name=self.is_folder)
        except OSError as error:
            raise _make_error(self.path, error) from None

    def select(self, digest: str) -> OwnFiles:
        """Return the files that had this digest; episodes behind them came later and are left out.

        Raises:
            DataError: if the content is another now.
        """
        digests = self._compute_digests()
        if digest not in digests:
            raise self._describe_change(digest)
        count = digests.index(digest) + 1
        if late := self.files[count:]:
            logger.info(
                f"data: {len(late)} episodes came to {self.path} after the run had begun ({late[0].name} and later) and "
                f"are left out; a new run reads them"
            )
        return replace(self, files=self.files[:count])

    def check(self, digest: str) -> None:
        """Refuse files that have changed since they had this digest.

        Raises:
            DataError: if they have.
        """
        if self.compute_digest() != digest:
            raise self._describe_change(digest)

    def _describe_change(self, digest: str) -> DataError:
        state = self.read_state()
        changed, newest = max((modified, file.name) for (modified, _), file in zip(state, self.files, strict=True))
        when = datetime.fromtimestamp(changed / 1e9).isoformat(sep=" ", timespec="seconds")
        return DataError(
            f"{self.path}: changed after the run had begun (sha256 {digest[:DIGITS]}… then, "
            f"{self.compute_digest()[:DIGITS]}… now; {newest} was last written, {when}). Its sizes, range and returns were "
            f"read before, so they no longer fit: begin a new run, while nothing but new episodes is written"
        )


@functools.lru_cache(maxsize=8)
def _compute_digests(files: tuple[Path, ...], _state: State, *, by_name: bool) -> Sequence[str]:
    if not by_name:
        return [compute_file_digest(files[0], "sha256")]
    digest, found = hashlib.sha256(), []
    for number, file in enumerate(files):
        digest.update(f"{chr(10) if number else ''}{file.name} {compute_file_digest(file, 'sha256')}".encode())
        found.append(digest.copy().hexdigest())
    return found


def _make_error(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be read ({error.strerror or error})")

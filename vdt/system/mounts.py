"""Mounted file systems: which one holds a path, whether other machines see it, and whether its locks reach them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

TABLE = Path("/proc/self/mounts")
NETWORK = {  # types of file systems that several machines share; "fuse." and what follows is one of them
    *(
        "nfs",
        "nfs4",
        "lustre",
        "gpfs",
        "cifs",
        "smb3",
        "smbfs",
        "beegfs",
        "ceph",
        "afs",
        "9p",
        "ocfs2",
        "gfs2",
        "pvfs2",
    ),
}
# Options by which a lock holds on one machine only, by the beginning of the type; nfs(5), Lustre's manual, mount.cifs(8).
LOCAL_LOCKS = {
    "nfs": ("nolock", "local_lock=all", "local_lock=flock", "local_lock=posix"),
    "lustre": ("localflock",),
    "cifs": ("nobrl",),
    "smb3": ("nobrl",),
}


@dataclass(frozen=True)
class Mount:
    """Mounted file system.

    Attributes:
        point: folder that it is mounted at.
        kind: its type, e.g. "ext4".
        options: that it is mounted with.
    """

    point: Path
    kind: str
    options: tuple[str, ...]

    @property
    def is_network(self) -> bool:
        """Return whether other machines may use the same files."""
        return self.kind in NETWORK or self.kind.startswith("fuse.")

    @property
    def local_lock(self) -> str:
        """Return the option by which locks do not reach other machines; empty if there is none."""
        known = next((options for kind, options in LOCAL_LOCKS.items() if self.kind.startswith(kind)), ())
        return next((option for option in self.options if option in known), "")

    def __str__(self) -> str:
        return f"{self.kind} at {self.point}"


def find_mount(path: Path) -> Mount:
    """Find the file system that holds a path, which need not exist; of an unknown type where there is no table of mounts."""
    real, found = path.resolve(), Mount(Path("/"), "unknown", ())
    lines = TABLE.read_text(errors="replace").splitlines() if TABLE.exists() else []
    for _, point, kind, options, *_ in map(str.split, lines):
        folder = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), point))  # spaces are written as \040
        if real.is_relative_to(folder) and len(folder.parts) >= len(found.point.parts):
            found = Mount(folder, kind, tuple(options.split(",")))
    return found

"""Locks between processes; what cannot be locked is named, and no file stands in for a lock."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import vdt.system.mounts
from vdt.system.files import check_folders
from vdt.system.home import FolderError
from vdt.system.locks import hold_lock, try_lock
from vdt.system.mounts import find_mount

HOLD = """
import sys, time
from pathlib import Path
from vdt.system.locks import hold_lock
with hold_lock(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    time.sleep(600)
"""


def mount(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, point: Path, kind: str, options: str) -> None:
    """Make a folder look like a mounted file system."""
    table = tmp_path / "mounts"
    name = str(point).replace(" ", r"\040")
    table.write_text(
        f"/dev/sda1 / ext4 rw 0 0\nserver:/a {name} {kind} {options} 0 0\nx {point.parent}/other nfs rw 0 0\n"
    )
    monkeypatch.setattr(vdt.system.mounts, "TABLE", table)


def test_a_killed_process_releases_its_lock(tmp_path: Path) -> None:
    path = tmp_path / "it.lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with try_lock(path) as free:
            assert not free
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with try_lock(path) as free:
        assert free


def test_a_lock_is_held_on_a_file_that_is_open_for_writing(tmp_path: Path) -> None:
    """On NFS flock is a byte-range lock, which such a descriptor alone may have."""
    modes: list[int] = []
    flock = fcntl.flock

    def watch(descriptor: int, operation: int) -> None:
        modes.append(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE)
        flock(descriptor, operation)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fcntl.flock", watch)
        for path in (tmp_path / "it.lock", tmp_path):
            with hold_lock(path, "it"):
                pass
    assert set(modes) == {os.O_RDWR}


def test_threads_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    found: list[bool] = []

    def look() -> None:
        with try_lock(tmp_path / "it.lock") as free:
            found.append(free)

    with hold_lock(tmp_path / "it.lock", "it"), open(tmp_path / "it.lock"):  # closing it again releases nothing
        pass
    with hold_lock(tmp_path / "it.lock", "it"):
        open(tmp_path / "it.lock").close()
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert found == [False]


def test_a_short_wait_is_not_worth_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`vdt runs` beside a run that trains waits a moment, and nobody need know."""

    def wait() -> None:
        with hold_lock(tmp_path / "it.lock", "it"):
            pass

    waiting = threading.Thread(target=wait)
    with caplog.at_level("INFO"), hold_lock(tmp_path / "it.lock", "it"):
        waiting.start()
        time.sleep(1.3)
    waiting.join()
    assert not caplog.messages


def test_no_file_takes_the_place_of_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without flock, as Lustre without its option: a file that a killed process leaves would lock for ever."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", refuse)
    for lock in (hold_lock(tmp_path / "it.lock", "it"), try_lock(tmp_path / "it.lock")):
        with (
            pytest.raises(FolderError, match=r"cannot lock .*it\.lock \(Function not implemented\); set VDT_HOME"),
            lock,
        ):
            pass


@pytest.mark.parametrize("path", ["/sys/it.lock", "/sys/nothing/it.lock"])
def test_a_folder_that_cannot_be_written_is_named(path: str) -> None:
    for lock in (hold_lock(Path(path), "it"), try_lock(Path(path))):
        with pytest.raises(FolderError, match=rf"cannot lock {path} \("), lock:
            pass


@pytest.mark.parametrize(
    ("kind", "options", "network", "local"),
    [
        ("nfs4", "rw,relatime,vers=4.2,local_lock=none,addr=10.0.0.1", True, ""),
        ("nfs", "rw,vers=3,nolock,local_lock=all", True, "nolock"),
        ("nfs4", "rw,local_lock=posix", True, "local_lock=posix"),
        ("lustre", "rw,flock,lazystatfs", True, ""),
        ("lustre", "rw,localflock", True, "localflock"),
        ("cifs", "rw,nobrl", True, "nobrl"),
        ("fuse.sshfs", "rw", True, ""),
        ("gpfs", "rw", True, ""),
        ("xfs", "rw,nolock", False, ""),
    ],
)
def test_file_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, options: str, network: bool, local: str
) -> None:
    point = tmp_path / "a folder"
    mount(monkeypatch, tmp_path, point, kind, options)
    found = find_mount(point / "deep" / "file")
    assert (found.point, found.is_network, found.local_lock) == (point, network, local)
    assert find_mount(tmp_path / "a folder beside").kind == "ext4"


def test_local_locks_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mount(monkeypatch, tmp_path, tmp_path / "home", "nfs4", "rw,local_lock=none")
    check_folders(tmp_path / "home")
    assert capsys.readouterr().out == ""
    mount(monkeypatch, tmp_path, tmp_path / "home", "nfs4", "rw,local_lock=flock")
    check_folders(tmp_path / "home")
    assert "mounted with local_lock=flock: its locks hold on one machine only" in capsys.readouterr().out

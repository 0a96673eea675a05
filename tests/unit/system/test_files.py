"""Folders that are replaced whole or not at all, permissions, locks."""

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from vdt.system.files import check_folders, replace_folder, write_text
from vdt.system.home import FolderError
from vdt.system.locks import hold_lock


def list_files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    first, second, target = (tmp_path / name for name in ("first", "second", "place/target"))
    for folder, name in ((first, "old"), (second, "new")):
        folder.mkdir()
        (folder / f"{name}.txt").write_text(name)
    replace_folder(first, target)
    assert list_files(target) == {"old.txt": "old"}
    (target.parent / ".target.part").mkdir()  # left by a kill
    (target.parent / ".target.part" / "half.txt").write_text("")
    replace_folder(second, target)
    assert list_files(target) == {"new.txt": "new"} and not (target.parent / ".target.part").exists()
    assert list_files(second) == {"new.txt": "new"}
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "absent", target)
    assert list_files(target) == {"new.txt": "new"}, "what was there stays until the new one is whole"


def test_files_have_the_permissions_that_the_umask_gives(tmp_path: Path) -> None:
    modes = {}
    for umask in (0o022, 0o002, 0o077):
        before = os.umask(umask)
        try:
            modes[umask] = write_text(tmp_path / f"{umask}.txt", "text").stat().st_mode & 0o777
        finally:
            os.umask(before)
    assert modes == {0o022: 0o644, 0o002: 0o664, 0o077: 0o600}


def test_a_file_system_without_locks_is_named_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(FolderError, match=r"cannot lock .*/try\.lock \(No locks available\); set VDT_HOME"):
        check_folders(tmp_path)


def test_who_waits_for_a_lock_says_for_what(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdt.system.locks.FIRST_REPORT_SECONDS", 0.2)
    order: list[str] = []

    def wait() -> None:
        with hold_lock(tmp_path, "the folder"):
            order.append("second")

    with caplog.at_level("INFO"), hold_lock(tmp_path, "the folder"):
        waiting = threading.Thread(target=wait)
        waiting.start()
        while "another process works on the folder" not in caplog.text:
            time.sleep(0.05)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]

"""Folders that are replaced: whole or not at all."""

from pathlib import Path

import pytest

from vdt.system.files import replace_folder


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

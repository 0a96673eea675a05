"""Missing packages are named with the command that installs them here."""

import shlex
from pathlib import Path

import pytest

from vdt.system.extras import ExtraError, check_extra, make_install_command


def test_the_command_installs_an_extra_as_the_readme_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    (folder / "pip").touch()
    monkeypatch.setattr("sys.executable", str(folder / "python"))
    monkeypatch.chdir(tmp_path)
    assert make_install_command("video") == ".venv/bin/pip install -c constraints.txt -e '.[video]'"
    with pytest.raises(
        ExtraError, match=r"^a film needs no_such_package, of the extra \[video\]: \.venv/bin/pip install -c "
    ):
        check_extra("video", ("json", "no_such_package"), "a film")
    (folder / "pip").unlink()
    assert make_install_command("video") == ".venv/bin/python -m pip install -c constraints.txt -e '.[video]'"


@pytest.mark.parametrize("program", ["pip", "python"])
def test_the_command_can_be_copied_where_the_folder_has_a_blank(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my env" / "bin"
    folder.mkdir(parents=True)
    (folder / program).touch()
    monkeypatch.setattr("sys.executable", str(folder / "python"))
    monkeypatch.chdir(tmp_path)
    assert shlex.split(make_install_command("video"))[0] == f"my env/bin/{program}"

"""DVC's part: quiet, without a user name, in a home folder that two users share."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.data import ROOT
from vdt.datasets.versioning import add_version
from vdt.system.files import compute_file_digest

SETPRIV = shutil.which("setpriv")
NAMELESS, OTHER, GROUP = 12345, 12346, 12340  # ids that no system names
PROGRAM = """
import os, sys
from pathlib import Path
os.umask(0o002)
from vdt.datasets.versioning import add_version
from vdt.system.log import configure_logging
configure_logging()
home, name = Path(sys.argv[1]), sys.argv[2]
path = home / "data" / name / "trajectories.hdf5"
path.parent.mkdir(parents=True)
path.write_text(name)
print(add_version(home, path)[0])
"""
as_root = pytest.mark.skipif(os.getuid() != 0 or SETPRIV is None, reason="only root may become another user")


def run_as(
    user: int, home: Path, program: str, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a program as a user without a name, who may read whatever the interpreter needs."""
    assert SETPRIV is not None
    rights = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    words = [SETPRIV, f"--reuid={user}", f"--regid={GROUP}", "--clear-groups", *rights]
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    command = [*words, sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=home, env=variables, capture_output=True, text=True)


def add_as(user: int, home: Path, name: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_as(user, home, PROGRAM, str(home), name, **environment)


@pytest.fixture
def shared_home(tmp_path: Path) -> Path:
    """A folder that a group may write to, below folders that anybody may enter."""
    home = tmp_path / "shared"
    home.mkdir()
    os.chown(home, NAMELESS, GROUP)
    home.chmod(0o2775)
    for folder in tmp_path.parents:
        if folder.owner() == "root" and folder.stat().st_mode & 0o077 == 0 and "pytest" in folder.name:
            folder.chmod(0o755)
    tmp_path.chmod(0o755)
    return home


@as_root
@pytest.mark.parametrize("variables", [{}, {"HOME": ""}, {"HOME": "/"}], ids=["no home", "empty home", "root folder"])
def test_a_user_without_name_and_home(shared_home: Path, variables: dict[str, str]) -> None:
    done = add_as(NAMELESS, shared_home, "a", **variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [compute_file_digest(shared_home / "data" / "a" / "trajectories.hdf5", "md5")]
    assert (shared_home / ".vdt" / "dvc" / "repo").is_dir()  # DVC's index; in /var/tmp it may be another user's


@as_root
def test_every_program_of_such_a_user_has_both(shared_home: Path) -> None:
    """Metaflow and MLflow ask for them while they are imported."""
    program = (
        "from vdt.system.home import prepare; prepare(); import getpass, pathlib;"
        "print(getpass.getuser(), pathlib.Path.home())"
    )
    done = run_as(NAMELESS, shared_home, program, VDT_HOME=str(shared_home))
    assert (done.stdout.split(), done.returncode) == ([f"uid{NAMELESS}", str(shared_home)], 0), done.stderr


@as_root
def test_two_users_of_one_group_share_a_home(shared_home: Path) -> None:
    for user, name in ((NAMELESS, "a"), (OTHER, "b"), (NAMELESS, "c"), (OTHER, "a2")):
        done = add_as(user, shared_home, name, LOGNAME=f"user{user}", HOME="/")
        assert done.returncode == 0, done.stderr
    assert len(list((shared_home / "data").glob("*/trajectories.hdf5.dvc"))) == 4


@as_root
def test_a_cache_of_another_user_is_one_clear_error(shared_home: Path) -> None:
    assert add_as(NAMELESS, shared_home, "a").returncode == 0
    cache = shared_home / ".dvc" / "cache" / "files" / "md5"
    for folder in (cache, *cache.iterdir()):
        folder.chmod(0o755)
    done = add_as(OTHER, shared_home, "other")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "DVC cannot write to" in last and "need one group and umask 002" in last and "VDT_HOME" in last


@pytest.mark.parametrize("git", [True, False], ids=["with git", "without git"])
def test_dvc_says_nothing(tmp_path: Path, git: bool, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither "Initialized DVC repository" nor "To track the changes with git, run: git add …"."""
    if git:
        subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    path = tmp_path / "data" / "a.bin"
    path.parent.mkdir()
    path.write_bytes(b"content")
    assert add_version(tmp_path, path) == (compute_file_digest(path, "md5"), 7)
    assert capfd.readouterr() == ("", "")

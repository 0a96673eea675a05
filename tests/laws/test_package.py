"""The wheel holds the library with its parameter files, and works where it is installed without the clone."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "vdt", "params")


def copy_sources(folder: Path) -> Path:
    """What a wheel is built from; the build writes into its source folder."""
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def list_files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_wheel_works_without_the_clone(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    source = copy_sources(tmp_path / "source")
    build = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--quiet", "-w", tmp_path]
    subprocess.run(build, cwd=source, check=True, timeout=300)
    (wheel,) = tmp_path.glob("vdt-*.whl")
    installed, elsewhere = tmp_path / "site-packages", tmp_path / "elsewhere"
    zipfile.ZipFile(wheel).extractall(installed)
    elsewhere.mkdir()
    assert list_files(installed / "vdt" / "params") == list_files(source / "params")
    assert list_files(source / "vdt") <= list_files(installed / "vdt")  # modules and py.typed
    code = (
        "import vdt.system.home as folders; from vdt.config.layers import PARAMS;"
        "from vdt.experiments.resolve import resolve_config;"
        "print(PARAMS, folders.home(), resolve_config('walker2d-medium-v2', preset='smoke').task.horizon, sep='\\n')"
    )
    variables = {**os.environ, "PYTHONPATH": str(installed)}
    del variables["VDT_HOME"]  # set for every test
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, cwd=elsewhere, env=variables, check=True, text=True, stdout=subprocess.PIPE).stdout
    assert said.splitlines() == [str(installed / "vdt" / "params"), str(elsewhere), "1000"]

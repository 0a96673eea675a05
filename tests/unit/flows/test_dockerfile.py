"""The image's files: each source of the Dockerfile is there, and they suffice to start the flow."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from vdt.system.home import ROOT


def list_copies() -> list[tuple[list[str], str]]:
    """Sources and target of each COPY."""
    words = [line.split()[1:] for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("COPY ")]
    return [(sources, target) for *sources, target in words]


def test_the_files_of_the_image_suffice(tmp_path: Path) -> None:
    """What is copied, in the image's folders, without the clone on any path: `docker run vdt run --help` and one cell's check."""
    image = tmp_path / "opt" / "vdt"
    image.mkdir(parents=True)
    for sources, target in list_copies():
        for name in sources:
            source, place = ROOT / name, image / (name if target == "./" else target)
            assert source.exists(), f"Dockerfile copies {name}, which is not there"
            if source.is_dir():
                shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, place)
    (entry,) = re.findall(r'ENTRYPOINT \["python", "/(\S+)"\]', (ROOT / "Dockerfile").read_text())
    variables = {**os.environ, "VDT_HOME": str(tmp_path / "data"), "PYTHONPATH": ""}
    for words, said in ((["--help"], "Usage: vdt_flow.py"), (["run", "--env", "nothing"], "nothing")):
        command = [sys.executable, str(tmp_path / entry), "--no-pylint", *words]
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
        assert said in done.stdout + done.stderr, done.stderr
        assert done.returncode == (0 if words == ["--help"] else 2)
    code = (
        "import vdt, flows.hooks; from vdt.config.layers import PARAMS; print(vdt.__file__, flows.__file__, PARAMS);"
        "from vdt.experiments.resolve import resolve_config; resolve_config('walker2d-medium-v2', preset='smoke')"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=image, env=variables, capture_output=True, text=True, check=True
    )
    assert str(ROOT) not in loaded.stdout and loaded.stdout.count(str(image)) == 3


def test_requirements_are_installed_before_the_code() -> None:
    """The first layer has what the installation reads, and only that: a change of code installs nothing again."""
    first, *others = list_copies()
    assert first[0] == ["pyproject.toml", "constraints.txt", "setup.py", "README.md", "LICENSE"]
    assert {name for sources, _ in others for name in sources} == {"vdt", "params", "flows"}
    text = (ROOT / "pyproject.toml").read_text()
    assert {name for name in ("README.md", "LICENSE") if name in text} == {"README.md", "LICENSE"}

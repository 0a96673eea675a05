"""A machine that only acts needs PyTorch, NumPy, pydantic and PyYAML: a real virtual environment that holds nothing else."""

import re
import shutil
import subprocess
import sys
import venv
from importlib.metadata import Distribution, distribution
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

import vdt
from support.builders import make_store
from vdt.data.storage import load_snapshot
from vdt.datasets.snapshot import make_snapshot
from vdt.experiments.resolve import resolve_config
from vdt.tracking import NullTracker
from vdt.training.critic_pretraining import pretrain_critic
from vdt.training.offline import train_actor

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "policies.md"
SMALL = "policy.embedding_size=16 policy.layers=1 policy.heads=1 critic.hidden_size=16 runtime.device=cpu"


def read_documented_packages() -> list[str]:
    """The packages of the command that the page gives; vdt itself is then installed without its dependencies."""
    (line,) = (line for line in PAGE.read_text().splitlines() if line.startswith("python -m venv"))
    first, second = re.findall(r"pip install ([^&]+)", line)
    assert second.strip() == "--no-deps ."
    return first.removeprefix("-c constraints.txt ").split()


def find_needed(names: list[str]) -> dict[str, Distribution]:
    """The distributions of the names, with all that they depend on."""
    found: dict[str, Distribution] = {}
    while names:
        name = re.sub(r"[-_.]+", "-", names.pop()).lower()
        if name not in found:
            found[name] = distribution(name)
            needed = map(Requirement, found[name].requires or [])
            names += [item.name for item in needed if item.marker is None or item.marker.evaluate({"extra": ""})]
    return found


def make_environment(folder: Path, packages: list[str]) -> Path:
    """Make an environment of links to the installed packages and a copy of this one; return its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for found in find_needed(packages).values():
        for top in {file.parts[0] for file in found.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            link = site / top
            if not link.exists():
                link.symlink_to(Path(str(found.locate_file(top))))
    shutil.copytree(ROOT / "vdt", site / "vdt", ignore=shutil.ignore_patterns("__pycache__"))
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of a folder of recorded episodes, `--env data:PATH`."""
    folder = tmp_path_factory.mktemp("own")
    rng, writer = np.random.default_rng(0), vdt.EpisodeWriter(folder / "logs")
    for _ in range(6):
        length = 20
        seen, taken = rng.normal(size=(length + 1, 3)), rng.uniform(-1, 1, (length, 2))
        writer.write(seen, taken, rng.normal(size=length), terminated=True)
    steps = "critic.gradient_steps=20 actor.gradient_steps=20"
    config = resolve_config(
        f"data:{folder / 'logs'}", preset="smoke", overrides=f"{SMALL} {steps} data.held_out_fraction=0.2"
    )
    dataset = load_snapshot(Path(make_snapshot(config, folder / "home").path))
    critic = pretrain_critic(config, dataset, NullTracker(), make_store(folder / "critic"))
    return train_actor(config, dataset, critic, NullTracker(), make_store(folder / "actor"))


@pytest.mark.slow
def test_a_policy_of_own_data_acts_where_only_four_packages_are(tmp_path: Path, trained: Path) -> None:
    packages = read_documented_packages()
    assert set(packages) == {"torch", "numpy", "pydantic", "pyyaml"}
    python = make_environment(tmp_path / "slim", packages)
    code = (
        "import importlib.util as u, sys, vdt, numpy as np;"
        "absent = 'mujoco metaflow mlflow dvc gymnasium minari h5py scipy pandas matplotlib typer'.split();"
        "assert not [name for name in absent if u.find_spec(name)], sys.path;"
        f"policy = vdt.load_policy({str(trained)!r}); policy.reset();"
        "first = policy.act(np.zeros(3)); second = policy.act(np.ones(3), 0.5);"
        "print(*first.tolist(), *second.tolist());"
        "\ntry: vdt.load_policy('models:/walker@champion')\nexcept ValueError as error: print(error)"
    )
    said = subprocess.run(
        [python, "-I", "-c", code], check=True, cwd=tmp_path, timeout=300, stdout=subprocess.PIPE, text=True
    )
    actions, refused = said.stdout.splitlines()
    policy = vdt.load_policy(trained)
    policy.reset()
    expected = [*policy.act(np.zeros(3)).tolist(), *policy.act(np.ones(3), 0.5).tolist()]
    assert list(map(float, actions.split())) == expected
    assert refused == "models:/walker@champion is an address of MLflow, and the package sqlalchemy is not installed"
    assert Path(sys.prefix) not in Path(python).parents

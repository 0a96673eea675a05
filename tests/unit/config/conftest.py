from pathlib import Path
from typing import Any

import pytest
import yaml

from vdt.config import layers as config_module
from vdt.config.layers import PARAMS, load_tasks, load_yaml

ENV = "walker2d-medium-v2"


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small copy of params/ in which every layer says something about `critic.n_step`."""
    for folder in ("tasks", "presets", "methods"):
        (tmp_path / folder).mkdir()
    base = load_yaml(PARAMS / "vdt.yaml")
    base["critic"]["n_step"] = 1
    (tmp_path / "vdt.yaml").write_text(yaml.safe_dump(base))
    task = {**load_tasks()[ENV], "critic.n_step": 2}
    family = {"environments": {"e": {}}, "tasks": {ENV: {"environment": "e", **nest(task)}}}
    (tmp_path / "tasks" / "gym.yaml").write_text(yaml.safe_dump(family))
    (tmp_path / "presets" / "plain.yaml").write_text("{}")
    (tmp_path / "presets" / "laptop.yaml").write_text("critic: {n_step: 3}")
    (tmp_path / "methods" / "plain.yaml").write_text("{}")
    (tmp_path / "methods" / "vdt.yaml").write_text("critic: {n_step: 4}")
    monkeypatch.setattr(config_module, "PARAMS", tmp_path)
    monkeypatch.setattr("vdt.experiments.resolve.PARAMS", tmp_path)
    return tmp_path


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        node = tree
        *parents, leaf = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree

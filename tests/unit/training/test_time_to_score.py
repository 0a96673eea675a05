"""`benchmarks/time_to_score.py`: its clock has no episodes."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import time_to_score
from support.builders import make_dataset
from vdt.config.schema import Config


def test_no_episodes_are_run_while_the_clock_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Config] = []

    def measure(config: Config, *_: Any) -> list[dict[str, float]]:
        trained.append(config)
        return [{"minutes": 1.0, "step": 100, "score": 99.0}]

    monkeypatch.setattr(time_to_score, "measure", measure)
    monkeypatch.setattr(time_to_score, "make_snapshot", lambda *_: SimpleNamespace(path="none"))
    monkeypatch.setattr(time_to_score, "load_snapshot", lambda _: make_dataset())
    words = ["", "--folder", str(tmp_path), "--seeds", "0", "--threads", "1", "--set", "actor.gradient_steps=200"]
    monkeypatch.setattr(sys, "argv", words)
    time_to_score.main()
    (config,) = trained
    assert config.evaluation.curve_points == 0 and config.actor.gradient_steps == 200

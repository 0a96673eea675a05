"""`benchmarks/checkpoint_cost.py` writes the checkpoints of one run again."""

import sys
from pathlib import Path

import pytest

from benchmarks.checkpoint_cost import main
from support.policies import make_run


def test_the_newest_run_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for run, key in (("1795888450714840", "older"), ("1795888450714842", "newest"), ("1795888450714841", "old")):
        make_run(tmp_path, run=run, key=key)
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path), "--repeats", "1"])
    main()
    rows = [line.split(" | ")[:2] for line in capsys.readouterr().out.splitlines() if line.startswith("| t")]
    assert rows == [["| train_actor", "newest"], ["| tune_online", "newest"]]


def test_a_home_without_a_finished_step_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path)])
    with pytest.raises(SystemExit):
        main()
    assert f"{tmp_path} has no run with a finished step" in capsys.readouterr().err

"""The report of a study that has nothing left to run."""

from pathlib import Path
from typing import Any

import pytest

from flows import report_step
from support.builders import make_config
from support.records import make_record
from vdt.experiments.study import Cell, Study


def test_runs_of_cells_whose_flow_was_stopped_are_put_right(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell killed between `evaluate` and `report` is finished, while its MLflow run says FAILED."""
    record, tagged = make_record(0, {}), list[Any]()
    given: dict[str, Any] = {
        "resolve_cells": lambda arguments: ([Cell(make_config())], Study(name="mine", place="", envs=())),
        "split_finished": lambda cells, reuse: ([], [record]),
        "tag_finished_runs": lambda finished, study: tagged.extend((*finished, study.name)),
        "_write": lambda cells, study: tmp_path / "report.md",
        "_keep_study_report": lambda study, files: [],
        "_summarise": lambda *parts: "",
        "enter_cards_folder": lambda: None,
    }
    for name, stand_in in given.items():
        monkeypatch.setattr(report_step, name, stand_in)
    report_step.report_study({"study": "mine"})
    assert tagged == [record, "mine"]

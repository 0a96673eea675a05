"""The report of a study that has nothing left to run."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from flows import command_line, report_step
from support.builders import make_config
from support.records import make_record
from vdt.config.errors import ConfigError
from vdt.experiments.cells import resolve_cells
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
        "_write": lambda cells, study, given: tmp_path / "report.md",
        "_keep_study_report": lambda study, files: [],
        "_summarise": lambda *parts: "",
        "enter_cards_folder": lambda: None,
    }
    for name, stand_in in given.items():
        monkeypatch.setattr(report_step, name, stand_in)
    report_step.report_study({"study": "mine"})
    assert tagged == [record, "mine"]


def test_a_report_names_the_day_the_commit_and_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vdt.tracking.get_git_commit", lambda: "0123456789abcdef")
    monkeypatch.setattr("vdt.tracking.is_code_changed", lambda: True)
    said = report_step._describe_origin({"env": "a", "set": "critic.n_step=3 data.seed=5", "seeds": ""})
    today, rest = said.split(", ", 1)
    assert today == date.today().isoformat()
    assert rest.startswith("commit 0123456, with changes, by `")
    assert rest.endswith("run --env a --set 'critic.n_step=3 data.seed=5'`")


def test_a_report_takes_results_also_where_a_run_would_take_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()
    monkeypatch.setattr(report_step, "split_finished", lambda cells, reuse: asked.append(reuse) or (cells, []))
    for reuse in ("none", "settings", ""):
        with pytest.raises(ConfigError, match="none of the"):
            report_step.report_study({"study": "quick", "reuse": reuse})
    assert asked == ["exact", "settings", "exact"]


def test_what_is_finished_is_not_registered_without_a_word(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cells, study = resolve_cells({"study": "quick"})
    assert study is not None
    finished = make_record(0, {}, mlflow_run_id="a1b2")
    monkeypatch.setattr(command_line, "split_finished", lambda cells, reuse: (cells[1:], [finished]))
    assert command_line.report_instead(cells, study, {"register": "hop"}, []) == cells[1:]
    (warning,) = caplog.messages
    assert f"{finished.key} is finished: " in warning and warning.endswith("register a1b2 hop")

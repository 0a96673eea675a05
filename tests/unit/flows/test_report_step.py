"""The report of a study that has nothing left to run."""

import os
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from flows import command_line, report_step
from support.builders import make_config
from support.records import make_evaluation, make_record
from unit.experiments.test_found import STUDY, end_search
from vdt.config.errors import ConfigError
from vdt.experiments.cells import compute_identities, resolve_cells
from vdt.experiments.results_store import save_result
from vdt.experiments.study import Cell, Study
from vdt.tracking import REPORT_OF, create_run, open_store


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


def find_reports(home: Path) -> dict[str, list[str]]:
    """Return the study, by its tag, and the files of each run that holds a report."""
    store = open_store(home)
    runs = store.search_runs([e.experiment_id for e in store.search_experiments()], f"tags.{REPORT_OF} != ''")
    return {r.data.tags[REPORT_OF]: [f.path for f in store.list_artifacts(r.info.run_id, "report")] for r in runs}


def test_a_trials_report_leaves_that_of_its_search_alone(home: Path, tmp_path: Path) -> None:
    given = str(tmp_path / "mine.yaml")
    Path(given).write_text(yaml.safe_dump(STUDY))
    end_search(given, "")
    cells, _ = resolve_cells({"study": given, "trial": "0"})
    for cell, identity in zip(cells, compute_identities(cells), strict=True):
        policies = {"offline": {"single": make_evaluation([50.0, 60.0])}}
        config = {**cell.config.flatten(), "planner.candidates": 1}
        run_id = create_run(home, cell.config, "flow", "command")
        record = make_record(cell.config.seed, policies, patch=cell.patch, config=config, mlflow_run_id=run_id)
        save_result(home, identity, record.to_json())
    report_step.report_study({"study": given})
    place = home / "reports" / "search-mine"
    before, kept = {file.name: file.read_bytes() for file in place.iterdir()}, find_reports(home)
    assert b"Ranking" in before["report.md"] and list(kept) == ["search/mine"]
    one = report_step.report_study({"study": given, "trial": "0"})
    assert {file.name: file.read_bytes() for file in place.iterdir()} == before and find_reports(home) == kept
    assert {folder.name for folder in (home / "reports").glob("[!.]*")} == {"None", "search-mine"}, (
        "a test has no run id"
    )
    text = Path(one.path).read_text()
    assert text.startswith("# Value-Guided Decision Transformer: Trial 0 of Mine\n") and "Ranking" not in text
    assert Path(one.path).parent.name == "None" and "55.0" in text


@pytest.mark.parametrize(
    ("folder", "tag"),
    [
        ("search-x", "search/x"),
        ("study-search-x", "search-x"),
        ("winner-x", "winner/x"),
        ("study-winner-x", "winner-x"),
        ("study-x", "x"),
    ],
)
def test_each_study_has_a_tag_of_its_own(folder: str, tag: str) -> None:
    """A plain study has its name, as in stores of earlier releases; no name of a study holds a slash."""
    assert report_step.tag_report(folder) == tag


def test_cells_by_number_name_the_home_folder_of_their_report(home: Path) -> None:
    record = make_record(0, {}, mlflow_run_id=create_run(home, make_config(), "flow", "command"))
    flow = SimpleNamespace(study="quick", cell_numbers="1", reuse="none")
    branch = SimpleNamespace(agents={"offline": {"path": "a.pt"}})
    said = report_step.finish_alone(flow, [branch], [record]).summary
    (line,) = [line for line in said.splitlines() if "report_flow.py" in line]
    assert line.split("report ")[-1].strip().startswith(f"VDT_HOME={os.environ['VDT_HOME']} ")
    assert line.endswith("report_flow.py run --study quick")


@pytest.mark.parametrize(("ranked", "first"), [(True, "best-ranked"), (False, "first")])
def test_the_policy_that_is_offered_is_the_best_ranked(ranked: bool, first: str, home: Path) -> None:
    cells = [
        make_record(0, {"offline": {"single": make_evaluation([score])}}, patch=patch, config={"planner.candidates": 1})
        for patch, score in (("worst", 1.0), ("best", 90.0), ("middle", 50.0))
    ]
    study = {"name": "mine", "ranked": ranked, "settings": {cell.patch: {"x": cell.patch} for cell in cells}}
    paths = {cell.key: f"/{cell.patch}.pt" for cell in cells}
    lines = report_step._summarise(cells, home / "report.md", paths, {}, study).splitlines()
    shown = {name: line for line in lines for name in ("policy", "use") if line.startswith(f"{name} ({first} of 3)")}
    best = "best" if ranked else "worst"
    assert shown["policy"] == f"policy ({first} of 3) /{best}.pt"
    command = shown["use"] if "--cell" in shown["use"] else lines[lines.index(shown["use"]) + 1]
    assert f"--cell walker2d-medium-v2-vdt-{best}-s0" in command

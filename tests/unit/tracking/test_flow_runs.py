"""`vdt runs`: what can be resumed with which command, what goes on, and where finished runs have their policies."""

import os
import shlex
import time
from pathlib import Path

import pytest

from vdt.agent.policy_files import INDEX
from vdt.checkpoint.names import BEST, DONE
from vdt.cli import run
from vdt.experiments.resolve import resolve_config
from vdt.experiments.search import read_search
from vdt.experiments.search_log import SearchLog
from vdt.experiments.search_store import SearchStore
from vdt.experiments.study import Study
from vdt.system.home import make_resume_command, make_vdt_command
from vdt.system.processes import describe_process
from vdt.tracking import (
    REPORT_OF,
    Status,
    create_named_run,
    create_run,
    finish_runs,
    list_flow_runs,
    make_continue_record,
    open_store,
    send_now,
)
from vdt.tracking.mlflow_run import BY_USER, PROCESS

COMMAND = "python flows/vdt_flow.py"


def begin(home: Path, flow_run: str, *, seed: int = 0, status: str = "", process: str = "") -> str:
    config = resolve_config("walker2d-medium-v2", preset="smoke", seed=seed)
    run_id = create_run(home, config, flow_run, COMMAND)
    if status:
        finish_runs(home, [run_id], status)
    if process:
        open_store(home).set_tag(run_id, PROCESS, process)
    return run_id


def test_failed_and_killed_runs_are_listed_with_their_command(
    home: Path, capsys: pytest.CaptureFixture[str], gone: str
) -> None:
    begin(home, "101", status="FINISHED")
    begin(home, "102", status="FAILED")
    begin(home, "102", seed=1, status="FINISHED")
    begin(home, "103", process=gone)
    begin(home, "104", process=describe_process(os.getpid()))
    begin(home, "104", seed=1, status="FAILED")  # the other cell goes on
    known = {flow.run_id: (flow.state, flow.finished, len(flow.cells)) for flow in list_flow_runs(home)}
    expected = {"101": ("finished", 1, 1), "102": ("failed", 1, 2), "103": ("failed", 0, 1), "104": ("running", 0, 2)}
    assert known == expected and list(known) == ["104", "103", "102", "101"]
    assert run(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines if not line.startswith(" ")] == [
        ["running", "104"],
        ["failed", "103"],
        ["failed", "102"],
    ]
    commands = [line.strip() for line in lines if line.startswith("    ")]
    prefix = f"VDT_HOME={shlex.quote(os.environ['VDT_HOME'])} {COMMAND} resume --origin-run-id"
    assert commands == [f"{prefix} 103", f"{prefix} 102"]
    assert any(line.endswith("vdt-s0-walker2d-medium-v2, vdt-s1-walker2d-medium-v2  1 of 2 finished") for line in lines)


def test_a_trial_that_its_search_stopped_has_nothing_to_resume(home: Path) -> None:
    begin(home, "501", status="KILLED")
    assert [flow.state for flow in list_flow_runs(home)] == ["finished"]


def test_a_resumed_run_is_known_by_its_last_try(home: Path) -> None:
    run_id = begin(home, "201", status="FAILED")
    send_now(home, run_id, [make_continue_record("202")])
    finish_runs(home, [run_id], "FAILED")
    assert [(flow.run_id, flow.state) for flow in list_flow_runs(home)] == [("202", "failed")]


def test_a_run_that_was_stopped_says_so_until_it_is_resumed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = begin(home, "401")
    finish_runs(home, [run_id], "FAILED", ended=BY_USER)
    assert run(["runs"]) == 0
    first, command = capsys.readouterr().out.splitlines()
    assert first.startswith("stopped   401  ") and command.endswith("resume --origin-run-id 401")
    begin(home, "401", seed=1, status="FAILED")
    assert [flow.state for flow in list_flow_runs(home)] == ["failed"], "one of its cells failed by itself"
    send_now(home, run_id, [make_continue_record("402")])
    finish_runs(home, [run_id], "FAILED")
    (flow,) = list_flow_runs(home)
    assert (flow.run_id, flow.state, len(flow.cells)) == ("402", "failed", 2), (
        "cells that the resumed run has not reached"
    )


def test_a_search_is_continued_by_its_own_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is no run of Metaflow's, so there is nothing to resume; stopped, it says so until it goes on."""
    search = read_search({"space": {"actor.q_coefficient": [0.1, 0.3]}, "trials": 2}, "x")
    store = SearchStore(home / "s1-0a1b", search)
    study = Study(name="mine", place="mine.yaml", envs=("walker2d-medium-v2",), search=search)
    log = SearchLog(study, store, COMMAND, ["--study", "my study.yaml", "--set", "seed=3"])
    log.open()
    assert [flow.state for flow in list_flow_runs(home)] == ["running"]
    log.stop()
    assert run(["runs"]) == 0
    first, line = capsys.readouterr().out.splitlines()
    assert first.startswith("stopped   search/s1-0a1b  ")
    assert line.endswith(f"{COMMAND} run --study 'my study.yaml' --set seed=3") and "resume" not in line
    log.open()
    assert [flow.state for flow in list_flow_runs(home)] == ["running"]
    other = SearchLog(study, store, COMMAND, ["--study", "my study.yaml", "--set", "seed=4"])
    other.open()
    assert list_flow_runs(home)[0].line.endswith("seed=4"), "the line of who has it now"
    (found := home / "found.yaml").write_text("{}")
    log.finish(found)
    other.stop()
    assert [flow.state for flow in list_flow_runs(home)] == ["finished"], "another worker finished it"


def test_a_step_that_was_repeated_counts_once(home: Path) -> None:
    """The repeat of a finished step has a run of its own in MLflow."""
    begin(home, "601", status="FINISHED")
    time.sleep(0.01)
    begin(home, "601", status="FAILED")
    assert [(flow.finished, len(flow.cells), flow.state) for flow in list_flow_runs(home)] == [(0, 1, "failed")]


def test_the_report_of_a_study_is_no_cell(home: Path) -> None:
    begin(home, "701", status="FINISHED")
    begin(home, "701", seed=1, status="FINISHED")
    for flow_run in ("701", "702"):
        create_named_run(home, "report-a", {REPORT_OF: "a"}, {}, flow_run, COMMAND, records=[Status(status="FINISHED")])
    assert [(flow.run_id, flow.finished, len(flow.cells)) for flow in list_flow_runs(home)] == [("701", 2, 2)]


def test_all_shows_finished_runs_and_their_policies(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin(home, "301", status="FINISHED")
    assert run(["runs"]) == 0
    assert capsys.readouterr().out == "nothing to resume; `vdt runs --all` lists 1 finished\n"
    folder = home / ".vdt" / "checkpoints" / "VDTFlow" / "301" / "train_actor" / "walker2d-medium-v2-vdt-s0"
    folder.mkdir(parents=True)
    (folder / "000000040.0123456789abcdef.pt").touch()
    (folder / DONE).write_text("000000040.0123456789abcdef.pt\n")
    assert run(["runs", "--all"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("finished  301  ") and first.endswith("  vdt-s0-walker2d-medium-v2")
    assert second == f"    walker2d-medium-v2-vdt-s0 offline: {folder / '000000040.0123456789abcdef.pt'}"


def test_a_run_whose_policies_are_damaged_hides_no_other(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell, checkpoints = "walker2d-medium-v2-vdt-s0", home / ".vdt" / "checkpoints" / "VDTFlow"
    for name in ("601", "602", "603"):
        begin(home, name, status="FINISHED")
        folder = checkpoints / name / "tune_online" / cell
        folder.mkdir(parents=True)
        (folder / "000000040.0123456789abcdef.pt").touch()
        (folder / DONE).write_text("000000040.0123456789abcdef.pt\n")
    index, best = checkpoints / "602" / "evaluate" / cell / INDEX, checkpoints / "603" / "tune_online" / cell / BEST
    index.parent.mkdir(parents=True)
    index.write_text('{"config": {')
    best.write_text("{")
    assert run(["runs", "--all"]) == 1
    said = capsys.readouterr()
    assert [line.split()[1] for line in said.out.splitlines() if not line.startswith(" ")] == ["603", "602", "601"]
    (found,) = (line for line in said.out.splitlines() if line.startswith(" "))
    assert found == f"    {cell} online: {checkpoints / '601' / 'tune_online' / cell}/000000040.0123456789abcdef.pt"
    lines = said.err.splitlines()
    assert [line.split(":")[1].strip() for line in lines] == [f"{best} is damaged", f"{index} is damaged"]


def test_without_a_store_one_line_says_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("no run has begun here: there is no sqlite:///") and not home.exists()


def test_the_command_names_the_home_folder_that_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VDT_HOME", "my runs")
    assert make_resume_command(COMMAND, "1") == f"VDT_HOME='my runs' {COMMAND} resume --origin-run-id 1"
    monkeypatch.delenv("VDT_HOME")
    assert make_resume_command(COMMAND, "1") == f"{COMMAND} resume --origin-run-id 1"


def test_the_command_of_the_installation_is_as_short_as_the_folder_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VDT_HOME", raising=False)
    script = tmp_path / ".venv" / "bin" / "vdt"
    monkeypatch.setattr("sys.executable", str(script.with_name("python")))
    monkeypatch.chdir(tmp_path)
    assert make_vdt_command("runs") == "python -m vdt.cli runs"
    script.parent.mkdir(parents=True)
    script.touch()
    assert make_vdt_command("runs") == ".venv/bin/vdt runs"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("VDT_HOME", "my runs")
    assert make_vdt_command("runs") == f"VDT_HOME='my runs' {script} runs"


def test_the_command_of_an_installation_in_a_folder_with_a_blank_can_be_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "my env" / "bin" / "vdt"
    script.parent.mkdir(parents=True)
    script.touch()
    monkeypatch.setattr("sys.executable", str(script.with_name("python")))
    monkeypatch.delenv("VDT_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert shlex.split(make_vdt_command("runs --all")) == ["my env/bin/vdt", "runs", "--all"]

"""What goes wrong around `flows/slurm.py`: refusals, other people's jobs, lost reports, other code."""

import dataclasses
import re
from pathlib import Path

import pytest

from flows.slurm import main
from support.records import make_record
from support.slurm_commands import SEARCH, STUDY, answer_with, call, list_done
from vdt.experiments.cells import compute_identities, resolve_cells
from vdt.experiments.results_store import save_result
from vdt.system.slurm import SlurmError, list_jobs, submit_job


@pytest.mark.usefixtures("processes")
def test_jobs_of_another_home_folder_are_not_this_studys(
    said: Path, home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither those of other people, whose studies have the same name, nor those of one's own second home folder."""
    study, other = ("--study", "two.yaml"), said.parent / "other"
    assert list_done(call(said, "submit", *study)) == ["array", "array", "report"]
    monkeypatch.setenv("VDT_HOME", str(other))
    caplog.clear()
    with caplog.at_level("INFO"):
        call(said, "status", *study)
    assert "0 running, 0 pending, 0 failed, 2 missing" in caplog.messages[0]
    assert not [message for message in caplog.messages if "pending " in message[:9]]
    assert list_done(call(said, "submit", *study)) == ["array", "array", "report"], "and no report is cancelled"
    assert call(said, "submit", *study) == []


@pytest.mark.usefixtures("home", "processes")
@pytest.mark.parametrize("text", [STUDY, "search"])
def test_a_report_that_was_not_submitted_is_submitted_later(said: Path, text: str) -> None:
    """Slurm has refused it, or the shell ended before."""
    (said.parent / "two.yaml").write_text(SEARCH if text == "search" else text)
    study, arrays = ("submit", "--study", "two.yaml"), ["array"] if text == "search" else ["array", "array"]
    answer_with(said, "sbatch", 'case "$*" in *--wrap*) echo no report >&2; exit 1;; esac; echo 12$(wc -l < "$SAID")')
    with pytest.raises(SystemExit):
        call(said, *study)
    answer_with(said, "sbatch", 'echo 12$(wc -l < "$SAID")')
    known = said.read_text()
    said.write_text("".join(line for line in known.splitlines(keepends=True) if "--wrap" not in line))
    (late,) = (line for line in call(said, *study) if line.startswith("sbatch"))
    after = re.search(r"--dependency=afterany:(\S+)", late)
    assert after and after[1].split(":") == [str(number) for number in range(1, len(arrays) + 1)]
    assert "--wrap" in late and "--array" not in late
    assert call(said, *study) == [], "the report is in the queue"
    assert list_done(call(said, *study, "--set", "actor.gradient_steps=7")) == [*arrays, "report"]


def test_cells_that_slurm_refuses_are_missing_and_not_failed(
    said: Path, home: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    answer_with(said, "squeue", "")
    answer_with(said, "sbatch", "echo invalid partition >&2; exit 1")
    with pytest.raises(SystemExit):
        main(["slurm.py", "submit", "--study", "two.yaml", "--sbatch", "--partition=gpuu"])
    error = capsys.readouterr().err
    assert "sbatch refuses: invalid partition" in error and "--partition=gpuu" in error and "--gres=gpu:1" in error
    assert not list((home / ".vdt" / "slurm" / "two").iterdir())
    caplog.clear()
    with caplog.at_level("INFO"):
        main(["slurm.py", "status", "--study", "two.yaml"])
    assert "0 failed, 2 missing" in caplog.messages[0]


def test_what_a_refusal_left_in_the_queue_keeps_its_cells(said: Path, home: Path) -> None:
    """Slurm may take a job and yet answer too late."""
    answer_with(
        said, "sbatch", 'for word; do case $word in --comment=*) echo "$word" > "$SAID.folder";; esac; done; exit 1'
    )
    answer_with(
        said, "squeue", f'[ ! -f {said}.folder ] || echo "7_1|1|PENDING||5:00|None|$(cut -d= -f2 {said}.folder)"'
    )
    with pytest.raises(SystemExit):
        main(["slurm.py", "submit", "--study", "two.yaml"])
    assert len(list(home.glob(".vdt/slurm/two/*/*/cells.txt"))) == 1


@pytest.mark.usefixtures("home")
def test_help_submits_nothing(said: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["submit", "--study", "two.yaml", "--help"], ["submit", "--help"], ["-h"]):
        assert main(["slurm.py", *words]) == 0
        assert "flows/slurm.py submit --study FILE" in capsys.readouterr().out
    assert not said.exists()


@pytest.mark.usefixtures("home")
def test_a_limit_below_that_of_a_stop_is_refused(said: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Such a job would be stopped at its start, and queued again without end."""
    for words in ("--time=2", "-t 0:03:00", "-t4", "--time 4:59"):
        with pytest.raises(SystemExit):
            main(["slurm.py", "submit", "--study", "two.yaml", "--sbatch", words])
        error = capsys.readouterr().err
        assert "minutes" in error and "5" in error and "--signal" in error
    assert not said.exists() or "sbatch" not in said.read_text()


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("words", ["--time=2 --signal=B:USR1@20", "--time=1-0", "-t5"])
def test_a_limit_that_suffices_is_accepted(said: Path, words: str) -> None:
    main(["slurm.py", "submit", "--study", "two.yaml", "--sbatch", words])
    assert words in said.read_text()


def test_a_home_folder_with_a_percent_sign_gets_its_logs(said: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm puts the job's name in place of `%x`, finds no such folder, and ends the job without a word."""
    answer_with(said, "squeue", "")
    monkeypatch.setenv("VDT_HOME", str(said.parent / "50%x"))
    main(["slurm.py", "submit", "--study", "two.yaml"])
    outputs = re.findall(r"--output=(\S+)", said.read_text())
    assert len(outputs) == 3 and all("/50%%x/" in output for output in outputs)
    assert all("/50%x/" in comment for comment in re.findall(r"--comment=(\S+)", said.read_text()))


def test_a_full_disk_is_one_error(
    said: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder of submissions cannot be made where a file has its name, as nothing can on a full disk."""
    (home / ".vdt").mkdir(parents=True)
    (home / ".vdt" / "slurm").write_text("")
    with pytest.raises(SystemExit):
        main(["slurm.py", "submit", "--study", "two.yaml"])
    error = capsys.readouterr().err
    assert error.startswith(f"error: cannot write to {home}/.vdt/slurm/two") and len(error.splitlines()) == 1
    assert "sbatch" not in said.read_text()


def test_squeue_is_asked_for_what_waits_and_runs_whatever_the_shell_says(
    said: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`SQUEUE_STATES=all` would list jobs that have ended, which would then count as cells that run."""
    monkeypatch.setenv("SQUEUE_STATES", "all")
    monkeypatch.setenv("SCANCEL_INTERACTIVE", "1")
    monkeypatch.setenv("SBATCH_ACCOUNT", "lab")
    answer_with(said, "squeue", 'env | grep -E "^(SQUEUE|SCANCEL|SBATCH)_" >> "$SAID"')
    assert list_jobs("vdt-two") == []
    assert said.read_text().splitlines()[1:] == ["SBATCH_ACCOUNT=lab"]


def test_an_answer_without_a_number_is_no_job(said: Path) -> None:
    """`--test-only` submits nothing."""
    answer_with(said, "sbatch", 'echo "Job 4 to start at noon" >&2')
    with pytest.raises(SlurmError, match=r"sbatch has submitted nothing.*Job 4 to start at noon"):
        submit_job(["--test-only"])


@pytest.mark.usefixtures("home", "processes")
def test_status_names_jobs_of_other_options(said: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A forgotten `--set`, or a study's file that was changed, else looks as if nothing was submitted."""
    call(said, "submit", "--study", "two.yaml", "--set", "actor.gradient_steps=7")
    caplog.clear()
    with caplog.at_level("INFO"):
        call(said, "status", "--study", "two.yaml")
    assert "2 missing" in caplog.messages[0]
    assert "3 jobs of two are in the queue with other options" in caplog.text


@pytest.mark.usefixtures("processes")
def test_results_of_other_code_are_named(said: Path, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After an update of the code, all would be submitted again without a word, and were called failed before."""
    cells, _ = resolve_cells({"study": "two.yaml"})
    results = home / ".vdt" / "results"
    results.mkdir(parents=True)
    for identity in compute_identities(cells):
        (results / f"{identity}-othercode.json").write_text("{}")
    with caplog.at_level("INFO"):
        call(said, "submit", "--study", "two.yaml")
    assert "2 of these have results of other code, which --reuse settings takes" in caplog.messages[0]
    for file in home.glob(".vdt/slurm/two/*/wave-*/cells.txt"):
        file.with_name("12_1.log").write_text("start 1\nended with 0 at noon\n")
    said.unlink()
    caplog.clear()
    with caplog.at_level("INFO"):
        call(said, "status", "--study", "two.yaml")
    assert "0 failed, 2 missing" in caplog.messages[0]
    assert "2 of these have results of other code, which --reuse settings takes" in caplog.text


@pytest.mark.parametrize("command", ["status", "submit"])
def test_a_finished_study_names_its_report_and_what_waits(
    said: Path, home: Path, command: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report's job may have been lost, or cancelled."""
    answer_with(said, "squeue", "")
    cells, _ = resolve_cells({"study": "two.yaml"})
    for cell, run in zip(cells, ("local-1", "a1"), strict=True):
        record = dataclasses.replace(make_record(0, {}), key=cell.key, mlflow_run_id=run)
        (identity,) = compute_identities([cell])
        save_result(home, identity, record.to_json())
    with caplog.at_level("INFO"):
        main(["slurm.py", command, "--study", "two.yaml"])
    assert "records of 1 cells wait; to deliver them to MLflow: " in caplog.text and " deliver" in caplog.text
    assert "no report yet; to make it: " in caplog.text and "report_flow.py run --study two.yaml" in caplog.text
    report = home / "reports" / "study-two" / "report.html"
    report.parent.mkdir(parents=True)
    report.write_text("")
    caplog.clear()
    with caplog.at_level("INFO"):
        main(["slurm.py", command, "--study", "two.yaml"])
    assert f"report: {report}; to make it again: " in caplog.text


@pytest.mark.usefixtures("processes")
def test_status_of_a_search_says_when_nobody_works(said: Path, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    (said.parent / "mine.yaml").write_text(SEARCH)
    call(said, "submit", "--study", "mine.yaml")
    (log,) = home.glob(".vdt/slurm/mine/*/workers")
    (log / "12_1.log").write_text("start 1\nended with 2 at noon\n")
    said.unlink()
    caplog.clear()
    with caplog.at_level("INFO"):
        call(said, "status", "--study", "mine.yaml")
    assert "no worker is in the queue" in caplog.text and "ended with 2 at noon; " in caplog.text
    assert "12_1.log" in caplog.text and "`submit` with the same options" in caplog.text

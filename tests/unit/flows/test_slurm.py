"""Command line of `flows/slurm.py`: what is refused before any work, and what sbatch is given."""

import contextlib
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.search import Worker
from flows.slurm import list_resources, main
from flows.slurm_request import parse_request
from support.flow import ENV
from support.slurm_commands import SEARCH, STUDY, answer_with, call, list_done
from vdt.config.errors import ConfigError
from vdt.system.locks import try_lock
from vdt.system.slurm import SlurmError, find_largest_array, list_jobs, submit_job


def parse(*words: str) -> object:
    return parse_request(["slurm.py", *words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the first word is submit or status, not ''"),
        (["sumbit", "--study", "a"], "not 'sumbit'"),
        (["submit"], "--study needs the name or the path of a study file"),
        (["submit", "--study", "a", "--cell", "3"], "--cell: all that is missing is submitted; leave it out"),
        (["submit", "--study", "a", "--at-once", "few"], "--at-once takes a whole number from 0"),
        (
            ["submit", "--study", "a", "--partition=gpu"],
            "--partition=gpu belongs to no option of flows/slurm.py; those of sbatch go into --sbatch",
        ),
        (["submit", "--study", "a", "--sbatch", "--comment='x"], '--sbatch "--comment=\'x": No closing quotation'),
        (
            ["submit", "--study", "a", "--sbatch-report", '--qos="x'],
            "--sbatch-report '--qos=\"x': No closing quotation",
        ),
        (["submit", "--study", "a", "--sbatch", "--test-only"], "--sbatch: --test-only is not accepted"),
        (["submit", "--study", "a", "--sbatch", "--clusters=b --time=9"], "--sbatch: --clusters is not accepted"),
        (["submit", "--study", "a", "--sbatch-report", "-W"], "--sbatch: -W is not accepted"),
        (["submit", "--study", "a", "--sbatch", "--array=1-3"], "--sbatch: --array is set here"),
        (["submit", "--study", "a", "--sbatch-report", "-J x"], "--sbatch: -J is set here"),
    ],
)
def test_wrong_words_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(*words)
    assert message in str(caught.value)


def test_sbatchs_own_options_pass_through() -> None:
    request = parse_request(
        ["slurm.py", "submit", "--study", "a", "--sbatch", "--time=5", "--seeds", "0", "--at-once", "2"]
    )
    assert (request.sbatch, request.options, request.at_once) == (["--time=5"], {"study": "a", "seeds": "0"}, 2)
    request = parse_request(["slurm.py", "submit", "--study", "a", "--sbatch", "--time=5 --comment-x='a b'"])
    assert request.sbatch == ["--time=5", "--comment-x=a b"]
    others = (
        "--account=lab -Alab --exclude=n1 --gres gpu:1 -p gpu -c4 --open-mode=append -eerrors.log --error=errors.log"
    )
    assert parse_request(["slurm.py", "submit", "--study", "a", "--sbatch", others]).sbatch == others.split()


@pytest.mark.parametrize(
    ("words", "option"),
    [
        *[("-Jmine", "-J"), ("-J mine", "-J"), ("--job=mine", "--job-name"), ("--time=5 --job-na mine", "--job-name")],
        *[("-a1-3", "-a"), ("--arr=1-3", "--array"), ("-dafterok:5", "-d"), ("--dep=afterok:5", "--dependency")],
        *[("--com=x", "--comment"), ("-D/tmp", "-D"), ("--chd=/tmp", "--chdir"), ("--wr=true", "--wrap")],
        *[("--output=x.log", "--output"), ("-o x.log", "-o"), ("-ox.log", "-o"), ("--out x.log", "--output")],
    ],
)
@pytest.mark.parametrize("of", ["--sbatch", "--sbatch-report"])
def test_what_is_set_here_is_refused_in_every_form(of: str, words: str, option: str) -> None:
    with pytest.raises(ConfigError, match=f"--sbatch: {option} is set here"):
        parse("submit", "--study", "a", of, words)


def test_the_dag_says_what_its_steps_ask_for() -> None:
    assert list_resources() == [{"gpu": 1}] * 3


def test_a_machine_without_slurm_is_named(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit):
        main(["slurm.py", "submit", "--study", "quick"])
    assert capsys.readouterr().err.startswith(
        "error: there is no sbatch on PATH: jobs are submitted on a cluster's login"
    )
    assert not home.exists()


def test_the_queue_is_read(said: Path) -> None:
    one, other = list_jobs("vdt-two")
    assert (one.job_id, one.index, one.node, one.comment) == ("7_2", 2, "n1", "/a|b")
    assert (other.index, other.reason) == (None, "Dependency")
    assert find_largest_array() == 2


def test_waves_wait_for_each_other_and_the_report_for_all(said: Path, home: Path) -> None:
    earlier = home / ".vdt" / "slurm" / "two" / "earlier" / "report"
    answer_with(said, "squeue", f'echo "9|N/A|PENDING||5:00|Dependency|{earlier}"')
    main(["slurm.py", "submit", "--study", "two.yaml", "--at-once", "4", "--sbatch", "--partition=gpu --mem=9G"])
    _, _, first, second, report, cancelled = said.read_text().splitlines()
    assert cancelled.strip() == "scancel --state=PENDING 9", "the earlier report would be of less"
    assert "--array=1-1%4" in first and "--dependency" not in first
    assert "--dependency=afterany:123" in second, "the second trains on the first's critic"
    for words in (first, second):
        assert all(
            word in words for word in ("--gres=gpu:1", "--time=15", "--partition=gpu --mem=9G", "--job-name=vdt-two")
        )
        assert "--mem=5" not in words, "what is given wins"
    assert "--dependency=afterany:123:124" in report and "gpu:1" not in report and "--partition=gpu" in report
    (copy,) = home.glob(".vdt/slurm/two/*/two.yaml")
    assert copy.read_text() == STUDY and f"--study {copy}" in first and f"--study {copy}" in report
    number, digest, key = (copy.parent / "wave-1-1" / "cells.txt").read_text().split()
    assert (number, len(digest), key) == ("1", 16, f"{ENV}-vdt-strong-s0")


@pytest.mark.usefixtures("home", "processes")
def test_cells_of_other_options_are_no_cells_of_the_queue(said: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Their keys are equal, as are the names of their jobs."""
    study, other = ("--study", "two.yaml"), ("--set", "actor.gradient_steps=7")
    assert list_done(call(said, "submit", *study)) == ["array", "array", "report"]
    assert call(said, "submit", *study) == [], "all are in the queue"
    assert list_done(call(said, "submit", *study, *other)) == ["array", "array", "report"], "and no report is cancelled"
    assert call(said, "submit", *study, *other) == []
    assert list_done(call(said, "submit", *study, "--seeds", "0,1")) == ["array", "array", "report", "cancelled"]
    caplog.clear()
    with caplog.at_level("INFO"):
        call(said, "status", *study, *other)
        call(said, "status", *study, "--set", "actor.gradient_steps=8")
    counts = [message for message in caplog.messages if "cells:" in message]
    assert [re.findall(r"\d+ (?:pending|failed|missing)", text) for text in counts] == [
        ["2 pending", "0 failed", "0 missing"],
        ["0 pending", "0 failed", "2 missing"],
    ]
    assert sum(message.startswith("pending  report") for message in caplog.messages) == 1


@pytest.mark.usefixtures("home", "processes")
def test_workers_of_another_search_are_not_counted(said: Path, caplog: pytest.LogCaptureFixture) -> None:
    (said.parent / "mine.yaml").write_text(SEARCH)
    study, other = ("--study", "mine.yaml"), ("--set", "actor.gradient_steps=7")
    assert list_done(call(said, "submit", *study)) == ["array", "report"]
    assert call(said, "submit", *study) == [], "one worker is in the queue"
    assert list_done(call(said, "submit", *study, *other)) == ["array", "report"]
    caplog.clear()
    with caplog.at_level("INFO"):
        call(said, "status", *study, *other)
    assert [message.split(":")[0] for message in caplog.messages[-3:-1]] == ["pending  workers", "pending  report"]
    assert sum(message.startswith("pending") for message in caplog.messages) == 2
    assert caplog.messages[-1].startswith("2 jobs of mine are in the queue with other options")


def test_slurms_refusal_is_passed_on(said: Path) -> None:
    (said.parent / "bin" / "sbatch").write_text('#!/bin/sh\necho "sbatch: error: invalid partition" >&2; exit 1\n')
    with pytest.raises(SlurmError, match="sbatch refuses: sbatch: error: invalid partition"):
        submit_job(["--wrap=true"])


@pytest.mark.parametrize("ended", [False, True])
def test_a_worker_waits_for_no_other_on_a_node(tmp_path: Path, ended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for a trial that another runs, nor for the winner's run."""
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    none_left = contextlib.nullcontext(None)
    worker: Any = object.__new__(Worker)
    store = SimpleNamespace(
        budget=1, list_trials=list, winner=None, reports=0, take=lambda: none_left, is_finished=lambda: ended
    )
    vars(worker).update(
        store=store, folder=tmp_path, study=SimpleNamespace(name="mine"), log=SimpleNamespace(open=list)
    )
    with try_lock(tmp_path / "final.lock") as held:
        assert held and worker.run() == 0

"""Last words of a run: why it ended, how to go on; advice where memory has run out."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.command_line import MEMORY_KILLS
from flows.errors import UserError, clear_errors
from flows.hooks import on_success, say_how_to_go_on
from vdt.system.home import ROOT
from vdt.system.processes import STOPPED, count_memory_kills


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, ["The run failed. Its completed steps are kept"]),
        ({STOPPED: "1", MEMORY_KILLS: "-1"}, ["The run was stopped. Its completed steps are kept"]),
        ({MEMORY_KILLS: "-1"}, ["error: the kernel ended a process, for memory had run out.", "The run failed."]),
        ({MEMORY_KILLS: str(10**9)}, ["The run failed."]),
    ],
)
def test_last_words(
    variables: dict[str, str], said: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (STOPPED, MEMORY_KILLS):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    say_how_to_go_on("17")
    lines = [line for line in capsys.readouterr().out.splitlines() if line and not line.startswith(" ")]
    assert len(lines) == len(said) and all(line.startswith(start) for line, start in zip(lines, said, strict=True))


def test_the_last_screen_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    data = SimpleNamespace(summary="env  score\na    1.0")
    on_success({"end": SimpleNamespace(task=SimpleNamespace(data=data))})
    assert capsys.readouterr().out == "\nenv  score\na    1.0\n\n"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:83] DefaultCPUAllocator: can't allocate memory: you tried to 9"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_memory_that_runs_out_is_said_with_advice(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError), clear_errors():
        raise error
    line = capsys.readouterr().out
    assert line.startswith("error: memory has run out") and "--max-workers 1" in line


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "error: cannot write x.pt (No space left on device); make room and resume"),
        (errno.EACCES, "error: may not read or write x.pt (Permission denied); change its permissions and resume"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_advice(
    code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError), clear_errors():
        raise OSError(code, os.strerror(code), "x.pt")
    assert capsys.readouterr().out.strip() == said


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(RuntimeError, match="a bug"), clear_errors():
        raise RuntimeError("a bug")


def test_kills_for_memory_are_counted() -> None:
    assert count_memory_kills() >= 0


def test_a_step_leaves_ctrl_c_to_its_parent() -> None:
    code = (
        "import os, signal; from flows.command_line import check_command_line;"
        "check_command_line(['flows/vdt_flow.py', 'step', 'start']); os.kill(os.getpid(), signal.SIGINT); print('goes on')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "goes on\n"), done.stderr


def test_ctrl_c_is_remembered_for_the_last_words(tmp_path: Path) -> None:
    code = (
        "import os, signal; from vdt.system.processes import STOPPED, interrupt_on_signals; interrupt_on_signals()\n"
        f"try: os.kill(os.getpid(), {int(signal.SIGINT)}); signal.pause()\n"
        "except KeyboardInterrupt: print(os.environ[STOPPED])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr


def test_a_request_for_a_checkpoint_reaches_the_steps() -> None:
    code = (
        "import os, subprocess; from vdt.system.processes import SAVE, interrupt_on_signals; interrupt_on_signals()\n"
        "script = 'trap \"echo saves; exit\" USR1; echo ready; while :; do sleep 0.05; done'\n"
        "step = subprocess.Popen(['bash', '-c', script], stdout=subprocess.PIPE, text=True)\n"
        "assert step.stdout.readline() == 'ready\\n'; os.kill(os.getpid(), SAVE); print(step.stdout.readline(), end='')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "saves\n"), done.stderr

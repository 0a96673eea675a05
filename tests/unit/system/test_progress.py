"""Progress lines: how far, how fast lately, how long still."""

import pytest

from vdt.system import progress as module
from vdt.system.progress import Progress


def test_the_time_left_forgets_that_the_machine_slept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    progress = Progress("critic", 1000, 3000, "gradient step")  # goes on from a checkpoint
    for step in range(1010, 2110, 10):  # 10 steps a second
        now += 3600 if step == 1500 else 1
        progress.report(step, {"loss": 0.12345678})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "critic: gradient step 1,100/3,000  10.0/s  190 s left  loss 0.1235"
    assert lines[-1].startswith("critic: gradient step 2,100/3,000  10.0/s  90 s left")
    assert 10 <= len(lines) <= 12  # one in ten seconds


def test_the_last_step_is_always_printed(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress("collect", 0, 30)
    progress.advance(10)
    progress.advance(10)
    progress.advance(15)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("collect: step 35/30 ") and line.endswith("/s  0 s left")

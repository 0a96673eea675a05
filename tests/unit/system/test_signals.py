"""Ctrl-C and SIGTERM while a step's process imports: it ends without a traceback, or when the import is over."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from vdt.system.home import ROOT
from vdt.system.processes import Terminated, defer_termination, terminate_cleanly


@pytest.fixture(autouse=True)
def restore_signals() -> Iterator[None]:
    """`terminate_cleanly` leaves a timer and ignored signals, for its process is about to end."""
    names = (signal.SIGTERM, signal.SIGALRM)
    before = {name: signal.getsignal(name) for name in names}
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for name, handler in before.items():
        signal.signal(name, handler)


EARLY = """
import os, runpy, signal, sys
class PressingCtrlC:  # when Metaflow is about to be imported
    def find_spec(self, name, path=None, target=None):
        if name == "metaflow":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, PressingCtrlC())
sys.argv = [sys.argv[1], "--quiet", sys.argv[2]]
runpy.run_path(sys.argv[0], run_name="loaded")
"""


@pytest.mark.parametrize("flow", ["vdt_flow.py", "report_flow.py"])
def test_ctrl_c_is_left_to_the_parent_from_a_steps_first_moment_on(flow: str) -> None:
    """Both get it from the terminal: a step would print pages on what it was importing."""
    command = [sys.executable, "-c", EARLY, str(ROOT / "flows" / flow)]
    step, run = (
        subprocess.run([*command, word], capture_output=True, text=True, timeout=60) for word in ("step", "run")
    )
    assert (step.returncode, step.stderr) == (0, "")
    assert run.returncode != 0 and run.stderr.endswith("KeyboardInterrupt\n"), "the parent is stopped by it"


def test_what_an_interrupted_import_raises_is_the_end_that_was_asked_for() -> None:
    """Compiled modules turn `Terminated` into a SystemError of their own."""
    with pytest.raises(Terminated), terminate_cleanly():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except Terminated:
            raise SystemError("<class 'module'> returned a result with an exception set") from None
    with pytest.raises(SystemError, match="a bug"), terminate_cleanly():
        raise SystemError("a bug")


def test_an_end_that_is_asked_for_during_an_import_comes_after_it() -> None:
    done: list[str] = []
    with pytest.raises(Terminated), terminate_cleanly():
        with defer_termination():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            done.append("imported")
        done.append("too far")
    assert done == ["imported"]
    before = signal.getsignal(signal.SIGTERM)
    with defer_termination():
        assert signal.getsignal(signal.SIGTERM) is before, "nothing is deferred where no step is running"

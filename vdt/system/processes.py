"""Signals of processes, the end of their parents, and detection of ended processes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
SAVE = signal.SIGUSR1  # signal: write a checkpoint at the next step, for the process will be stopped
FLOW_COMMANDS = ("run", "resume", "step", "spin")  # of Metaflow, which start or are processes of a flow
STOPPED = "VDT_STOPPED"  # environment variable: the flow was stopped on purpose; read by its exit hooks


def follow_parent_early(words: Sequence[str]) -> None:
    """End with the parent alone (`follow_parent`) if a flow's command line is that of a step.

    It is called before the heavy imports, whose interruption would print pages.
    """
    if next((word for word in words if word in FLOW_COMMANDS), "") == "step":
        follow_parent()


def follow_parent() -> None:
    """End when the parent ends or sends SIGTERM: Ctrl-C reaches the whole group, and only the parent responds."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()


class SaveRequest:
    """Request of another process for a checkpoint, by the signal `SAVE`."""

    def __init__(self) -> None:
        self._asked = False

    def listen(self) -> None:
        """Keep requests from now on."""
        signal.signal(SAVE, lambda *_: setattr(self, "_asked", True))

    def take(self) -> bool:
        """Return whether there was a request since the last call."""
        asked, self._asked = self._asked, False
        return asked


save_request = SaveRequest()


def die_with_parent() -> None:
    """Make the kernel end this process when its parent ends, so that none stays on a GPU (Linux only)."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL("libc.so.6", use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before the request
            os.kill(os.getpid(), signal.SIGTERM)


def count_memory_kills() -> int:
    """Return how many processes the kernel has ended for lack of memory, in this container or on this machine (Linux)."""
    for file in (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat")):
        with contextlib.suppress(OSError, ValueError):
            counts = dict(line.split() for line in file.read_text().splitlines())
            if "oom_kill" in counts:
                return int(counts["oom_kill"])
    return 0


class Terminated(BaseException):
    """Exception of SIGTERM: the parent ended, or another program sent it. No computing code catches it."""


@contextlib.contextmanager
def terminate_cleanly(seconds: float = 10.0) -> Iterator[None]:
    """Turn SIGTERM into `Terminated` inside the block; if the process is still there `seconds` later, it is killed.

    So is any error that follows in the block: a compiled module whose import was interrupted raises one of its own.
    """
    told = False

    def stop(*_: Any) -> None:
        nonlocal told
        told = True
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        if os.getppid() != parent:  # the output has no reader any more
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
        raise Terminated

    parent, before = os.getppid(), signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except Exception:
        if told:
            raise Terminated from None
        raise
    finally:
        if signal.getsignal(signal.SIGTERM) is stop:
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def defer_termination() -> Iterator[None]:
    """Hold a SIGTERM that `terminate_cleanly` handles until the block's end: an import that is cut short can't be repeated."""
    handler, asked = signal.getsignal(signal.SIGTERM), list[int]()
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        if asked:
            handler(asked[0], None)


def interrupt_on_signals() -> None:
    """Make SIGTERM and a closed terminal end a flow as Ctrl-C does: its steps are stopped and its exit hooks run.

    A request for a checkpoint (`SAVE`) is passed on to the steps.
    """

    def stop(*_: Any) -> None:
        os.environ[STOPPED] = "1"
        for name in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, signal.SIG_IGN)
        _tell_children(signal.SIGTERM)
        raise KeyboardInterrupt

    signal.signal(SAVE, lambda *_: _tell_children(SAVE))
    for name in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(name) in (signal.SIG_DFL, signal.default_int_handler):  # not under nohup
            signal.signal(name, stop)


def _tell_children(number: signal.Signals) -> None:
    for child in _get_children():
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)


def _get_children() -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except OSError:
        return []


def describe_process(pid: int) -> str:
    """Return `host:pid:start`, unique among all processes; start is empty where there is no /proc."""
    return f"{platform.node()}:{pid}:{_get_start_time(pid)}"


def is_gone(process: str) -> bool:
    """Return whether a process of `describe_process` is known to have ended; false for another machine's."""
    host, pid, start = process.rsplit(":", 2)
    return host == platform.node() and bool(start) and _get_start_time(int(pid)) != start


def _get_start_time(pid: int) -> str:
    """Return clock ticks from the machine's start to the process's, with the boot's id; empty if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    return f"{boot}/{text.rpartition(')')[2].split()[19]}"

"""The process around the work: folders, environment variables, threads, device. Imports nothing heavy.

`prepare()` must run before `import metaflow`, which reads the user name and the datastore's root while it is imported.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.metadata
import inspect
import os
import platform
import resource
import signal
import sys
import tempfile
import typing
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    import torch

    from vdt.config.layers import Config

F = TypeVar("F", bound=Callable[..., Any])
ROOT = Path(__file__).resolve().parents[2]
PR_SET_PDEATHSIG = 1
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "DO_NOT_TRACK": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


OBJECTS_PER_COLLECTION = 100_000  # Python's own: 700
BYTES_PER_CELL = 1.2e9  # of a step's process: 0.6 GB of libraries, and data
MOST_CELLS = 10_000  # of one flow; Metaflow itself stops at 100
NUMERICAL = ("torch", "numpy", "gymnasium", "mujoco")  # packages whose version may change the last bits of a result


class FolderError(OSError):
    """A folder that the pipeline writes to cannot be written."""


def home() -> Path:
    """The folder of data, checkpoints, tracking store and reports: `VDT_HOME`, or the repository's root."""
    return Path(os.environ.get("VDT_HOME") or ROOT).expanduser().resolve()


def prepare() -> None:
    """Set what Metaflow, MLflow and DVC read from the environment; what the user has set stays.

    A user name is only given where Metaflow would refuse to start: to root, and to a process without one. Garbage is
    looked for less often: importing PyTorch and MLflow then takes three quarters of the time, in each step's process.
    """
    gc.set_threshold(OBJECTS_PER_COLLECTION)
    names = ("METAFLOW_USER", "SUDO_USER", "USERNAME", "USER")
    if all(os.environ.get(name, "root") in ("", "root") for name in names):
        os.environ["METAFLOW_USER"] = "vdt"
    os.environ.setdefault("METAFLOW_DATASTORE_SYSROOT_LOCAL", str(home()))
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    workers = str(count_gpus() or count_cells_that_fit(count_cores(), measure_memory()))
    for command in ("RUN", "RESUME"):
        os.environ.setdefault(f"METAFLOW_{command}_MAX_WORKERS", workers)
        os.environ.setdefault(f"METAFLOW_{command}_MAX_NUM_SPLITS", str(MOST_CELLS))
    path = os.environ.get("PYTHONPATH", "")  # exit hooks run as `python -m ...` children and import vdt by name
    if str(ROOT) not in path.split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), path]))


def check_folders(base: Path) -> None:
    """Create the folders that a run writes to and try each with a file.

    Raises:
        FolderError: naming the folder and the reason.
    """
    for folder in (base, base / "data", base / ".vdt", base / "reports"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            reason = error.strerror or str(error)
            raise FolderError(
                f"cannot write to {folder} ({reason}); set VDT_HOME to a folder that you can write to"
            ) from None


def die_with_parent() -> None:
    """Ask the kernel to end this process when its parent ends, so that none stays behind on a GPU (Linux only)."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL("libc.so.6", use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before the kernel was asked
            os.kill(os.getpid(), signal.SIGTERM)


class Terminated(BaseException):
    """SIGTERM: the parent ended, or somebody asked this process to. Nothing that computes catches it."""


@contextlib.contextmanager
def terminate_cleanly(seconds: float = 10.0) -> Iterator[None]:
    """Turn SIGTERM into `Terminated` inside the block; if the process is still there `seconds` later, it is killed."""

    def stop(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        if os.getppid() != parent:  # nobody reads our output any more
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
        raise Terminated

    parent, before = os.getppid(), signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is stop:
            signal.signal(signal.SIGTERM, before)


def interrupt_on_signals() -> None:
    """Let SIGTERM and a closed terminal end a flow as Ctrl-C does: its steps are stopped and its last words are said."""

    def stop(*_: Any) -> None:
        for name in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, signal.SIG_IGN)
        for child in _get_children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)
        raise KeyboardInterrupt

    for name in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(name) in (signal.SIG_DFL, signal.default_int_handler):  # not under nohup
            signal.signal(name, stop)


def _get_children() -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except OSError:
        return []


def get_versions() -> dict[str, str]:
    """Versions of all that a result depends on to the last bit."""
    versions = {name: importlib.metadata.version(name) for name in NUMERICAL}
    threads = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else 0
    return {**versions, "python": platform.python_version(), "machine": platform.machine(), "threads": str(threads)}


def describe_process(pid: int) -> str:
    """`host:pid:start`, which no other process will ever have; start is empty where there is no /proc."""
    return f"{platform.node()}:{pid}:{_get_start_time(pid)}"


def is_gone(process: str) -> bool:
    """Whether a process of `describe_process` is known to have ended; one of another machine never is."""
    host, pid, start = process.rsplit(":", 2)
    return host == platform.node() and bool(start) and _get_start_time(int(pid)) != start


def _get_start_time(pid: int) -> str:
    """Clock ticks from the machine's start to the process's, with the boot's id; empty if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    return f"{boot}/{text.rpartition(')')[2].split()[19]}"


def count_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count_gpus() -> int:
    """NVIDIA GPUs of this machine, by device file: no driver is loaded."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def claim_gpu(index: int) -> None:
    """With several GPUs, show this process only the one for cell number `index`. Must run before CUDA starts."""
    gpus = count_gpus()
    if gpus > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = [n.strip() for n in visible.split(",")] if visible is not None else [str(i) for i in range(gpus)]
        os.environ["CUDA_VISIBLE_DEVICES"] = names[index % gpus]


def set_threads(cells_in_parallel: int, threads: int = 0) -> int:
    """Divide the cores among the cells that run at once; two busy processes with two threads each on two cores crawl.

    Args:
        cells_in_parallel: cells that may compute at the same time.
        threads: explicit number of threads (`runtime.threads`); 0 divides the cores, at most `OMP_NUM_THREADS`.

    Returns:
        The number of threads set.
    """
    if threads == 0:
        limit = os.environ.get("OMP_NUM_THREADS", "")
        cores = min(count_cores(), int(limit)) if limit.isdigit() and int(limit) > 0 else count_cores()
        threads = max(1, cores // max(1, cells_in_parallel))
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read by torch and NumPy when they are imported
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    return threads


def measure_memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def count_cells_that_fit(cores: int, memory: int) -> int:
    """Cells that can run at once: one per core, as far as the memory goes, and at least one."""
    return max(1, min(cores, int(memory / BYTES_PER_CELL)))


def measure_peak_memory() -> dict[str, float]:
    """Most memory that this process has held so far, in MB: of the machine, and of a GPU if it used one."""
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes elsewhere
    peak = {"machine": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        peak["gpu"] = round(torch.cuda.max_memory_allocated() / 1e6, 1)
    return peak


def skip_compiler() -> None:
    """Let optimizers be made without importing torch.compile's machinery, which they need not: 1 s of each step."""
    from torch.optim import Optimizer

    for method in (Optimizer.add_param_group, Optimizer.zero_grad, Optimizer.state_dict, Optimizer.load_state_dict):
        plain = inspect.unwrap(method)
        plain.__dynamo_disable = plain  # what PyTorch puts there after the import


def compile_pass(function: F) -> F:
    """`function` through torch.compile: few fused kernels instead of many small ones.

    Metaflow's Runner loads a typing_extensions of its own, which puts into Python 3.11's `typing` a function that does
    not know the type variables of the installed one; PyTorch's compiler, which defines such classes, needs that back.
    """
    import torch
    import typing_extensions

    for name in ("_check_generic", "_collect_type_vars", "_collect_parameters"):
        if hasattr(typing, name) and hasattr(typing_extensions, name):
            setattr(typing, name, getattr(typing_extensions, name))
    warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`", UserWarning)  # of constants
    return cast(F, torch.compile(function))


def take_step(optimizer: torch.optim.Optimizer) -> None:
    """`optimizer.step()` without what PyTorch wraps it in for torch.compile and its profiler."""
    import torch

    with torch.no_grad():
        inspect.unwrap(type(optimizer).step)(optimizer)


def count_cells_in_parallel(cells: int) -> int:
    """Cells that Metaflow runs at once: as many as there are, at most its number of workers."""
    return max(1, min(cells, int(os.environ.get("METAFLOW_RUN_MAX_WORKERS", count_cores()))))


def choose_device(config: Config) -> torch.device:
    """The device of `runtime.device`: auto takes a GPU if there is one.

    Raises:
        ConfigError: if cuda is asked for and absent.
    """
    import torch

    from vdt.config.layers import ConfigError

    wanted = config.runtime.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("runtime.device is cuda, but torch finds no GPU here; use auto or cpu")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")

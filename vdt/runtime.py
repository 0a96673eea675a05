"""The process around the work: folders, environment variables, threads, device. Imports nothing heavy.

`prepare()` must run before `import metaflow`, which reads the user name and the datastore's root while it is imported.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from vdt.config import Config

ROOT = Path(__file__).resolve().parents[1]
PR_SET_PDEATHSIG = 1
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "DO_NOT_TRACK": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


class FolderError(OSError):
    """A folder that the pipeline writes to cannot be written."""


def home() -> Path:
    """The folder of data, checkpoints, tracking store and reports: `VDT_HOME`, or the repository's root."""
    return Path(os.environ.get("VDT_HOME") or ROOT).expanduser().resolve()


def prepare() -> None:
    """Set what Metaflow, MLflow and DVC read from the environment; what the user has set stays.

    A user name is only given where Metaflow would refuse to start: to root, and to a process without one.
    """
    names = ("METAFLOW_USER", "SUDO_USER", "USERNAME", "USER")
    if all(os.environ.get(name, "root") in ("", "root") for name in names):
        os.environ["METAFLOW_USER"] = "vdt"
    os.environ.setdefault("METAFLOW_DATASTORE_SYSROOT_LOCAL", str(home()))
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    workers = str(count_gpus() or count_cores())
    for command in ("RUN", "RESUME"):
        os.environ.setdefault(f"METAFLOW_{command}_MAX_WORKERS", workers)
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
        ctypes.CDLL("libc.so.6", use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


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


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """No search for garbage among a big library's modules, now or when the process ends: halves a short step's time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def count_cells_in_parallel(cells: int) -> int:
    """Cells that Metaflow runs at once: as many as there are, at most its number of workers."""
    return max(1, min(cells, int(os.environ.get("METAFLOW_RUN_MAX_WORKERS", count_cores()))))


def choose_device(config: Config) -> torch.device:
    """The device of `runtime.device`: auto takes a GPU if there is one.

    Raises:
        ConfigError: if cuda is asked for and absent.
    """
    import torch

    from vdt.config import ConfigError

    wanted = config.runtime.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("runtime.device is cuda, but torch finds no GPU here; use auto or cpu")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")

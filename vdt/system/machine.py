"""Number of cores, memory and GPUs of this machine, and their division among cells that run at once. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import logging
import os
import platform
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vdt.system.container import read_cpu_limit, read_memory_limit

if TYPE_CHECKING:
    import torch


logger = logging.getLogger(__name__)

SPINNING = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}  # turns of GCC's OpenMP, 0.2 ms; milliseconds of LLVM's
STEADY = "AUTO,STRICT"  # of MKL: conditional numerical reproducibility
BYTES_PER_CELL = 1.2e9  # of a step's process: 0.6 GB of libraries, and data

NO_GPU = ("", "-1", "NoDevFiles")  # words of CUDA_VISIBLE_DEVICES; the last is Slurm's, in a job without a GPU


NUMERICAL = ("torch", "numpy", "gymnasium", "mujoco")  # packages whose version may change the last bits of a result


def get_versions() -> dict[str, str]:
    """Return the versions of all packages that a result depends on to the last bit."""
    versions = {name: importlib.metadata.version(name) for name in NUMERICAL}
    threads = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else 0
    return {**versions, "python": platform.python_version(), "machine": platform.machine(), "threads": str(threads)}


def count_cores() -> int:
    """Return the cores that this process may use: those of its affinity, at most its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = read_cpu_limit()
    return cores if limit is None else max(1, min(cores, round(limit)))


def list_gpus() -> list[str]:
    """Return the names of the NVIDIA GPUs that this process may use, as CUDA has them; no driver is loaded."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in NO_GPU]
    return [str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]


def count_gpus() -> int:
    """Count the NVIDIA GPUs that training may use: none with a CPU build of PyTorch."""
    return 0 if importlib.metadata.version("torch").endswith("+cpu") else len(list_gpus())


def read_processor() -> str:
    """Return what the system says of the processor, with its vendor."""
    listed = Path("/proc/cpuinfo")
    return listed.read_text() if listed.exists() else platform.processor()


def limit_spinning() -> None:
    """Make OpenMP's threads sleep after a moment of waiting. Must run before torch and NumPy are imported.

    By default a thread spins for milliseconds at each barrier, also while the core that it waits for belongs to another
    program: beside two busy programs a critic update took 350 ms instead of 5. A setting of the user stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        for name, value in SPINNING.items():
            os.environ.setdefault(name, value)


def steady_sums() -> None:
    """Make MKL's sums the same for any number of threads, on Intel's processors. Must run before its first product.

    MKL splits long sums among threads, so their last bits would depend on the number. Training then has to keep one
    number, and is slow beside other programs. A setting of the user stays.
    """
    if "GenuineIntel" in read_processor():
        os.environ.setdefault("MKL_CBWR", STEADY)


@contextlib.contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Compute with this many threads inside the block, if torch is loaded."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else count
    if torch is None or before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def set_threads(cells_in_parallel: int, threads: int = 0) -> int:
    """Divide the cores among the cells that run at once: with more threads than cores, processes slow each other down.

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


def count_acting_threads(threads: int) -> int:
    """Return the threads to act with: `runtime.threads`, or one where that is 0, since a decision's products are small."""
    return threads or 1


def measure_memory() -> int:
    """Return the bytes of memory that this process may use: the machine's, at most its container's limit."""
    memory, limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), read_memory_limit()
    return memory if limit is None else min(memory, limit)


def count_cells_that_fit(cores: int, memory: int) -> int:
    """Count the cells that can run at once: one per core, as far as the memory goes, and at least one."""
    return max(1, min(cores, int(memory / BYTES_PER_CELL)))


def measure_peak_memory() -> dict[str, float]:
    """Measure the peak memory of this process so far, in MB: of the machine, and of a GPU if it used one."""
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes elsewhere
    peak = {"machine": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        peak["gpu"] = round(torch.cuda.max_memory_allocated() / 1e6, 1)
    return peak


def count_workers() -> int:
    """Return how many cells run at once unless --max-workers sets it: one per GPU, else as many as fit."""
    return count_gpus() or count_cells_that_fit(count_cores(), measure_memory())


def count_cells_in_parallel(cells: int) -> int:
    """Return how many cells Metaflow runs at once: all of them, at most its number of workers."""
    return max(1, min(cells, int(os.environ.get("METAFLOW_RUN_MAX_WORKERS", count_workers()))))


class DeviceError(ValueError):
    """Requested device that is not available."""


def choose_device(wanted: str) -> torch.device:
    """Return the device of `runtime.device`: "auto" takes a GPU if there is one, and warns of one that is left idle.

    Raises:
        DeviceError: if "cuda" is requested and absent.
    """
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise DeviceError("runtime.device is cuda, but torch finds no GPU here; use auto or cpu")
    device = torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")
    _tell_of_device(wanted, device.type, torch.__version__)
    return device


@functools.cache
def _tell_of_device(wanted: str, chosen: str, version: str) -> None:
    """Log the GPU that is used, or a warning of those that `auto` cannot use; once in a process."""
    if chosen == "cuda":
        logger.info(f"device: {sys.modules['torch'].cuda.get_device_name()}")
    elif wanted == "auto" and (idle := list_gpus()):
        logger.warning(
            f"device: the CPU, though there is a GPU here ({', '.join(idle)}): torch {version} cannot use it. Install "
            "PyTorch's CUDA build and the driver, or say so with --set runtime.device=cpu"
        )

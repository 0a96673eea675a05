"""Fair timings on a noisy machine: what is compared is run in turn, in one process, and the medians are reported."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch


def synchronize(device: torch.device) -> None:
    """Wait for the accelerator; nothing to wait for on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_in_turn(
    functions: Mapping[str, Callable[[], object]],
    device: torch.device,
    *,
    repeats: int = 5,
    seconds: float = 0.5,
) -> dict[str, float]:
    """Median seconds of one call of each function.

    Every function is warmed up, then each repeat times all of them, in alternating order.

    Args:
        functions: name -> what is timed.
        device: waited for before and after each timing.
        repeats: timings of each function.
        seconds: length of one timing, roughly.
    """
    counts = {name: _choose_count(function, device, seconds) for name, function in functions.items()}
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(repeats):
        for name in list(functions)[:: 1 if repeat % 2 else -1]:
            taken[name].append(_time(functions[name], counts[name], device))
    return {name: statistics.median(values) for name, values in taken.items()}


def _time(function: Callable[[], object], count: int, device: torch.device) -> float:
    synchronize(device)
    began = time.perf_counter()
    for _ in range(count):
        function()
    synchronize(device)
    return (time.perf_counter() - began) / count


def _choose_count(function: Callable[[], object], device: torch.device, seconds: float) -> int:
    for _ in range(3):
        once = _time(function, 1, device)
    return max(1, round(seconds / max(once, 1e-6)))


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def describe_machine(device: torch.device) -> str:
    """Processor, cores and threads, or the accelerator's name; versions."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        name = f"{names[0] if names else platform.processor()}, {len(names)} cores, {torch.get_num_threads()} threads"
    return f"{name}; torch {torch.__version__}, Python {platform.python_version()}"

"""Sharing of a machine's GPUs among the cells that train at once, of one flow or of several."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from pathlib import Path

from vdt.system.locks import try_lock
from vdt.system.machine import list_gpus


def claim_gpu(index: int, locks: Path, stack: contextlib.ExitStack) -> None:
    """Restrict this process to one GPU, where there are several. Must run before CUDA starts.

    Args:
        index: of the cell; the search for a free GPU begins there, and ends there if none is free.
        locks: folder of locks, which machines may share.
        stack: keeps the GPU for this process until it is closed.
    """
    names = list_gpus()
    if len(names) < 2:
        return
    first, owner = index % len(names), os.environ.get("SLURM_JOB_ID", "")  # each job may count its own GPUs from 0
    for name in (*names[first:], *names[:first]):
        lock = locks / re.sub(r"[^\w.-]", "_", f"gpu-{platform.node()}-{owner}-{name}.lock")
        if stack.enter_context(try_lock(lock)):
            break
    else:
        name = names[first]
    os.environ["CUDA_VISIBLE_DEVICES"] = name

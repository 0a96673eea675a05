"""Reproducible physics: a MuJoCo state that is the same, to the last bit, on every processor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from vdt.environments import Environment

# State that the next step depends on: attributes of `MjData`, and the bits behind the point that are kept. Positions and
# velocities stay as fine as float32 is at 8 to 16; accelerations, in the thousands, only start the solver's search.
KEPT_BITS = {"qpos": 20, "qvel": 20, "act": 20, "qacc_warmstart": 10}
BODIES = ("point_env", "ant_env")  # where a maze of Gymnasium-Robotics keeps its simulator


def round_to_grid(values: npt.NDArray[np.float64], bits: int) -> npt.NDArray[np.float64]:
    """Return the nearest multiples of 2^-bits; exact arithmetic, so the same on every processor."""
    return np.asarray(np.rint(values * 2.0**bits) * 2.0**-bits)


def round_states(environment: Environment) -> Environment:
    """Make a MuJoCo environment round its state whenever it changes; others stay as they are.

    MuJoCo takes sines and powers from the C library. Their last bit depends on the processor: glibc has one version
    with fused multiply-add and one without. A walking robot amplifies such a bit within seconds. Rounding removes it at
    each step, before observation and reward are read. It moves positions and velocities by at most 2^-21.

    Args:
        environment: changed in place; rounding twice changes nothing more.

    Returns:
        The same environment.
    """
    simulator: Any = environment.unwrapped
    for name in BODIES:
        simulator = getattr(simulator, name, simulator)
    if hasattr(simulator, "do_simulation"):
        for name in ("do_simulation", "set_state"):
            setattr(simulator, name, _round_afterwards(simulator, getattr(simulator, name)))
    return environment


def _round_afterwards(simulator: Any, change: Callable[..., None]) -> Callable[..., None]:
    def change_and_round(*arguments: Any) -> None:
        change(*arguments)
        for name, bits in KEPT_BITS.items():
            values = getattr(simulator.data, name)
            values[:] = round_to_grid(values, bits)

    return change_and_round

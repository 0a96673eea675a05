"""The one place where returns become D4RL's normalized scores."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T", float, npt.NDArray[np.float64])


def compute_normalized_score(episode_return: T, reference_min: float, reference_max: float) -> T:
    """0 for the reference random policy, 100 for the reference expert.

    Args:
        episode_return: undiscounted, in the environment's reward units; one number or an array.
        reference_min: mean return of the random policy (`task.reference_return_min`).
        reference_max: mean return of the expert (`task.reference_return_max`).
    """
    return 100.0 * (episode_return - reference_min) / (reference_max - reference_min)

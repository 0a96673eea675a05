"""Repairs of known faults of D4RL's files (`task.d4rl_repairs`), on the flat arrays before episodes are cut.

- `timeouts_are_goals`: the file is one walk without resets, and `timeouts` marks where a goal was reached and another
  one drawn. These are not ends; the walk is cut after `horizon` steps. The recorder wrote the observation at such a row
  twice. The first of the two rows, whose step would lead from the observation to itself, is left out.
- `late_rewards`: the reward in row i is that of observation i, so it belongs to the step of row i - 1. The reward of
  the last row's step is not known; that step is left out.
- `goals_are_ends`: an ant that stays at its goal has reward and terminal at every step. `timeouts` are out of step with
  the resets, and some files have rewards without an end. Here an episode ends at the first row with a reward or a
  terminal; later rows with a reward are left out. Where the position jumps, an episode was cut.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vdt.data.trajectory import BLOCK_ROWS, FloatArray

Flags = npt.NDArray[np.bool_]
JUMP = 1.0  # distance between two observations that no step of D4RL's ant covers: its fastest are half as long


def repair(
    observations: FloatArray, rewards: FloatArray, terminals: Flags, timeouts: Flags, repairs: Sequence[str]
) -> tuple[Flags, list[str]]:
    """Change rewards and flags in place.

    Args:
        observations: (N, S); the first two components are the position.
        rewards: (N,).
        terminals: (N,).
        timeouts: (N,).
        repairs: names of the repairs.

    Returns:
        the rows to keep, (N,), and a note on each repair.
    """
    kept, notes = np.ones(len(rewards), np.bool_), []
    if "late_rewards" in repairs:
        rewards[:-1] = rewards[1:].copy()
        kept[-1] = len(kept) == 1
        notes.append(
            "the file's rewards are those of their own observation; each was moved to the step before; the last was left out"
        )
    if "timeouts_are_goals" in repairs:
        goals = np.flatnonzero(timeouts[:-1])
        twice = np.zeros(len(timeouts) - 1, np.bool_)
        twice[goals] = (observations[goals] == observations[goals + 1]).all(axis=1)
        kept[:-1] = ~twice
        notes.append(
            f"{int(timeouts.sum())} timeouts mark goals that were reached, and are not ends; "
            f"{int(twice.sum())} rows recorded twice there were left out"
        )
        timeouts[:] = False
    if "goals_are_ends" in repairs:
        notes.append(_end_at_goals(observations, rewards, terminals, timeouts, kept))
    return kept, notes


def _end_at_goals(observations: FloatArray, rewards: FloatArray, terminals: Flags, timeouts: Flags, kept: Flags) -> str:
    jumps = np.zeros(len(rewards), np.bool_)
    for start in range(0, len(rewards) - 1, BLOCK_ROWS):
        moves = np.diff(observations[start : start + BLOCK_ROWS + 1, :2], axis=0)
        jumps[start : start + len(moves)] = np.linalg.norm(moves, axis=1) > JUMP
    reached = terminals | (rewards > 0)
    again = np.zeros_like(reached)
    again[1:] = reached[1:] & reached[:-1] & ~jumps[:-1]
    changed = int((timeouts != (jumps & ~reached)).sum())
    kept &= ~again
    terminals[:], timeouts[:] = reached, jumps & ~reached
    rewards[:] = reached
    return (
        f"episodes end where the goal is first reached ({int((reached & ~again).sum())}) or the position jumps "
        f"({int(timeouts.sum())}; {changed} timeouts were changed); {int(again.sum())} rows after that were left out"
    )

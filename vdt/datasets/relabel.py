"""Relabelling of recorded episodes with the environment's rewards and ends, where those of a data set differ."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from vdt.config.task import TaskConfig
from vdt.data.errors import DataError
from vdt.data.gathering import gather_trajectories
from vdt.data.residence import MEMORY, Residence
from vdt.data.trajectory import FloatArray, Trajectory
from vdt.datasets.loaded_data import LoadedData
from vdt.environments import load_bridge

Relabel = Callable[[FloatArray], tuple[npt.NDArray[np.float32], bool]]  # (T+1, S) -> rewards (T,), terminated


def relabel_recording(recording: LoadedData, task: TaskConfig, residence: Residence = MEMORY) -> LoadedData:
    """Recompute rewards and ends of each episode by the task's bridge, if it has `relabel`.

    Args:
        recording: read or collected.
        task: names the bridge.
        residence: of the arrays.

    Raises:
        DataError: if it cannot recompute them.
    """
    relabel: Relabel | None = getattr(load_bridge(task), "relabel", None)
    if relabel is None:
        return recording
    dataset = recording.dataset
    origin = recording.recipe.get("file") or recording.recipe.get("url")
    denied = 0

    def relabel_all() -> Iterator[Trajectory]:
        nonlocal denied
        for episode in dataset:
            relabelled = _relabel_episode(episode, relabel)
            denied += episode.terminated and not (relabelled and relabelled.terminated)
            if relabelled is not None:
                yield relabelled

    left = relabel_all()
    try:
        first = next(left, None)
        if first is None:
            raise ValueError("no episode is left; accepted is at least one whole step before a recording ends")
        kept = gather_trajectories(itertools.chain([first], left), residence)
    except ValueError as error:
        raise DataError(f"{origin}: {error}") from None
    unpaid = int(dataset.final_missing.sum())
    notes = [
        f"rewards were computed from the observations, as the environment pays; the file's own added up to "
        f"{dataset.episode_returns.mean():.4g} an episode"
    ]
    if unpaid:
        notes.append(f"{unpaid} last steps without the observation that would pay them were left out")
    if denied:
        notes.append(f"{denied} recorded ends are none in the environment: truncated, without their last step")
    return replace(recording, dataset=kept, notes=[*recording.notes, *notes])


def _relabel_episode(episode: Trajectory, relabel: Relabel) -> Trajectory | None:
    """Return the relabelled episode; none if no step is left.

    The reward of a step is computed from the observation after it. Where that is missing, or the recorded end is
    removed, the last step is dropped.
    """
    if episode.final_missing:
        if len(episode) == 1:
            return None
        observations, actions = episode.observations[:-1], episode.actions[:-1]
        return Trajectory(observations, actions, *relabel(observations))
    rewards, terminated = relabel(episode.observations)
    if terminated or not episode.terminated:
        return replace(episode, rewards=rewards, terminated=terminated)
    steps = len(episode) - 1
    return Trajectory(episode.observations[:-1], episode.actions[:-1], rewards[:-1], False) if steps else None

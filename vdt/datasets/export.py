"""Export of a collected snapshot as a Minari data set."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import minari
import numpy as np
from minari.data_collector import EpisodeBuffer

from vdt.config.schema import Config
from vdt.data.errors import DataError
from vdt.data.residence import Residence
from vdt.data.storage import load_snapshot
from vdt.data.trajectory import Trajectory
from vdt.datasets.minari_folder import get_root, write_beside
from vdt.datasets.snapshot import Snapshot
from vdt.environments import make_environment

NAME = re.compile(r"(?P<env>[a-z0-9]+)-(?P<split>.+)-v\d+")


def make_dataset_id(env: str) -> str:
    """Convert a task's name to Minari's id: `walker2d-medium-v2` -> `vdt/walker2d/medium-v0`.

    Raises:
        DataError: if the name is not of the form ENV-SPLIT-vN.
    """
    match = NAME.fullmatch(env)
    if match is None:
        raise DataError(f"only collected data of named tasks can be exported, not {env!r}; accepted is ENV-SPLIT-vN")
    return f"vdt/{match['env']}/{match['split']}-v0"


def export_snapshot(config: Config, snapshot: Snapshot) -> str:
    """Write a collected snapshot into Minari's folder, whole or not at all.

    Returns:
        the data set's id.

    Raises:
        DataError: if the snapshot is of another source, or there is a data set of that id already.
    """
    dataset_id = make_dataset_id(config.env)
    if snapshot.source != "collected":
        raise DataError(f"{config.env} is from source {snapshot.source!r}; accepted is 'collected'")
    if (target := get_root() / dataset_id).exists():
        raise DataError(f"{target} is there already; remove it first: minari delete {dataset_id}")
    environment, task, residence = make_environment(config.task), config.task, Residence(config.data.residence)
    recipe, ladder = task.collected, f"rungs {list(task.collected.snapshots)} of behaviour ladder {config.ladder}"
    spaces = {"observation_space": environment.observation_space, "action_space": environment.action_space}
    made_in = {"env": environment} if task.bridge == "none" else spaces  # Minari cannot name a bridge
    about = {"not D4RL": "collected by vdt with its own behaviour policies", "md5": snapshot.md5}
    with write_beside(dataset_id), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="minari")  # asks for an e-mail address and more
        warnings.filterwarnings("ignore", message=".*is out of date.*", category=DeprecationWarning)
        minari.create_dataset_from_buffers(
            dataset_id,
            [_make_buffer(episode) for episode in load_snapshot(Path(snapshot.path), residence)],
            algorithm_name=f"controller {recipe.controller}" if recipe.controller != "none" else ladder,
            author="vdt",
            ref_min_score=task.reference_return_min,
            ref_max_score=task.reference_return_max,
            description=json.dumps({**about, "recipe": snapshot.card["recipe"]}, sort_keys=True),
            data_format="hdf5",
            **made_in,
        )
    environment.close()
    return dataset_id


def _make_buffer(episode: Trajectory) -> EpisodeBuffer:
    ended, cut = np.zeros(len(episode), np.bool_), np.zeros(len(episode), np.bool_)
    ended[-1], cut[-1] = episode.terminated, not episode.terminated
    return EpisodeBuffer(
        observations=episode.observations,
        actions=episode.actions,
        rewards=episode.rewards,
        terminations=ended,
        truncations=cut,
        infos={},  # Minari's own printing of an episode wants a mapping
    )

"""Source `minari`: data sets of Minari, from its folder on this machine or its remote.

Parts of dict observations are concatenated in the alphabetical order of their keys, at every level, each flattened row
by row (`vdt.environments.flatten_observations`). Files are untrusted: spaces and the environment's name come from the
metadata, but no entry point that they name is imported.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vdt.config.task import TaskConfig
from vdt.data.errors import DataError
from vdt.data.gathering import gather_trajectories
from vdt.data.residence import MEMORY, Residence
from vdt.data.trajectory import Trajectory
from vdt.datasets.loaded_data import LoadedData
from vdt.datasets.minari_episodes import FORMATS, EpisodeFiles, measure_space
from vdt.datasets.minari_folder import find_dataset
from vdt.datasets.summary import DataSummary, normalise_actions
from vdt.system.files import compute_file_digest

MAX_METADATA_BYTES = 16 * 2**20
FAR = 1e3  # times the data's largest action, or 1: a bound beyond is none, such as the largest float32


@dataclass(frozen=True)
class MinariSet:
    """Minari data set on this machine.

    Attributes:
        dataset_id: Minari's.
        folder: with metadata.json and the episodes.
        metadata: content of metadata.json.
    """

    dataset_id: str
    folder: Path
    metadata: Mapping[str, Any]

    @property
    def licence(self) -> str:
        """Return the metadata's licence and authors."""
        authors = self.metadata.get("author", [])
        names = ", ".join(map(str, authors)) if isinstance(authors, list) else str(authors)
        return str(self.metadata.get("license") or f"not stated in the data set ({names or 'no author named'})")

    @cached_property
    def observation_space(self) -> Any:
        """Return a nested mapping of keys to shapes; a plain shape where observations are Box."""
        return _read_space(self, "observation_space")

    @cached_property
    def action_shape(self) -> tuple[int, ...]:
        """Return the shape of an action, (A,)."""
        shape = _read_space(self, "action_space")
        if not isinstance(shape, tuple) or len(shape) != 1:
            raise DataError(f"{self.dataset_id}: action_space is {shape}; accepted is a Box of one dimension")
        return shape

    def get_action_bounds(self, largest: float) -> tuple[list[float], list[float]] | None:
        """Return lowest and highest action; empty lists for [-1, 1].

        In place of a bound that is infinite or far beyond the data there is -1 or 1, in numbers, so that actions have a
        range; where the data goes beyond 1, there are no bounds.

        Args:
            largest: absolute value of the data's actions.
        """
        low, high = self._read_bounds()
        near_low, near_high = (np.abs(ends) <= FAR * max(largest, 1.0) for ends in (low, high))
        bounded = near_low.all() and near_high.all()
        low, high = np.where(near_low, low, -1.0), np.where(near_high, high, 1.0)
        if not (low < high).all() or (largest > 1 and not bounded):
            return None
        return ([], []) if bounded and (low == -1).all() and (high == 1).all() else (low.tolist(), high.tolist())

    def _read_bounds(self) -> list[npt.NDArray[np.float64]]:
        """Return lowest and highest action of the metadata, each (A,)."""
        try:
            space = json.loads(self.metadata["action_space"])
            return [np.broadcast_to(np.asarray(space[end], np.float64), self.action_shape) for end in ("low", "high")]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{self.folder}: the action_space of metadata.json has no readable low and high ({error}); accepted is a "
                f"Box with both"
            ) from None

    def get_reference(self) -> dict[str, Any]:
        """Return the reference returns of the metadata, if it has both."""
        low, high = self.metadata.get("ref_min_score"), self.metadata.get("ref_max_score")
        if not isinstance(low, int | float) or not isinstance(high, int | float) or not low < high:
            return {}
        return {
            "task.reference_return_min": float(low),
            "task.reference_return_max": float(high),
            "task.reference": f"the reference returns of Minari's {self.dataset_id}",
        }

    def compute_digest(self) -> str:
        """Compute the SHA-256 of the data and its metadata."""
        files = sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())
        names = ["metadata.json", "main_data.hdf5"] if self.metadata["data_format"] == "hdf5" else files
        lines = [f"{name} {compute_file_digest(self.folder / name, 'sha256')}" for name in names]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def episodes(self) -> EpisodeFiles:
        """Return the reader of its episodes."""
        total = int(self.metadata["total_episodes"])
        return EpisodeFiles(self.folder, self.metadata["data_format"], total, self.observation_space, self.action_shape)

    def scan(self) -> DataSummary:
        """Return sizes, ends and rewards."""
        lengths, returns, limits = [], [], []
        for _, actions, rewards, _ in self.episodes.iterate(observations=False):
            lengths.append(len(rewards))
            returns.append(float(rewards.sum(dtype=np.float64)))
            limits.append(np.abs(actions).max(axis=0))
        if not lengths:
            raise DataError(f"{self.dataset_id}: holds no episode")
        size = measure_space(self.observation_space)
        return DataSummary(
            size, self.action_shape[0], np.array(lengths, np.int64), np.array(returns), np.max(limits, axis=0)
        )

    @classmethod
    def scan_all(cls, sets: Sequence[MinariSet]) -> DataSummary:
        """Return sizes, ends and rewards of several data sets together."""
        return DataSummary.join([minari_set.scan() for minari_set in sets])


def _read_space(minari_set: MinariSet, name: str) -> Any:
    """Return a space of the metadata as shapes.

    Raises:
        DataError: if a part of it is not Box.
    """

    def convert(space: Any) -> Any:
        if space["type"] == "Dict":
            return {str(key): convert(part) for key, part in space["subspaces"].items()}
        if space["type"] != "Box":
            raise DataError(
                f"{minari_set.dataset_id}: {name} is, or has a part, of type {space['type']}; "
                f"accepted are Box and Dict of Box"
            )
        shape = tuple(int(size) for size in space["shape"])
        if len(shape) > 1 and space.get("dtype") == "uint8":
            raise DataError(
                f"{minari_set.dataset_id}: {name} is, or has a part, of images (uint8 of shape {shape}); images are not "
                f"supported, accepted are vectors"
            )
        return shape

    try:
        return convert(json.loads(minari_set.metadata[name]))
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{minari_set.folder}: metadata.json has no readable {name} ({error})") from None
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{minari_set.folder}: metadata.json has no readable {name} ({error})") from None


def open_sets(dataset_ids: Sequence[str]) -> list[MinariSet]:
    """Find data sets, fetching those that are not here.

    Raises:
        DataError: if one is unavailable, or they do not fit together.
    """
    sets = []
    for dataset_id in dataset_ids:
        folder = find_dataset(dataset_id)
        path = folder / "metadata.json"
        try:
            if path.stat().st_size > MAX_METADATA_BYTES:
                raise DataError(f"{path} is larger than {MAX_METADATA_BYTES} bytes")
            metadata = json.loads(path.read_text())
            kind = metadata["data_format"], isinstance(metadata["total_episodes"], int)
        except (OSError, KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise DataError(f"{path}: not the metadata of a Minari data set ({error!r})") from None
        if kind[0] not in FORMATS or not kind[1]:
            raise DataError(f"{dataset_id}: its data_format is {kind[0]!r}; accepted are {', '.join(FORMATS)}")
        sets.append(MinariSet(dataset_id, folder, metadata))
    first = sets[0]
    for other in sets[1:]:
        if (other.observation_space, other.action_shape) != (first.observation_space, first.action_shape):
            raise DataError(f"{first.dataset_id} and {other.dataset_id} have different spaces and cannot be combined")
    return sets


def describe_environment(sets: Sequence[MinariSet]) -> dict[str, Any]:
    """Return the environment to evaluate in: the evaluation spec's, else the data's; empty if there is none.

    Raises:
        DataError: if the data sets name different ones, or one that cannot be made again by its id.
    """
    found = [_read_specification(minari_set) for minari_set in sets]
    if any(one != found[0] for one in found[1:]):
        names = ", ".join(minari_set.dataset_id for minari_set in sets)
        raise DataError(f"{names}: were recorded in different environments and cannot be combined")
    return found[0]


def _read_specification(minari_set: MinariSet) -> dict[str, Any]:
    recorded, evaluation = (minari_set.metadata.get(key) or "" for key in ("env_spec", "eval_env_spec"))
    if not (recorded or evaluation):
        return {}
    try:
        spec = json.loads(str(evaluation or recorded))
        if recorded and evaluation and _find_walls(spec) != _find_walls(json.loads(recorded)):
            spec = json.loads(recorded)  # positions of another maze are not comparable with the data's
        name, limit, kwargs = spec["id"], spec.get("max_episode_steps"), spec.get("kwargs") or {}
        wrappers = [wrapper["name"] for wrapper in spec.get("additional_wrappers") or ()]
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise DataError(
            f"{minari_set.dataset_id}: its environment's specification cannot be read ({error!r})"
        ) from None
    if wrappers or not isinstance(name, str) or ":" in name:
        raise DataError(
            f"{minari_set.dataset_id}: was recorded in {name!r} through the wrappers {wrappers}; accepted is a registered "
            f'environment without. Name the one to evaluate in: --set "task.environment_id=…", or null for none'
        )
    return {
        "task.environment_id": name,
        "task.environment_kwargs": kwargs,
        **({"task.horizon": limit} if isinstance(limit, int) else {}),
    }


def _find_walls(spec: Mapping[str, Any]) -> Any:
    """Return the walls in the maze of an environment's specification; none if it names no maze."""
    rows = (spec.get("kwargs") or {}).get("maze_map")
    return [[what == 1 for what in row] for row in rows] if rows else None


def read_sets(
    sets: Sequence[MinariSet], task: TaskConfig, recipe: Mapping[str, Any], residence: Residence = MEMORY
) -> LoadedData:
    """Check and convert all episodes, with Minari's own ends and final observations.

    Args:
        sets: laid end to end.
        task: sizes and action range that they must fit.
        recipe: their origin.
        residence: of the arrays.

    Raises:
        DataError: naming the file, the episode, what was found and what is accepted.
    """
    clipped = components = 0

    def read() -> Iterator[Trajectory]:
        nonlocal clipped, components
        for minari_set in sets:
            for observations, actions, rewards, terminated in minari_set.episodes.iterate():
                executed, outside = normalise_actions(actions, task)
                clipped, components = clipped + outside, components + actions.size
                yield Trajectory(observations, executed, rewards, terminated)

    dataset = gather_trajectories(read(), residence)
    notes = [
        f"Minari's {', '.join(minari_set.dataset_id for minari_set in sets)}; results are not comparable with D4RL"
    ]
    if task.action_low:
        notes.append("actions were mapped from the environment's range to [-1, 1]")
    if clipped:
        notes.append(f"{clipped} of {components} action components were outside the range and were clipped")
    return LoadedData(dataset, dict(recipe), clipped, notes)

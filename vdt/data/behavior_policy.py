"""Behaviour policies that the built-in data source rolls out: a ladder of small tanh networks in one npz file."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vdt.files import atomic_write

FloatArray = npt.NDArray[np.float32]

MAX_ARRAY_BYTES = 64 * 2**20  # a ladder is a few hundred kB; anything near this is not one


@dataclass(frozen=True)
class BehaviorPolicy:
    """Gaussian policy with a state-independent standard deviation, evaluated in NumPy.

    Attributes:
        weights: one (inputs, outputs) matrix per layer.
        biases: one (outputs,) vector per layer.
        log_std: log standard deviation of the action noise, (A,).
        observation_mean: (S,).
        observation_std: (S,).
    """

    weights: tuple[FloatArray, ...]
    biases: tuple[FloatArray, ...]
    log_std: FloatArray
    observation_mean: FloatArray
    observation_std: FloatArray

    def mean_action(self, observations: FloatArray) -> FloatArray:
        """Deterministic action for raw observations: (B, S) -> (B, A), not clipped."""
        hidden = np.clip((observations - self.observation_mean) / self.observation_std, -10.0, 10.0)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = np.tanh(hidden @ weight + bias)
        return np.asarray(hidden @ self.weights[-1] + self.biases[-1], dtype=np.float32)

    def sample_action(self, observations: FloatArray, noise: FloatArray) -> FloatArray:
        """Stochastic action: `noise` holds standard normal numbers, (B, A)."""
        return np.asarray(self.mean_action(observations) + np.exp(self.log_std) * noise, dtype=np.float32)


@dataclass(frozen=True)
class BehaviorLadder:
    """Snapshots of one training run in training order, from random to the best reached.

    Attributes:
        policies: the snapshots, P of them.
        environment_steps: training steps taken by each, (P,).
        episode_returns: mean return of the stochastic policy when the snapshot was taken, (P,).
    """

    policies: tuple[BehaviorPolicy, ...]
    environment_steps: npt.NDArray[np.int64]
    episode_returns: FloatArray


def save_ladder(path: Path, ladder: BehaviorLadder) -> None:
    """Write a ladder as one npz file (stacked float32 arrays, no pickle), atomically."""
    arrays: dict[str, npt.NDArray[np.generic]] = {
        "environment_steps": ladder.environment_steps,
        "episode_returns": ladder.episode_returns,
        "log_std": np.stack([p.log_std for p in ladder.policies]),
        "observation_mean": np.stack([p.observation_mean for p in ladder.policies]),
        "observation_std": np.stack([p.observation_std for p in ladder.policies]),
    }
    for layer in range(len(ladder.policies[0].weights)):
        arrays[f"w{layer}"] = np.stack([p.weights[layer] for p in ladder.policies])
        arrays[f"b{layer}"] = np.stack([p.biases[layer] for p in ladder.policies])
    with atomic_write(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def load_ladder(path: Path) -> BehaviorLadder:
    """Read a ladder written by `save_ladder`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no npz file, an array is missing or not finite, or it would unpack to far too much.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(item.file_size for item in archive.infolist())
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is not an npz file: {error}") from error
    if size > MAX_ARRAY_BYTES:
        raise ValueError(
            f"{path} is not a behaviour ladder: {size} bytes unpacked, at most {MAX_ARRAY_BYTES} are accepted"
        )
    with np.load(path, allow_pickle=False) as file:
        try:
            arrays = {name: file[name] for name in file.files}
            layers = sum(name.startswith("w") for name in arrays)
            count = len(arrays["environment_steps"])
            policies = tuple(
                BehaviorPolicy(
                    weights=tuple(arrays[f"w{i}"][k] for i in range(layers)),
                    biases=tuple(arrays[f"b{i}"][k] for i in range(layers)),
                    log_std=arrays["log_std"][k],
                    observation_mean=arrays["observation_mean"][k],
                    observation_std=arrays["observation_std"][k],
                )
                for k in range(count)
            )
        except KeyError as error:
            raise ValueError(f"{path} is not a behaviour ladder: array {error} is missing") from None
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError(f"{path} holds numbers that are not finite")
    return BehaviorLadder(policies, arrays["environment_steps"], arrays["episode_returns"])

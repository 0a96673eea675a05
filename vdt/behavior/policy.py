"""Behaviour policies of the built-in data source: a ladder of small networks in one npz file."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vdt.behavior.exact import VALUE_LIMIT, Array, compute_exp, compute_tanh, round_values, round_weights
from vdt.system.files import atomic_write
from vdt.system.safe_archives import UNREADABLE, check_unpacked_size, read_arrays

FloatArray = npt.NDArray[np.float32]

MAX_ARRAY_BYTES = 64 * 2**20  # a ladder has one or two megabytes
LOG_STD_RANGE = (-20.0, 2.0)  # SAC's
NORMALIZED_LIMIT = 10.0  # as VecNormalize of stable-baselines3 clips


@dataclass(frozen=True)
class BehaviorPolicy:
    """Gaussian policy, evaluated in NumPy, in the two forms of PPO and SAC.

    With `log_std` (PPO): tanh layers, the last one gives the mean, the noise does not depend on the observation.
    Without (SAC): ReLU layers, the last one gives mean and log standard deviation side by side, tanh squashes the sum.

    Attributes:
        weights: one (inputs, outputs) matrix per layer.
        biases: one (outputs,) vector per layer.
        observation_mean: (S,).
        observation_std: (S,).
        log_std: log standard deviation of the action noise, (A,), or none.
    """

    weights: tuple[FloatArray, ...]
    biases: tuple[FloatArray, ...]
    observation_mean: FloatArray
    observation_std: FloatArray
    log_std: FloatArray | None = None

    @property
    def observation_size(self) -> int:
        """Return S."""
        return int(self.weights[0].shape[0])

    @property
    def action_size(self) -> int:
        """Return A."""
        outputs = int(self.weights[-1].shape[1])
        return outputs if self.log_std is not None else outputs // 2

    @functools.cached_property
    def _layers(self) -> list[tuple[Array, Array]]:
        """Return each layer's weights, on the grid of exact sums, and biases."""
        return [(round_weights(w), b.astype(np.float64)) for w, b in zip(self.weights, self.biases, strict=True)]

    def sample_action(self, observations: npt.NDArray[np.floating], noise: npt.NDArray[np.floating]) -> FloatArray:
        """Return the action for raw observations (..., S), the same to the last bit on every processor.

        Args:
            observations: raw ones, (..., S).
            noise: standard normal numbers, (..., A), or 0 for the mode.

        Returns:
            (..., A), multiples of 2^-18; of the form with `log_std` not clipped to the action range.
        """
        squashed = self.log_std is None
        hidden = (observations.astype(np.float64) - self.observation_mean) / self.observation_std
        hidden = round_values(hidden, VALUE_LIMIT if squashed else NORMALIZED_LIMIT)
        *first, (last_weight, last_bias) = self._layers
        for weight, bias in first:
            hidden = hidden @ weight + bias
            hidden = round_values(np.maximum(hidden, 0.0) if squashed else compute_tanh(hidden))
        output = hidden @ last_weight + last_bias
        if self.log_std is not None:
            return round_values(output + compute_exp(self.log_std.astype(np.float64)) * noise).astype(np.float32)
        mean, log_std = np.split(output, 2, axis=-1)
        sampled = mean + compute_exp(np.clip(log_std, *LOG_STD_RANGE)) * noise
        return round_values(compute_tanh(sampled)).astype(np.float32)


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


def stack_ladder(ladder: BehaviorLadder) -> dict[str, npt.NDArray[Any]]:
    """Return a ladder as named arrays, rungs along the first axis: the content of the npz file."""
    arrays: dict[str, npt.NDArray[Any]] = {
        "environment_steps": ladder.environment_steps,
        "episode_returns": ladder.episode_returns,
    }
    if noise := [p.log_std for p in ladder.policies if p.log_std is not None]:
        arrays["log_std"] = np.stack(noise)
    arrays["observation_mean"] = np.stack([p.observation_mean for p in ladder.policies])
    arrays["observation_std"] = np.stack([p.observation_std for p in ladder.policies])
    for layer in range(len(ladder.policies[0].weights)):
        arrays[f"w{layer}"] = np.stack([p.weights[layer] for p in ladder.policies])
        arrays[f"b{layer}"] = np.stack([p.biases[layer] for p in ladder.policies])
    return arrays


def unstack_ladder(arrays: dict[str, npt.NDArray[Any]]) -> BehaviorLadder:
    """Rebuild the ladder from the arrays of `stack_ladder`.

    Raises:
        KeyError: if an array is missing.
    """
    layers = sum(name.startswith("w") for name in arrays)
    policies = tuple(
        BehaviorPolicy(
            weights=tuple(arrays[f"w{i}"][k] for i in range(layers)),
            biases=tuple(arrays[f"b{i}"][k] for i in range(layers)),
            observation_mean=arrays["observation_mean"][k],
            observation_std=arrays["observation_std"][k],
            log_std=arrays["log_std"][k] if "log_std" in arrays else None,
        )
        for k in range(len(arrays["environment_steps"]))
    )
    return BehaviorLadder(policies, arrays["environment_steps"], arrays["episode_returns"])


def save_ladder(path: Path, ladder: BehaviorLadder) -> None:
    """Write a ladder as one npz file (stacked arrays, no pickle), atomically."""
    with atomic_write(path) as file:
        np.savez_compressed(file, allow_pickle=False, **stack_ladder(ladder))


def _load_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of an npz file whose headers claim no more than the file holds."""
    try:
        check_unpacked_size(path, MAX_ARRAY_BYTES)
        return read_arrays(path, MAX_ARRAY_BYTES)
    except FileNotFoundError:
        raise
    except UNREADABLE as error:
        raise ValueError(f"{path} is not a behaviour ladder: {error}") from None


def load_ladder(path: Path) -> BehaviorLadder:
    """Read a ladder written by `save_ladder`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no npz file, an array is missing or not finite, or it would unpack to far too much.
    """
    arrays = _load_arrays(path)
    try:
        ladder = unstack_ladder(arrays)
    except KeyError as error:
        raise ValueError(f"{path} is not a behaviour ladder: array {error} is missing") from None
    except (IndexError, TypeError) as error:
        raise ValueError(f"{path} is not a behaviour ladder: {error}") from None
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError(f"{path} holds numbers that are not finite")
    return ladder

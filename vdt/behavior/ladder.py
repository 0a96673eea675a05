"""Ladder of a training run's snapshots: choice of rungs, their measurement, npz and JSON files."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdt.behavior.collect import collect_dataset
from vdt.behavior.policy import BehaviorLadder, save_ladder
from vdt.behavior.train import ALGORITHMS, BehaviorRun, BehaviorTraining
from vdt.checkpoint.store import CheckpointStore
from vdt.config.errors import ConfigError, list_known, suggest
from vdt.config.layers import PARAMS, load_yaml
from vdt.config.schema import CheckpointConfig
from vdt.environments import make_gymnasium_environment
from vdt.environments.scores import compute_normalized_score, compute_standard_error
from vdt.system.files import check_folders, compute_file_digest, write_text
from vdt.system.home import home
from vdt.tracking import Tracker, create_named_run

logger = logging.getLogger(__name__)

FOLDER = PARAMS / "behavior"
CHECKPOINTS = CheckpointConfig(interval_seconds=60.0, interval_steps=10**9, keep=1)  # one may hold a replay buffer
PACKAGES = ("gymnasium", "mujoco", "numpy", "stable-baselines3", "torch")
MEASURE_STEPS = 40_000  # unless --measure_steps is given

OWN: dict[str, type] = {"horizon": int, "reference_returns": list, "keep": list}
KINDS: dict[str, type] = {
    "environment_id": str,
    "algorithm": str,
    "arguments": dict,
    "normalize": bool,
    "seed": int,
    "environment_steps": int,
    "snapshot_every": int,
    "parallel_environments": int,
    **OWN,
}


@dataclass(frozen=True)
class LadderSettings:
    """Settings of one ladder, a file of `params/behavior/`.

    Attributes:
        training: the run.
        horizon: time limit of the episodes that measure the rungs.
        reference_returns: returns of normalized_score 0 and 100.
        keep: snapshots of the run that become rungs, rising; all of them if empty.
    """

    training: BehaviorTraining
    horizon: int
    reference_returns: tuple[float, float]
    keep: tuple[int, ...]


def list_ladders() -> list[str]:
    """Return the names of all files of `params/behavior/`."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_settings(name: str) -> LadderSettings:
    """Read a file of `params/behavior/`.

    Raises:
        ConfigError: if the file, one of its keys or one of its values is not accepted.
    """
    path = FOLDER / f"{name}.yaml"
    known = list_ladders()
    if name not in known:
        raise ConfigError(f"unknown behaviour settings {name!r}{list_known(name, known)} ({FOLDER})")
    values = load_yaml(path)
    for key, value in values.items():
        if key not in KINDS:
            raise ConfigError(f"{path}: unknown key {key!r}{suggest(key, KINDS)}")
        if type(value) is not KINDS[key]:
            raise ConfigError(f"{path}: {key} must be {KINDS[key].__name__}, not {value!r}")
    if missing := [key for key in KINDS if key not in values]:
        raise ConfigError(f"{path}: no value for {', '.join(missing)}")
    if values["algorithm"] not in ALGORITHMS:
        raise ConfigError(f"{path}: algorithm must be {' or '.join(ALGORITHMS)}, not {values['algorithm']!r}")
    horizon, (low, high), keep = (values.pop(key) for key in OWN)
    training = BehaviorTraining(**values)
    if training.snapshot_every < training.rollout_steps:
        raise ConfigError(
            f"{path}: snapshot_every must be at least the {training.rollout_steps} environment steps of one rollout, not "
            f"{training.snapshot_every}: snapshots are taken between two rollouts"
        )
    return LadderSettings(training, horizon, (float(low), float(high)), tuple(keep))


def change_settings(settings: LadderSettings, *, keep: str, environment_steps: int, seed: int) -> LadderSettings:
    """Return settings with other rungs ("0,10,33" or "all"), another length or seed of the run; empty, 0 and -1 change nothing.

    Raises:
        ConfigError: if `keep` is not a list of whole numbers, or names snapshots that the run does not reach.
    """
    if keep:
        try:
            rungs = () if keep == "all" else tuple(int(item) for item in keep.split(","))
        except ValueError:
            raise ConfigError(f"--keep must be 'all' or whole numbers with commas between them, not {keep!r}") from None
        settings = dataclasses.replace(settings, keep=rungs)
    training = settings.training
    if environment_steps:
        training = dataclasses.replace(training, environment_steps=environment_steps)
    if seed >= 0:
        training = dataclasses.replace(training, seed=seed)
    if settings.keep:
        _check_rungs(settings.keep, training.environment_steps // max(training.snapshot_every, 1) + 1)
    return dataclasses.replace(settings, training=training)


def make_command(name: str, settings: LadderSettings, measure_steps: int) -> str:
    """Return the command that trains a ladder with these settings: its file's, but for the options given."""
    file, training = load_settings(name), settings.training
    options = {
        "keep": (",".join(map(str, settings.keep)) or "all", settings.keep != file.keep),
        "environment_steps": (
            training.environment_steps,
            training.environment_steps != file.training.environment_steps,
        ),
        "measure_steps": (measure_steps, measure_steps != MEASURE_STEPS),
        "seed": (training.seed, training.seed != file.training.seed),
    }
    words = [f"--{option} {value}" for option, (value, changed) in options.items() if changed]
    return " ".join([f"python flows/behavior_flow.py run --ladder {name}", *words])


def _check_rungs(rungs: Sequence[int], count: int) -> None:
    """Check that rungs are some of `count` snapshots; raise ConfigError if not."""
    if list(rungs) != sorted(set(rungs)) or rungs[0] < 0 or rungs[-1] >= count:
        raise ConfigError(f"keep (--keep) must name rising rungs between 0 and {count - 1}, not {list(rungs)}")


def keep_rungs(ladder: BehaviorLadder, rungs: Sequence[int]) -> BehaviorLadder:
    """Return the ladder with only some of its rungs, in rising order; with all of them if `rungs` is empty.

    Raises:
        ConfigError: if a rung does not exist, or they do not rise.
    """
    count = len(ladder.policies)
    kept = list(rungs) or list(range(count))
    _check_rungs(kept, count)
    policies = tuple(ladder.policies[rung] for rung in kept)
    return BehaviorLadder(policies, ladder.environment_steps[kept], ladder.episode_returns[kept])


def measure_rungs(ladder: BehaviorLadder, settings: LadderSettings, steps: int) -> list[dict[str, float]]:
    """Roll each rung out with its noise, for at least `steps` environment steps."""
    measured = []
    for rung in range(len(ladder.policies)):
        dataset = collect_dataset(
            ladder,
            [rung],
            lambda: make_gymnasium_environment(settings.training.environment_id, settings.horizon),
            steps=steps,
            seed=0,
        )
        scores = compute_normalized_score(dataset.episode_returns, *settings.reference_returns)
        measured.append(
            {
                "rung": rung,
                "environment_steps": int(ladder.environment_steps[rung]),
                "episodes": len(dataset),
                "normalized_score_mean": round(float(scores.mean()), 2),
                "normalized_score_standard_error": round(compute_standard_error(scores) or 0.0, 2),
                "episode_length_mean": round(float(dataset.lengths.mean()), 1),
            }
        )
        logger.info(f"rung {rung}: {measured[-1]}")
    return measured


def make_ladder(
    folder: Path,
    name: str,
    settings: LadderSettings,
    measure_steps: int,
    tracker: Tracker,
    checkpoints: CheckpointStore,
) -> Path:
    """Train, keep the chosen snapshots, measure them, and write NAME.npz and NAME.json (how it was made).

    Returns:
        Path of the npz file.
    """
    started = time.monotonic()
    run = BehaviorRun(settings.training, tracker, checkpoints)
    full = run.train()
    trained = time.monotonic() - started
    kept = keep_rungs(full, settings.keep)
    path = folder / f"{name}.npz"
    save_ladder(path, kept)
    rungs = measure_rungs(kept, settings, measure_steps)
    for rung in rungs:
        tracker.log(int(rung["environment_steps"]), {"behavior/normalized_score": rung["normalized_score_mean"]})
    story: dict[str, Any] = {
        "command": make_command(name, settings, measure_steps),
        "settings": dataclasses.asdict(settings),
        "continued_from_step": run.start,
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
        "training_seconds": round(trained),
        "npz_sha256": compute_file_digest(path, "sha256"),
        "rungs": rungs,
        "curve": {
            "environment_steps": full.environment_steps.tolist(),
            "training_returns": [round(float(value), 1) for value in full.episode_returns],
        },
    }
    text = json.dumps(story, indent=1)
    text = re.sub(r"\[[^][{}]*\]", lambda numbers: " ".join(numbers.group().split()), text)  # short lists on one line
    write_text(folder / f"{name}.json", text + "\n")
    return path


def open_runs(settings: Mapping[str, LadderSettings], flow_run: str, command: str) -> list[dict[str, Any]]:
    """Open an MLflow run for each ladder that is to be trained; returns the flow's cells as plain values."""
    check_folders(home())
    cells = []
    for number, (name, ladder) in enumerate(settings.items()):
        tags = {"ladder": name, "env": ladder.training.environment_id, "seed": str(ladder.training.seed)}
        params = dataclasses.asdict(ladder.training)
        run_id = create_named_run(home(), f"behavior-{name}-s{tags['seed']}", tags, params, flow_run, command)
        cells.append({"key": name, "number": number, "mlflow_run_id": run_id})
        logger.info(f"ladder {name}: MLflow run {run_id}")
    return cells

"""Checks of cells before any work: their data, device and environment are available."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdt.config.errors import ConfigError
from vdt.config.schema import Config
from vdt.config.task import TaskConfig
from vdt.experiments.study import Cell
from vdt.system.home import home

if TYPE_CHECKING:
    from vdt.environments import Environment

logger = logging.getLogger(__name__)

WITHOUT = "train without an environment, on held-out episodes: --set task.environment_id=null"


def check_cells(cells: Sequence[Cell], *, device: bool = True) -> None:
    """Check that the cells can be run, each data set, device and environment once.

    Args:
        cells: resolved.
        device: whether their steps run on this machine, and so on its GPUs.

    Raises:
        ConfigError: naming the first thing that prevents a cell from running.
    """
    configs = [cell.config for cell in cells]
    if device:
        for name in {config.runtime.device for config in configs}:
            _check_device(name)
    for config in _pick(configs, lambda config: (config.env, config.task, config.data.source)):
        _check_data(config)
    for config in _pick(configs, _describe_environment):
        if config.has_environment:
            _check_environment(config)
    simulated = [config for config in configs if config.has_environment and config.planner.env_model == "simulator"]
    for config in _pick(simulated, _describe_environment):
        _check_simulator(config)


def check_source(source: str) -> None:
    """Check that the file or folder of `path:` exists; raise ConfigError if not."""
    path = Path(source.removeprefix("path:"))
    if source.startswith("path:") and not path.expanduser().exists():
        raise ConfigError(f"--source path: there is no file or folder {path}")


def _pick(configs: Iterable[Config], question: Callable[[Config], Any]) -> list[Config]:
    """Return one configuration for each answer to a question."""
    return list({repr(question(config)): config for config in configs}.values())


def _check_device(name: str) -> None:
    if name != "cuda":
        return
    from vdt.system.machine import DeviceError, choose_device

    try:
        choose_device(name)
    except DeviceError as error:
        raise ConfigError(str(error)) from None


def _check_data(config: Config) -> None:
    """Check that data without a substitute exists and has the task's sizes.

    Raises:
        ConfigError: naming the missing data, and where to put it.
    """
    source, recipe = config.data.source, config.task.collected
    stands_in = config.ladder is not None or recipe.controller != "none"
    if config.env.startswith(("data:", "minari:")) or source == "minari" or (source == "auto" and stands_in):
        return  # read already while resolving, or collected if no other source is available
    from vdt.data.errors import DataError
    from vdt.datasets.choose import choose_source

    try:
        if source.startswith("path:"):
            _check_file(config, Path(source.removeprefix("path:")).expanduser())
        else:
            choose_source(config, home())
    except DataError as error:
        raise ConfigError(str(error)) from None


def _check_file(config: Config, path: Path) -> None:
    from vdt.datasets.ends import EndSettings
    from vdt.datasets.hdf5 import scan_file
    from vdt.datasets.npz import scan_folder

    try:
        summary = scan_folder(path) if path.is_dir() else scan_file(path, EndSettings.from_config(config))
    except OSError as error:
        raise ConfigError(f"--source path: {path} cannot be read ({error.strerror or error})") from None
    found = (summary.observation_size, summary.action_size)
    wanted = (config.task.observation_size, config.task.action_size)
    if found != wanted:
        raise ConfigError(
            f"--source path: {path} has {found[0]} observations and {found[1]} actions; {config.env} has {wanted[0]} and "
            f"{wanted[1]}. A data set of your own is given as --env data:{path}"
        )


def _describe_environment(config: Config) -> tuple[object, ...]:
    task = config.task
    sizes = (task.observation_size, task.action_size)
    return (task.environment_id, task.environment_kwargs, task.bridge, *sizes, task.action_low, task.action_high)


def _check_environment(config: Config) -> None:
    """Make the environment once, compare its sizes with the data's, check its actions' bounds, and take a step.

    Raises:
        ConfigError: if it cannot be made, reset or stepped, has other sizes or no bounds, with the ways out.
    """
    import numpy as np

    from vdt.environments import get_action_bounds, make_environment

    task, doing, trouble = config.task, "made", ""
    wanted = [(task.observation_size,), (task.action_size,)]
    try:
        with contextlib.closing(make_environment(task)) as environment:
            sizes = [space.shape or () for space in (environment.observation_space, environment.action_space)]
            with np.errstate(over="ignore"):
                low, high = get_action_bounds(environment)
                bounded = bool(np.isfinite(high - low).all())  # noise is a share of it
            if sizes == wanted and bounded:
                doing = "reset and stepped"
                trouble = _find_trouble(environment, (low + high) / 2)
                if task.action_low and not trouble:
                    _warn_of_range(task, *get_action_bounds(environment.env))  # type: ignore[attr-defined]  # the inner one
    except Exception as error:  # an environment's own code may raise anything
        trouble = f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else str(error)
    if trouble:
        raise ConfigError(
            f"--env {config.env}: its environment {task.environment_id} cannot be {doing} here ({trouble}). Install what it "
            f"needs, name another one (--set task.environment_id=ID), or {WITHOUT}"
        )
    if sizes != wanted:
        found = " and ".join("x".join(map(str, size)) for size in sizes)
        raise ConfigError(
            f"--env {config.env}: {task.environment_id} has {found} observations and actions; the data has "
            f"{task.observation_size} and {task.action_size}. Name the environment of the data (--set "
            f"task.environment_id=ID), or {WITHOUT}"
        )
    if not bounded:
        lowest, highest = (",".join([end] * task.action_size) for end in ("-1", "1"))
        raise ConfigError(
            f"--env {config.env}: actions of {task.environment_id} have no bounds, or too large ones; accepted are finite "
            f'ones. Give them: --set "task.action_low=[{lowest}] task.action_high=[{highest}]", or {WITHOUT}'
        )


def _warn_of_range(task: TaskConfig, lowest: Any, highest: Any) -> None:
    """Log that a task's actions go beyond those that the environment names, lowest and highest (A,)."""
    import numpy as np

    lowest, highest = lowest.astype(np.float64), highest.astype(np.float64)
    low, high = np.asarray(task.action_low or -1.0), np.asarray(task.action_high or 1.0)
    if (low < lowest - 1e-5 * np.abs(lowest)).any() or (high > highest + 1e-5 * np.abs(highest)).any():
        finite = bool(np.isfinite([lowest, highest]).all())
        own = [",".join(f"{value:g}" for value in end) for end in (lowest, highest)]
        advice = f'; its own range is --set "task.action_low=[{own[0]}] task.action_high=[{own[1]}]"' if finite else ""
        logger.warning(
            f"actions of the task go beyond those of {task.environment_id}, which may execute others than are recorded{advice}"
        )


def _find_trouble(environment: Environment, action: Any) -> str:
    """Reset an environment and step it once; return what is wrong with what it gives, or nothing."""
    import numpy as np

    shape = environment.observation_space.shape
    first, _ = environment.reset(seed=0)
    second, reward, *_ = environment.step(action)
    given: Mapping[str, tuple[Any, Any]] = {
        "reset gives an observation": (first, shape),
        "step gives an observation": (second, shape),
        "step gives a reward": (reward, ()),
    }
    for what, (value, wanted) in given.items():
        if np.shape(value) != wanted:
            return f"{what} of shape {np.shape(value)}, not {wanted}"
        if not np.isfinite(value).all():
            return f"{what} that is not finite"
    return ""


def _check_simulator(config: Config) -> None:
    """Check that a copy of the simulator's state steps as the environment itself; raise ConfigError if not."""
    from vdt.environments import make_environment
    from vdt.planning.env_model import find_difference

    task = config.task
    environment, scratch = make_environment(task), make_environment(task)
    try:
        found = find_difference(environment, scratch)
    finally:
        environment.close()
        scratch.close()
    if found:
        raise ConfigError(
            f"--env {config.env}: planner.env_model is simulator, but {task.environment_id} {found}; accepted are learned, none"
        )

"""Merge and check the whole configuration of one cell from the words that name it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vdt.config.layers import (
    PARAMS,
    Config,
    apply_layer,
    build_config,
    check_together,
    find_named_file,
    load_tasks,
    parse_overrides,
)
from vdt.config.plain_yaml import load_yaml
from vdt.config.values import ConfigError, list_known

DERIVED = ("minari", "data")  # kinds of --env whose facts come from the data: `minari:ID` and `data:PATH`


def resolve_config(
    env: str, *, preset: str = "laptop", method: str = "vdt", source: str = "auto", seed: int = 0, overrides: str = ""
) -> Config:
    """Merge and validate everything a run needs.

    Args:
        env: D4RL name of a task, e.g. "walker2d-medium-v2", or minari:NAMESPACE/NAME-vN, or data:PATH. Of the latter two,
            and of source minari, the facts are read from the data, which must be within reach.
        preset: file of params/presets/ (sizes and budgets).
        method: file of params/methods/ (a patch of a few lines).
        source: where the data comes from: auto, collected, d4rl, minari, or path:FILE.
        seed: seeds networks, sampling and online rollouts.
        overrides: `--set` text.

    Raises:
        ConfigError: naming what was given, what is accepted, and where.
    """
    given = parse_overrides(overrides)
    env, facts = _find_task(env, source, given)
    files = find_named_file("presets", preset, "preset"), find_named_file("methods", method, "method")
    values: dict[str, Any] = {}
    apply_layer(values, load_yaml(PARAMS / "vdt.yaml"), "params/vdt.yaml")
    own = {key: value for key, value in facts.items() if not key.startswith(("presets.", "methods."))}
    apply_layer(values, own, f"params/tasks/ ({env})")
    for file in files:
        layer = f"{file.parent.name}.{file.stem}."  # "presets.laptop.", "methods.iql."
        changed = {key.removeprefix(layer): value for key, value in facts.items() if key.startswith(layer)}
        apply_layer(values, load_yaml(file), f"params/{file.parent.name}/{file.name}")
        apply_layer(values, changed, f"params/tasks/ ({env}, {layer[:-1]})")
    if values["task.environment_id"] is None:  # budgets of presets do not apply
        apply_layer(values, {"online.environment_steps": 0}, "data without an environment")
    apply_layer(values, given, "--set")
    identity = {"env": env, "preset": preset, "method": method, "seed": seed, "data.source": source}
    apply_layer(values, identity, "command line")
    config = build_config(values)
    check_together(config)
    return config


def _find_task(env: str, source: str, given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The canonical name of a task and its facts: from params/tasks/, or from the data itself."""
    kind, _, rest = env.partition(":")
    if kind in DERIVED and source not in ("auto", kind):
        raise ConfigError(f"--env {env} names its own data; leave --source away, not {source!r}")
    tasks = load_tasks()
    if kind not in DERIVED and env not in tasks:
        raise ConfigError(
            f"unknown env {env!r}{list_known(env, tasks)} (params/tasks/), minari:NAMESPACE/NAME-vN, data:PATH"
        )
    if kind not in DERIVED and source != "minari":
        return env, tasks[env]
    from vdt.data.storage import DataError
    from vdt.datasets.derived_tasks import derive_file_task, derive_minari_task, derive_named_task

    try:
        if kind == "data":
            path = Path(rest).expanduser().resolve()
            return f"data:{path}", derive_file_task(path)
        if kind == "minari":
            return env, derive_minari_task(rest, given)
        return env, {**tasks[env], **derive_named_task(env, tasks[env], given)}
    except DataError as error:
        raise ConfigError(str(error)) from None

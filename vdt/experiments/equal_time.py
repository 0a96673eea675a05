"""Preset by which all methods of a comparison train for the same processor time."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from vdt.config.layers import find_named_file, list_names, load_layer, load_tasks, select_changes
from vdt.config.presets import format_preset
from vdt.config.schema import Config
from vdt.experiments.resolve import resolve_config

HEAD = (
    "For a comparison at equal processor time: {seconds:g} s of training on one thread for {each}.\n"
    "Made by `vdt equal-time {seconds:g} --env {env} --preset {preset}{given}` in trial steps: critic and actor,\n"
    "ms a step, {times}.\n"
    "Settings are those of {preset} on {env}; its steps are scaled, critic and actor by the same factor.\n{others}"
    "Another machine needs other steps: make it again."
)


def make_preset(
    seconds: float, methods: Sequence[str], env: str, preset: str, changes: str = ""
) -> tuple[str, list[str]]:
    """Measure each method's steps, and scale its budget in `preset` to the same seconds.

    Args:
        seconds: processor time of a cell's training, critic and actor together.
        methods: files of params/methods/; those left out keep the steps of `preset`, and the file says so.
        env: task whose sizes the trial data has. Its changes of `preset`, which hold under that name alone, are written too.
        preset: whose settings and ratios of steps are kept.
        changes: `--set` text, of the runs that are to train so; the preset does not hold it.

    Returns:
        The preset's file, and a line about each method.

    Raises:
        ConfigError: if a name is unknown.
    """
    configs = {method: resolve_config(env, preset=preset, method=method, overrides=changes) for method in methods}
    from vdt.training.equal_time import measure_steps, scale_budget

    times = measure_steps(configs)
    of_task = select_changes(load_tasks().get(env, {}), f"presets.{preset}")
    values: dict[str, Any] = {**load_layer(find_named_file("presets", preset, "preset")), **of_task}
    lines, shown = [], []
    for method, config in configs.items():
        budget, step = scale_budget(config, times[method], seconds), times[method]
        values |= _name_steps(method, config, budget.critic, budget.actor, budget.warm_start)
        critic = f"{1e3 * step.critic:.1f} + " if step.critic else ""
        shown.append(f"{method} {critic}{1e3 * step.actor:.1f}")
        lines.append(f"{method:<8} critic {budget.critic:>9,}  actor {budget.actor:>9,}  ({shown[-1]} ms)")
    head = HEAD.format(
        seconds=seconds,
        env=env,
        preset=preset,
        times=", ".join(shown),
        **_describe_choice(methods, preset, changes),
    )
    return format_preset(head, values), lines


def names_all(methods: Sequence[str]) -> bool:
    """Return whether no method is left out, so that a preset of them trains all for the same time."""
    return set(methods) == set(list_names("methods"))


def _describe_choice(methods: Sequence[str], preset: str, changes: str) -> dict[str, str]:
    """Return the words of `HEAD` on which methods were measured, with which changes."""
    given = f" --set {shlex.quote(changes)}" if changes else ""
    if names_all(methods):
        return {"each": "each method", "given": given, "others": ""}
    return {
        "each": f"each of {', '.join(methods)}",
        "given": f" --methods {','.join(methods)}{given}",
        "others": f"Other methods were not measured, and train for the steps of {preset}.\n",
    }


def _name_steps(method: str, config: Config, critic: int, actor: int, warm_start: int) -> Mapping[str, int]:
    """Return a method's budget as keys of a preset; those that it does not use are left out."""
    steps = {"actor.gradient_steps": actor}
    if config.critic.gradient_steps:
        steps["critic.gradient_steps"] = critic
    if config.actor.warm_start_steps:
        steps["actor.warm_start_steps"] = warm_start
    return {f"methods.{method}.{key}": value for key, value in steps.items()}

"""Resolution of a cell's configuration from the words that name it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdt.config.errors import ConfigError, list_known
from vdt.config.layers import (
    PARAMS,
    Layers,
    find_named_file,
    load_layer,
    load_tasks,
    parse_overrides,
    select_changes,
)
from vdt.config.rules import check_rules
from vdt.config.schema import Config, flatten

if TYPE_CHECKING:
    from vdt.agent.initial import InitialPolicy

HELD_OUT_FRACTION = 0.1  # of the episodes, where no environment can measure the policy
FITTED_Q_STEPS = 10_000  # enough for the fit of a policy's value; a shorter training has a shorter fit
WITHOUT_ENVIRONMENT = "data without an environment"  # layer of what takes the place of returns
DERIVED = ("minari", "data")  # kinds of --env whose facts come from the data: `minari:ID` and `data:PATH`


IDENTITY = {  # keys that the command line gives by an option of their own
    "env": "--env",
    "preset": "--preset",
    "method": "--method",
    "seed": "--seeds",
    "data.source": "--source",
    "init.sha256": "--init-from",
    "init.critic_steps": "--init-from",
}


def resolve_config(
    env: str,
    *,
    preset: str = "laptop",
    method: str = "vdt",
    source: str = "auto",
    seed: int = 0,
    patches: Sequence[tuple[str, Mapping[str, Any]]] = (),
    overrides: str = "",
) -> Config:
    """Merge and validate the whole configuration of a run.

    Args:
        env: D4RL name of a task, e.g. "walker2d-medium-v2", or minari:NAMESPACE/NAME-vN, or data:PATH. Of the latter two,
            and of source minari, the facts are read from the data, which must be within reach.
        preset: file of params/presets/ (sizes and budgets).
        method: file of params/methods/ (a patch of a few lines).
        source: where the data comes from: auto, collected, d4rl, minari, or path:FILE.
        seed: seeds networks, sampling and online rollouts.
        patches: name and nested or dotted mapping of further changes, the later over the earlier; errors give the name.
        overrides: `--set` text, over all else.

    Raises:
        ConfigError: naming what was given, what is accepted, and where.
    """
    changes = [*patches, ("--set", parse_overrides(overrides))]
    given = {key: value for _, patch in changes for key, value in flatten(patch).items()}
    for where, patch in changes:
        _refuse_identity(patch, where)
    env, facts = _find_task(env, source, given)
    initial = _find_named_policy(given)
    layers = _lay_files(env, facts, preset, method)
    has_environment = given.get("task.environment_id", layers.values.get("task.environment_id")) is not None
    if not has_environment:
        _leave_environment_out(layers)
    if initial is not None and env.partition(":")[0] in DERIVED:
        own = layers.values["task.environment_id"] is None
        units = initial.get_units(layers.values["task.horizon"] if own else None)
        layers.lay(units, f"--init-from {initial.where}")
    if "task.candidate_returns" in given:  # whoever names returns asks for them
        layers.lay({"planner.returns": "task"}, "task.candidate_returns")
    for where, patch in changes:
        layers.lay(patch, where)
    identity = {"env": env, "preset": preset, "method": method, "seed": seed, "data.source": source}
    layers.lay(identity, "command line")
    if initial is not None:
        facts = {"policy": initial.where, "sha256": initial.sha256, "critic_steps": initial.critic_steps}
        layers.lay({"init": facts}, f"--init-from {initial.where}")
    config = layers.build()
    if not (has_environment or config.evaluation.fitted_q_steps or "evaluation.fitted_q_steps" in given):
        config = _add_fit(layers, config)
    if initial is not None:
        initial.check_fits(config)
    check_rules(config)
    return config


def _lay_files(env: str, facts: Mapping[str, Any], preset: str, method: str) -> Layers:
    """Return the layers of params/: the method's settings, the task, preset and method, and the changes of these."""
    settings = load_layer(PARAMS / "vdt.yaml")
    budgets = load_layer(find_named_file("presets", preset, "preset"))
    patch = load_layer(find_named_file("methods", method, "method"))
    of_task, of_preset = f"params/tasks/ ({env}", f"params/presets/{preset}.yaml"
    own, in_preset, in_method = "", f"presets.{preset}", f"methods.{method}"
    layers = Layers()
    for changes, where in (
        (settings, "params/vdt.yaml"),
        (select_changes(facts, own), f"{of_task})"),
        (select_changes(budgets, own), of_preset),
        (select_changes(facts, in_preset), f"{of_task}, {in_preset})"),
        (patch, f"params/methods/{method}.yaml"),
        (select_changes(budgets, in_method), f"{of_preset} ({in_method})"),
        (select_changes(facts, in_method), f"{of_task}, {in_method})"),
    ):
        layers.lay(changes, where)
    return layers


def _leave_environment_out(layers: Layers) -> None:
    """Remove the budgets that need an environment, and hold some episodes out."""
    known = layers.values
    changes = {
        "online.environment_steps": 0,
        "data.held_out_fraction": known.get("data.held_out_fraction") or HELD_OUT_FRACTION,
    }
    layers.lay(changes, WITHOUT_ENVIRONMENT)


def _add_fit(layers: Layers, config: Config) -> Config:
    """Add an estimate of the policy's value on the data, by a fit that is no longer than the policy's training."""
    steps = min(FITTED_Q_STEPS, max(config.critic.gradient_steps, config.actor.gradient_steps))
    layers.lay({"evaluation.fitted_q_steps": steps}, WITHOUT_ENVIRONMENT)
    return layers.build()


def _find_named_policy(given: Mapping[str, Any]) -> InitialPolicy | None:
    """Find the policy that the training begins from, if one is named."""
    where = given.get("init.policy", "")
    if not isinstance(where, str) or not where:
        return None  # another type is refused with all other values
    from vdt.agent.initial import find_initial

    return find_initial(where)


def _refuse_identity(patch: Mapping[str, Any], where: str) -> None:
    """Refuse a change of a key that has its own command-line option, which would be lost."""
    for key in flatten(patch):
        if key in IDENTITY:
            raise ConfigError(f"{where}: {key} is given by {IDENTITY[key]}, not by a change of settings")


def _find_task(env: str, source: str, given: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the canonical name of a task and its facts: from params/tasks/, or from the data itself."""
    kind, _, rest = env.partition(":")
    if kind == "data" and not rest.strip():
        raise ConfigError(f"--env {env} names no data; accepted is data:PATH, a folder of episodes or an HDF5 file")
    if kind in DERIVED and source not in ("auto", kind):
        raise ConfigError(f"--env {env} names its own data; leave --source away, not {source!r}")
    tasks = load_tasks()
    if kind not in DERIVED and env not in tasks:
        raise ConfigError(
            f"unknown env {env!r}{list_known(env, tasks)} (params/tasks/), minari:NAMESPACE/NAME-vN, data:PATH; "
            "for your own environment: --env data:PATH --set task.environment_id=ID (docs/data.md)"
        )
    if kind not in DERIVED and source != "minari":
        return env, tasks[env]
    from vdt.data.errors import DataError
    from vdt.datasets.derived_tasks import derive_file_task, derive_minari_task, derive_named_task

    try:
        if kind == "data":
            path = Path(rest).expanduser().resolve()
            return f"data:{path}", derive_file_task(path, given)
        if kind == "minari":
            return env, derive_minari_task(rest, given)
        return env, {**tasks[env], **derive_named_task(env, tasks[env], given)}
    except DataError as error:
        raise ConfigError(str(error)) from None

"""Merging, coercion, ranges and every error of the configuration."""

import dataclasses
import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from vdt.config import layers as config_module
from vdt.config.layers import PARAMS, Config, ConfigError, config_from_yaml, load_tasks, load_yaml, parse_overrides
from vdt.config.values import ALIASES
from vdt.experiments.resolve import resolve_config

ENV = "walker2d-medium-v2"
PRESETS = sorted(path.stem for path in (PARAMS / "presets").glob("*.yaml"))
METHODS = sorted(path.stem for path in (PARAMS / "methods").glob("*.yaml"))
TASKS = sorted(load_tasks())


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small copy of params/ in which every layer says something about `critic.n_step`."""
    for folder in ("tasks", "presets", "methods"):
        (tmp_path / folder).mkdir()
    base = load_yaml(PARAMS / "vdt.yaml")
    base["critic"]["n_step"] = 1
    (tmp_path / "vdt.yaml").write_text(yaml.safe_dump(base))
    task = {**load_tasks()[ENV], "critic.n_step": 2}
    family = {"environments": {"e": {}}, "tasks": {ENV: {"environment": "e", **nest(task)}}}
    (tmp_path / "tasks" / "gym.yaml").write_text(yaml.safe_dump(family))
    (tmp_path / "presets" / "plain.yaml").write_text("{}")
    (tmp_path / "presets" / "laptop.yaml").write_text("critic: {n_step: 3}")
    (tmp_path / "methods" / "plain.yaml").write_text("{}")
    (tmp_path / "methods" / "vdt.yaml").write_text("critic: {n_step: 4}")
    monkeypatch.setattr(config_module, "PARAMS", tmp_path)
    monkeypatch.setattr("vdt.experiments.resolve.PARAMS", tmp_path)
    return tmp_path


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        node = tree
        *parents, leaf = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


@pytest.mark.parametrize(
    ("preset", "method", "overrides", "expected"),
    [
        ("plain", "plain", "", 2),  # the task beats vdt.yaml's 1
        ("laptop", "plain", "", 3),  # the preset beats the task
        ("laptop", "vdt", "", 4),  # the method beats the preset
        ("laptop", "vdt", "critic.n_step=5", 5),  # --set beats all
    ],
)
def test_merge_order(params: Path, preset: str, method: str, overrides: str, expected: int) -> None:
    assert resolve_config(ENV, preset=preset, method=method, overrides=overrides).critic.n_step == expected


def test_vdt_yaml_is_the_lowest_layer(params: Path) -> None:
    path = params / "tasks" / "gym.yaml"
    path.write_text(path.read_text().replace("n_step: 2", "expectile: 0.7"))
    assert resolve_config(ENV, preset="plain", method="plain").critic.n_step == 1


def test_task_layers_merge_deeply() -> None:
    # one level sets collected.ladder, another collected.snapshots: neither wipes out the other
    assert load_tasks()[ENV]["task.collected.ladder"] == "walker2d"
    assert load_tasks()[ENV]["task.collected.snapshots"] != []


@pytest.mark.parametrize(("env", "preset", "method"), list(product(TASKS, PRESETS, METHODS)))
def test_every_combination_resolves(env: str, preset: str, method: str) -> None:
    config = resolve_config(env, preset=preset, method=method, seed=3)
    assert (config.env, config.preset, config.method, config.seed) == (env, preset, method, 3)
    assert config.task.reference_return_min < config.task.reference_return_max
    assert config_from_yaml(config.to_yaml()) == config


@pytest.mark.parametrize("env", ["pen-human-v1", "kitchen-partial-v0"])
def test_families_patch_the_method_and_methods_patch_families(env: str) -> None:
    config = resolve_config(env)
    assert (config.critic.expectile, config.actor.inverse_temperature, config.actor.q_coefficient) == (0.7, 0.5, 0.01)
    assert resolve_config(env, method="dt").actor.inverse_temperature == 0.0
    assert resolve_config(env, overrides="critic.expectile=0.6").critic.expectile == 0.6


def test_a_task_patches_presets_and_methods_by_name(params: Path) -> None:
    path = params / "tasks" / "gym.yaml"
    family = yaml.safe_load(path.read_text())
    family["shared"] = {
        "presets": {"laptop": {"critic": {"n_step": 6}}},
        "methods": {"vdt": {"critic": {"n_step": 7}}},
    }
    path.write_text(yaml.safe_dump(family))
    got = {
        (p, m): resolve_config(ENV, preset=p, method=m).critic.n_step
        for p in ("plain", "laptop")
        for m in ("plain", "vdt")
    }
    assert got == {("plain", "plain"): 2, ("laptop", "plain"): 6, ("plain", "vdt"): 7, ("laptop", "vdt"): 7}


def test_tasks_patch_only_presets_and_methods_that_exist() -> None:
    named = {tuple(key.split(".")[:2]) for facts in load_tasks().values() for key in facts}
    assert {name for kind, name in named if kind == "presets"} <= set(PRESETS)
    assert {name for kind, name in named if kind == "methods"} <= set(METHODS)


def test_iql_takes_the_temperature_and_expectile_of_its_paper_on_every_family() -> None:
    configs = {
        env: resolve_config(env, method="iql")
        for env in (ENV, "door-human-v1", "kitchen-complete-v0", "antmaze-umaze-v0")
    }
    found = {env: (c.critic.expectile, c.actor.inverse_temperature, c.policy.dropout) for env, c in configs.items()}
    assert found == {
        ENV: (0.7, 3.0, 0.0),
        "door-human-v1": (0.7, 0.5, 0.1),
        "kitchen-complete-v0": (
            0.7,
            0.5,
            0.0,
        ),  # dropout 0.1 in its paper: too much for the laptop preset (docs/experiments.md)
        "antmaze-umaze-v0": (0.9, 10.0, 0.0),
    }


def test_baselines_switch_the_critic_off() -> None:
    for method in ("dt", "bc"):
        config = resolve_config(ENV, method=method)
        off = (config.critic.gradient_steps, config.actor.inverse_temperature, config.actor.q_coefficient)
        assert off == (0, 0.0, 0.0)
        assert (config.planner.candidates, config.planner.planning_horizon) == (1, 1)


def test_methods_share_data_and_budget() -> None:
    configs = [resolve_config(ENV, method=method) for method in ("vdt", "dt", "bc")]
    assert len({c.data for c in configs}) == len({c.evaluation for c in configs}) == 1
    assert len({(c.actor.gradient_steps, c.actor.batch_size, c.policy.context_length) for c in configs}) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"env": "walker2d-medum-v2"},
            r"unknown env 'walker2d-medum-v2'; did you mean 'walker2d-medium-v2'.*params/tasks",
        ),
        ({"preset": "labtop"}, r"unknown preset 'labtop'; did you mean 'laptop'.*params/presets"),
        ({"method": "vdtt"}, r"unknown method 'vdtt'; did you mean 'vdt'.*Known: .*dt.*params/methods"),
        ({"method": "../vdt"}, r"unknown method '../vdt'"),
        (
            {"source": "colected"},
            r"--source must be auto, collected, d4rl, minari or path:FILE, not 'colected'; did you mean",
        ),
        ({"source": "path:"}, r"--source must be .* not 'path:'"),
        ({"seed": -1}, r"command line: seed must be at least 0, not -1"),
        (
            {"overrides": "critic.expctile=0.8"},
            r"--set: unknown key 'critic.expctile'; did you mean 'critic.expectile'",
        ),
        ({"overrides": "critic=1"}, r"--set: unknown key 'critic'"),
        ({"overrides": "critic.expectile"}, r"--set: 'critic.expectile' is not of the form section.key=value"),
        ({"overrides": "=1"}, r"--set: '=1' is not of the form"),
        ({"overrides": "critic.expectile=1.5"}, r"--set: critic.expectile must be between 0.0 and 1.0, not 1.5"),
        ({"overrides": "critic.n_step=0"}, r"--set: critic.n_step must be between 1 and 1000, not 0"),
        ({"overrides": "actor.batch_size=0"}, r"--set: actor.batch_size must be at least 1, not 0"),
        ({"overrides": "critic.n_step=2.5"}, r"--set: critic.n_step must be a whole number, not 2.5 \(float\)"),
        ({"overrides": "critic.n_step=many"}, r"--set: critic.n_step must be a whole number, not 'many' \(str\)"),
        ({"overrides": "critic.n_step=true"}, r"--set: critic.n_step must be a whole number, not True \(bool\)"),
        ({"overrides": "critic.n_step=null"}, r"--set: critic.n_step must be a whole number, not None"),
        ({"overrides": "critic.discount=[0.9]"}, r"--set: critic.discount must be a number, not \[0.9\] \(list\)"),
        ({"overrides": "critic.discount=.nan"}, r"--set: critic.discount must be a number, not nan"),
        ({"overrides": "actor.q_coefficient=.inf"}, r"--set: actor.q_coefficient must be a number, not inf"),
        ({"overrides": "policy.kind=1"}, r"--set: policy.kind must be text, not 1 \(int\)"),
        (
            {"overrides": "policy.kind=transfomer"},
            r"policy.kind must be one of transformer, mlp, not 'transfomer'; did you",
        ),
        ({"overrides": "critic.n_step=[1"}, r"--set: '\[1' is not plain YAML"),
        ({"overrides": "policy.heads=3"}, r"policy.embedding_size \(128\) must be a multiple of policy.heads \(3\)"),
        (
            {"overrides": "planner.planning_horizon=2 planner.env_model=none"},
            r"planning_horizon > 1 needs planner.env_model",
        ),
        (
            {"overrides": "planner.context_length=11"},
            r"planner.context_length \(11\) must not exceed what the policy is trained on, policy.context_length \(10\)",
        ),
        ({"overrides": "critic.gradient_steps=0"}, r"critic.gradient_steps is 0, but .* uses the critic"),
        ({"overrides": "task.candidate_returns=[]"}, r"task.candidate_returns must name at least one return"),
        (
            {"method": "bc", "overrides": "actor.reward_coefficient=1"},
            r"policy.kind mlp predicts no observations or rewards: set actor.next_observation_coefficient=0",
        ),
        (
            {"overrides": "planner.planning_horizon=2 planner.env_model=learned actor.next_observation_coefficient=0"},
            r"learned env_model needs actor.next_observation_coefficient and actor.reward_coefficient above 0",
        ),
    ],
)
def test_errors_name_what_was_given_what_is_accepted_and_where(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_config(**{"env": ENV, **arguments})


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("lr", ["critic.learning_rate", "actor.learning_rate", "online.actor_learning_rate"]),
        ("critic.lr", ["critic.learning_rate"]),
        ("policy.n_layers", ["policy.layers"]),
        ("expectile", ["critic.expectile"]),
        ("expectil", ["critic.expectile"]),
        ("actor.expectile", ["critic.expectile"]),
        ("gamma", ["critic.discount"]),
        ("grad_clip", ["actor.gradient_clip"]),
        ("critic.expctile", ["critic.expectile"]),
    ],
)
def test_unknown_keys_are_found_by_last_part_and_other_names(key: str, meant: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_config(ENV, overrides=f"{key}=1")
    said = " or ".join(map(repr, meant))
    assert str(caught.value) == f"--set: unknown key {key!r}; did you mean {said}?"


def test_other_names_of_keys_lead_to_keys_that_exist() -> None:
    leaves = {key.rpartition(".")[2] for key in config_module.KNOBS}
    assert {leaf for meant in ALIASES.values() for leaf in meant} <= leaves
    assert not set(ALIASES) & leaves, "the name of a key is not another's second name"


def test_a_missing_value_is_named(params: Path) -> None:
    path = params / "vdt.yaml"
    base = yaml.safe_load(path.read_text())
    del base["critic"]["expectile"]
    path.write_text(yaml.safe_dump(base))
    with pytest.raises(ConfigError, match=r"no value for critic.expectile: neither params/vdt.yaml nor"):
        resolve_config(ENV)


def test_an_unknown_key_in_a_file_names_the_file(params: Path) -> None:
    (params / "methods" / "vdt.yaml").write_text("critic: {nstep: 4}")
    with pytest.raises(ConfigError, match=r"params/methods/vdt.yaml: unknown key 'critic.nstep'; did you mean"):
        resolve_config(ENV)


def test_numbers_are_coerced_by_declared_type() -> None:
    assert yaml.safe_load("3e-4") == "3e-4"  # why coercion is needed
    config = resolve_config(ENV, overrides="critic.learning_rate=3e-4 online.environment_steps=2e4 critic.discount=1")
    assert config.critic.learning_rate == 3e-4
    assert (config.online.environment_steps, type(config.online.environment_steps)) == (20000, int)
    assert (config.critic.discount, type(config.critic.discount)) == (1.0, float)


def test_a_single_item_becomes_a_tuple() -> None:
    config = resolve_config(ENV, overrides="task.candidate_returns=100 task.collected.ladder=null")
    assert config.task.candidate_returns == (100.0,)
    assert config.task.collected.ladder is None


def test_overrides_are_split_like_a_shell() -> None:
    assert parse_overrides("a.b=1  c.d='[1, 2]' e='x y'") == {"a.b": 1, "c.d": [1, 2], "e": "x y"}
    assert parse_overrides("") == {}


@pytest.mark.parametrize("text", ["!!python/object/apply:os.getcwd []", "a: !!python/name:os.system"])
def test_yaml_cannot_make_objects(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"x.yaml is not plain YAML"):
        load_yaml(tmp_path / "x.yaml")
    with pytest.raises(ConfigError, match=r"--set: .* is not plain YAML"):
        parse_overrides("a='!!python/object/apply:os.getcwd []'")


def test_stored_configuration_cannot_make_objects() -> None:
    text = resolve_config(ENV).to_yaml()
    assert f"env: {ENV}" in text
    with pytest.raises(ConfigError, match="not plain YAML"):
        config_from_yaml(text.replace(f"env: {ENV}", "env: !!python/object/apply:os.getcwd []"))


@pytest.mark.parametrize(
    ("text", "message"), [("- 1", "must hold a mapping, not list"), ("x" * (2**20 + 1), "larger than")]
)
def test_yaml_files_are_small_mappings(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_yaml(tmp_path / "x.yaml")


def test_round_trip_checks_what_it_reads() -> None:
    config = resolve_config(ENV, overrides="actor.q_coefficient=0.1234567890123")
    again = config_from_yaml(config.to_yaml())
    assert again == config
    with pytest.raises(ConfigError, match=r"stored configuration: critic.expectile must be"):
        config_from_yaml(config.to_yaml().replace(f"expectile: {config.critic.expectile}", "expectile: 7"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [("  n_step: 5\n", "", "no value for critic.n_step"), ("  n_step:", "  steps:", "critic.steps")],
)
def test_a_configuration_of_another_version_is_refused(old: str, new: str, said: str) -> None:
    text = resolve_config(ENV).to_yaml()
    assert old in text
    with pytest.raises(ConfigError, match=f"is not of this version .*{said}.*start a new run"):
        config_from_yaml(text.replace(old, new))


def test_flat_configuration_holds_every_leaf() -> None:
    config = resolve_config(ENV)
    flat = config.flatten()
    assert flat["critic.expectile"] == config.critic.expectile
    assert flat["task.collected.snapshots"] == config.task.collected.snapshots
    assert set(flat) == set(config_module.KNOBS)
    assert all(not isinstance(v, float) or math.isfinite(v) for v in flat.values())


def test_configuration_is_frozen_and_seeds_make_copies() -> None:
    config = resolve_config(ENV)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1  # type: ignore[misc]
    other: Config = config.with_seed(5)
    assert (config.seed, other.seed) == (0, 5)
    assert other.with_seed(0) == config


def test_environment_kwargs_are_kept_as_json_text() -> None:
    config = resolve_config(ENV, overrides="""task.environment_kwargs='{"ctrl_cost_weight": 0.5}'""")
    assert config.task.environment_kwargs == '{"ctrl_cost_weight": 0.5}'
    assert config_from_yaml(config.to_yaml()) == config
    assert resolve_config(ENV).task.environment_kwargs == "{}"
    for wrong in ("[1]", "3", "text"):
        with pytest.raises(
            ConfigError, match=r"--set: task\.environment_kwargs must be a mapping of plain values, not"
        ):
            resolve_config(ENV, overrides=f"task.environment_kwargs={wrong}")

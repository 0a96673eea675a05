"""Merging, coercion, ranges and every error of the configuration."""

import dataclasses
import json
import math
from itertools import product
from pathlib import Path

import pytest
import yaml

from vdt.config.errors import ConfigError
from vdt.config.layers import (
    CHANGES,
    PARAMS,
    config_from_mapping,
    config_from_yaml,
    load_layer,
    load_tasks,
    load_yaml,
    parse_overrides,
)
from vdt.config.schema import KEYS, Config, flatten
from vdt.experiments.resolve import resolve_config

ENV = "walker2d-medium-v2"
PRESETS = sorted(path.stem for path in (PARAMS / "presets").glob("*.yaml"))
METHODS = sorted(path.stem for path in (PARAMS / "methods").glob("*.yaml"))
TASKS = sorted(load_tasks())


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


@pytest.mark.parametrize("env", TASKS)
def test_every_combination_resolves(env: str) -> None:
    for preset, method in product(PRESETS, METHODS):
        config = resolve_config(env, preset=preset, method=method, seed=3)
        assert (config.env, config.preset, config.method, config.seed) == (env, preset, method, 3)
        assert config.task.reference_return_min < config.task.reference_return_max
        assert config_from_mapping(json.loads(json.dumps(config.to_mapping()))) == config, (preset, method)
    assert config_from_yaml(config.to_yaml()) == config


def test_files_are_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_config(ENV)
    parsed: list[str] = []
    load = yaml.load
    monkeypatch.setattr(yaml, "load", lambda text, loader: parsed.append(text) or load(text, loader))
    for method in ("vdt", "vdt", "vdt"):
        resolve_config(ENV, method=method, overrides="critic.n_step=3")
    assert parsed == ["3"] * 3, "of what was read before only `--set` is parsed again"


def test_a_changed_file_is_read_again(params: Path) -> None:
    for steps in (4, 8):
        (params / "methods" / "vdt.yaml").write_text(f"critic: {{n_step: {steps}}}")
        assert resolve_config(ENV).critic.n_step == steps


def test_tasks_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        load_tasks()[ENV]["critic.n_step"] = 3  # type: ignore[index]
    with pytest.raises(TypeError):
        load_tasks()["kitchen-partial-v0"]["task.environment_kwargs"]["robot_noise_ratio"] = 3


def test_patches_are_named_and_lie_between_method_and_overrides() -> None:
    patches = [
        ("first", {"critic": {"n_step": 2, "discount": 0.5}}),
        ("second", {"critic.n_step": 3, "task": {"environment_kwargs": {"a": {"b": [1]}}}}),
    ]
    config = resolve_config(ENV, patches=patches, overrides="critic.discount=0.6")
    assert (config.critic.n_step, config.critic.discount) == (3, 0.6)
    assert config.task.environment_kwargs == '{"a": {"b": [1]}}'
    with pytest.raises(ConfigError, match=r"^second: critic.n_step must be between 1 and 1000, not 0$"):
        resolve_config(ENV, patches=[patches[0], ("second", {"critic": {"n_step": 0}})])
    with pytest.raises(ConfigError, match=r"^first: unknown key 'critic.steps'"):
        resolve_config(ENV, patches=[("first", {"critic": {"steps": 0}})])


def test_a_key_with_a_default_may_be_absent_from_a_stored_configuration() -> None:
    text = resolve_config(ENV, overrides="runtime.acceleration=off").to_yaml()
    old = text.replace("  acceleration: 'off'\n", "")  # as release 0.1 wrote it
    assert config_from_yaml(text).runtime.acceleration == "off" != config_from_yaml(old).runtime.acceleration
    with pytest.raises(ConfigError, match=r"not of this version \(no value for runtime.threads"):
        config_from_yaml(old.replace("  threads: 0\n", ""))


def test_every_knob_stands_in_the_parameter_file() -> None:
    """A default of the schema is for stored configurations alone."""
    said = flatten(load_yaml(PARAMS / "vdt.yaml"))
    assert {key for key in KEYS if "." in key and not key.startswith("task.")} - set(said) == {"data.source"}


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


def test_a_preset_patches_methods_by_name_and_a_task_has_the_last_word(params: Path) -> None:
    path = params / "presets" / "laptop.yaml"
    path.write_text("critic: {n_step: 3}\nmethods: {vdt: {critic: {n_step: 4}}}")
    (params / "methods" / "vdt.yaml").write_text("critic: {n_step: 5}")
    steps = [resolve_config(ENV, method=method).critic.n_step for method in ("plain", "vdt")]
    assert steps == [3, 4]
    path = params / "tasks" / "gym.yaml"
    family = yaml.safe_load(path.read_text())
    family["shared"] = {"methods": {"vdt": {"critic": {"n_step": 7}}}}
    path.write_text(yaml.safe_dump(family))
    assert resolve_config(ENV).critic.n_step == 7
    (params / "presets" / "laptop.yaml").write_text("methods: {vdt: {critic: {n_stp: 4}}}")
    with pytest.raises(ConfigError, match=r"presets/laptop.yaml \(methods.vdt\): unknown key 'critic.n_stp'"):
        resolve_config(ENV)


def test_presets_patch_only_methods_that_exist() -> None:
    keys = {key for preset in PRESETS for key in load_layer(PARAMS / "presets" / f"{preset}.yaml")}
    named = {key.split(".")[1] for key in keys if key.startswith(CHANGES)}
    assert named and named <= set(METHODS) and not any(key.startswith("presets.") for key in keys)


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


def test_transformers_draw_by_return_and_others_as_their_papers_do() -> None:
    drawn = {m: resolve_config(ENV, method=m).actor.trajectory_weighting for m in METHODS}
    assert {drawn[m] for m in ("vdt", "dt", "odt")} == {"return"}
    assert {drawn[m] for m in ("bc", "bc-10", "iql", "td3bc", "awac", "cql", "qt")} == {"same"}
    fractions = {m: resolve_config(ENV, method=m).actor.start_fraction for m in METHODS}
    assert {m for m in METHODS if fractions[m]} == {"vdt", "dt"}
    paper = resolve_config(ENV, preset="paper").actor
    assert (paper.trajectory_weighting, paper.start_fraction) == ("same", 0)
    assert resolve_config("kitchen-complete-v0").actor.trajectory_weighting == "same"


def test_methods_share_data_and_budget() -> None:
    configs = [resolve_config(ENV, method=method) for method in ("vdt", "dt", "bc")]
    assert len({c.data for c in configs}) == len({c.evaluation for c in configs}) == 1
    policies = [c for c in configs if c.policy.kind == "transformer"]  # bc sees transitions: test_methods.py
    assert len({(c.actor.gradient_steps, c.actor.batch_size, c.policy.context_length) for c in policies}) == 1
    assert len(policies) == 2


def test_numbers_are_coerced_by_declared_type() -> None:
    assert yaml.safe_load("3e-4") == "3e-4"  # why coercion is needed
    config = resolve_config(ENV, overrides="critic.learning_rate=3e-4 online.environment_steps=2e4 critic.discount=1")
    assert config.critic.learning_rate == 3e-4
    assert (config.online.environment_steps, type(config.online.environment_steps)) == (20000, int)
    assert (config.critic.discount, type(config.critic.discount)) == (1.0, float)
    assert resolve_config(ENV, overrides=f"data.seed={2**53 - 1}").data.seed == 2**53 - 1


def test_a_single_item_becomes_a_tuple() -> None:
    config = resolve_config(ENV, overrides="task.candidate_returns=100 task.collected.ladder=null")
    assert config.task.candidate_returns == (100.0,)
    assert config.task.collected.ladder is None


def test_gym_asks_for_returns_of_its_data_unless_returns_are_named() -> None:
    assert resolve_config(ENV).planner.returns == "data"
    assert resolve_config(ENV, preset="paper").planner.returns == "task"
    named = {"task": {"candidate_returns": [4000, 3000]}}
    assert resolve_config(ENV, overrides="task.candidate_returns=[4000,3000]").planner.returns == "task"
    assert resolve_config(ENV, patches=[("mine", named)]).planner.returns == "task"
    assert resolve_config(ENV, patches=[("mine", {**named, "planner": {"returns": "data"}})]).planner.returns == "data"


def test_overrides_are_split_like_a_shell() -> None:
    assert parse_overrides("a.b=1  c.d='[1, 2]' e='x y'") == {"a.b": 1, "c.d": [1, 2], "e": "x y"}
    assert parse_overrides("") == {}


def test_a_key_that_set_gives_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--set gives a\.b twice: 'a\.b=1 a\.b=2'; leave one out"):
        parse_overrides("a.b=1 a.b=2")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "actor: {batch_size: 8}\ndata: {steps: 200}\nactor: {gradient_steps: 3}",
            r"x.yaml .*'actor' comes twice .* line 3",
        ),
        ("actor: {batch_size: 8}\nactor.batch_size: 9", "actor.batch_size comes twice, inside its section and dotted"),
    ],
)
def test_a_key_that_a_file_gives_twice_is_refused(text: str, said: str, tmp_path: Path) -> None:
    """YAML takes the last one, and the first would be lost without a word."""
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_layer(tmp_path / "x.yaml")


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
    assert set(flat) == set(KEYS)
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

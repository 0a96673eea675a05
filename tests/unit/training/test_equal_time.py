"""Budgets of equal processor time: the arithmetic, the steps that are timed, and the preset that comes of it."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.builders import make_config
from vdt.cli import run
from vdt.config.layers import PARAMS, list_names, load_layer
from vdt.experiments.equal_time import make_preset
from vdt.experiments.resolve import resolve_config
from vdt.training import equal_time
from vdt.training.equal_time import Budget, StepSeconds, measure_steps, scale_budget

WALKER = "walker2d-medium-v2"


def test_budgets_golden() -> None:
    iql = resolve_config(WALKER, preset="fair", method="iql")  # 100,000 of 4 ms and 50,000 of 2 ms: 500 s
    assert scale_budget(iql, StepSeconds(0.004, 0.002), 250) == Budget(50_000, 25_000, 0)
    cql = resolve_config(WALKER, preset="fair", method="cql")  # 100,000 of 10 ms, the critic's steps among them: 1000 s
    assert scale_budget(cql, StepSeconds(0, 0.010), 123.4) == Budget(12_300, 12_300, 1_230)
    dt = resolve_config(WALKER, preset="fair", method="dt")
    assert scale_budget(dt, StepSeconds(0, 0.020), 1e-3) == Budget(0, 1, 0), "a step at least"
    small = make_config({"critic.gradient_steps": 297, "actor.gradient_steps": 9990})
    assert scale_budget(small, StepSeconds(0, 1 / 9990), 0.01) == Budget(3, 100, 0), "the nearest: 99.9 and 2.97 scaled"


@pytest.mark.parametrize("method", ["vdt", "iql", "td3bc", "cql", "dt"])
def test_the_steps_of_a_method_are_timed(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equal_time, "ROUND_SECONDS", 0.01)
    config = make_config({"critic.gradient_steps": 0 if method == "dt" else 8}, method=method)
    seconds = measure_steps({method: config})[method]
    assert seconds.actor > 0
    assert (seconds.critic > 0) == (method in ("vdt", "iql")), "the others have none, or train it with the actor"


def test_a_larger_batch_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equal_time, "ROUND_SECONDS", 0.03)
    configs = {str(n): make_config({"actor.batch_size": n}, method="bc") for n in (16, 16_000)}
    small, large = measure_steps(configs).values()
    assert large.actor > 3 * small.actor


def test_the_preset_names_each_methods_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    words = ["equal-time", "20", "--env", WALKER, "--methods", "bc,td3bc", "--preset", "smoke", "--output", str(path)]
    assert run(words) == 0
    assert "written: " in capsys.readouterr().out
    values, base = load_layer(path), load_layer(PARAMS / "presets" / "smoke.yaml")
    assert {key: value for key, value in values.items() if not key.startswith("methods.")} == base
    steps = {key: value for key, value in values.items() if key.startswith("methods.")}
    assert set(steps) == {f"methods.{name}.gradient_steps" for name in ("bc.actor", "td3bc.actor", "td3bc.critic")}
    assert steps["methods.td3bc.critic.gradient_steps"] == pytest.approx(
        1.5 * steps["methods.td3bc.actor.gradient_steps"], rel=0.01
    )  # 60 to 40
    assert path.read_text().startswith("# For a comparison at equal processor time: 20 s")


def test_a_written_preset_is_not_replaced_unasked_and_its_use_is_true(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vdt.experiments.equal_time.make_preset", lambda *_: ("# new\n", ["line"]))
    monkeypatch.setattr("vdt.config.layers.PARAMS", tmp_path / "params")
    default, path = tmp_path / "params" / "presets" / "equal-time.yaml", tmp_path / "mine.yaml"
    default.parent.mkdir(parents=True)
    path.write_text("# old\n")
    words = ["equal-time", "20", "--env", WALKER]
    assert run([*words, "--output", str(path)]) == 2 and path.read_text() == "# old\n"
    assert capsys.readouterr().err.endswith("is there already; --overwrite replaces it\n")
    assert run([*words, "--output", str(path), "--overwrite"]) == 0 and path.read_text() == "# new\n"
    use = f"as {default.with_name('NAME.yaml')}, --preset NAME trains with it"
    assert capsys.readouterr().out == f"line\nwritten: {path}; {use}\n"
    for more in ([], [], ["--output", "params/presets/equal-time.yaml", "--overwrite"]):
        assert run([*words, *more]) == 0 and default.read_text() == "# new\n"
        assert capsys.readouterr().out.endswith("equal-time.yaml; --study equal-time trains with it\n")


def test_some_methods_do_not_replace_the_preset_of_all_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vdt.experiments.equal_time.make_preset", lambda *_: ("# new\n", ["line"]))
    default = tmp_path / "params" / "presets" / "equal-time.yaml"
    words = ["equal-time", "20", "--env", WALKER, "--methods"]
    shutil.copytree(PARAMS / "methods", tmp_path / "params" / "methods")
    monkeypatch.setattr("vdt.config.layers.PARAMS", tmp_path / "params")
    default.parent.mkdir(parents=True)
    default.write_text("# old\n")
    assert run([*words, "bc,td3bc"]) == 2 and default.read_text() == "# old\n"
    said = capsys.readouterr().err
    assert said.startswith("error: --methods bc,td3bc: ") and str(default) in said and "--output" in said
    assert run([*words, ",".join(reversed(list_names("methods")))]) == 0 and default.read_text() == "# new\n", "all"
    default.write_text("# old\n")
    assert run([*words, "bc,td3bc", "--overwrite"]) == 0 and default.read_text() == "# new\n"


def test_the_head_is_true_of_methods_that_were_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equal_time, "measure_steps", lambda configs: dict.fromkeys(configs, StepSeconds(0, 0.01)))
    head = "\n".join(
        line for line in make_preset(5, ["bc", "td3bc"], WALKER, "smoke")[0].splitlines() if line[0] == "#"
    )
    assert "5 s of training on one thread for each of bc, td3bc." in head
    assert f"Made by `vdt equal-time 5 --env {WALKER} --preset smoke --methods bc,td3bc`" in head
    assert "Other methods were not measured, and train for the steps of smoke." in head
    every = make_preset(5, list_names("methods"), WALKER, "smoke")[0]
    assert "for each method.\n" in every and "--methods" not in every and "not measured" not in every


@pytest.mark.parametrize("env", ["maze2d-umaze-v1", "door-human-v1", WALKER])
def test_what_is_measured_is_what_the_preset_trains(env: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task's changes of a preset hold under its name alone, and the written one has another."""
    measured: dict[str, Any] = {}

    def measure(configs: dict[str, Any]) -> dict[str, StepSeconds]:
        measured.update(configs)
        return dict.fromkeys(configs, StepSeconds(0.001, 0.01))

    monkeypatch.setattr(equal_time, "measure_steps", measure)
    text, _ = make_preset(5, ["vdt", "dt", "iql"], env, "laptop")
    shutil.copytree(PARAMS, tmp_path / "params", ignore=shutil.ignore_patterns("*.npz"))
    (tmp_path / "params" / "presets" / "mine.yaml").write_text(text)
    monkeypatch.setattr("vdt.config.layers.PARAMS", tmp_path / "params")
    for method, config in measured.items():
        trained = resolve_config(env, preset="mine", method=method)
        critic, actor = trained.critic.gradient_steps, trained.actor.gradient_steps
        assert actor == scale_budget(config, StepSeconds(0.001, 0.01), 5).actor != config.actor.gradient_steps
        assert trained == replace(
            config,
            preset="mine",
            critic=replace(config.critic, gradient_steps=critic),
            actor=replace(config.actor, gradient_steps=actor),
        )


def test_the_steps_of_the_changed_settings_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half precision takes other seconds a step: what is timed must be what will run."""
    precisions: list[str] = []

    def measure(configs: dict[str, Any]) -> dict[str, StepSeconds]:
        precisions.extend(config.runtime.precision for config in configs.values())
        return dict.fromkeys(configs, StepSeconds(0, 0.01))

    monkeypatch.setattr(equal_time, "measure_steps", measure)
    text, _ = make_preset(5, ["dt", "bc"], WALKER, "smoke", "runtime.precision=bfloat16")
    assert precisions == ["bfloat16", "bfloat16"]
    assert "--preset smoke --methods dt,bc --set runtime.precision=bfloat16` in trial steps" in text
    assert "precision" not in "".join(line for line in text.splitlines() if not line.startswith("#")), "the run says so"


def test_the_committed_preset_keeps_fairs_ratios_and_names_every_method() -> None:
    for method in sorted(path.stem for path in (PARAMS / "methods").glob("*.yaml")):
        fair, equal = (resolve_config(WALKER, preset=preset, method=method) for preset in ("fair", "equal-time"))
        factor = equal.actor.gradient_steps / fair.actor.gradient_steps
        assert equal.critic.gradient_steps == pytest.approx(factor * fair.critic.gradient_steps, rel=0.02)
        named = f"methods.{method}.actor.gradient_steps" in load_layer(PARAMS / "presets" / "equal-time.yaml")
        assert named, f"give {method} its steps in params/presets/equal-time.yaml: see CONTRIBUTING.md, A method"

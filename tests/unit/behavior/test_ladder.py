"""Training of behaviour policies: what a snapshot is, and that a run goes on where it stopped."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

from vdt.behavior.ladder import (
    LadderSettings,
    change_settings,
    keep_rungs,
    list_ladders,
    load_settings,
    make_command,
    make_ladder,
)
from vdt.behavior.policy import BehaviorLadder, stack_ladder
from vdt.behavior.train import BehaviorRun, BehaviorTraining, take_snapshot
from vdt.checkpoint.store import CheckpointStore
from vdt.config.errors import ConfigError
from vdt.tracking import NullTracker

PPO = BehaviorTraining(
    environment_id="Swimmer-v4",
    algorithm="PPO",
    arguments={"n_steps": 32, "batch_size": 32, "n_epochs": 2, "policy_kwargs": {"net_arch": [8, 8]}},
    normalize=True,
    seed=3,
    environment_steps=256,
    snapshot_every=64,
    parallel_environments=2,
)
SAC = dataclasses.replace(
    PPO,
    algorithm="SAC",
    arguments={"learning_starts": 50, "buffer_size": 500, "policy_kwargs": {"net_arch": [8, 8]}},
    normalize=False,
)


def open_store(folder: Path) -> CheckpointStore:
    return CheckpointStore(folder, interval_seconds=1e9, interval_steps=1, keep=1)


def train(settings: BehaviorTraining, folder: Path) -> BehaviorLadder:
    return BehaviorRun(settings, NullTracker(), open_store(folder)).train()


@pytest.mark.parametrize("settings", [PPO, SAC], ids=["ppo", "sac"])
def test_a_snapshot_acts_as_the_trained_network_does(settings: BehaviorTraining, tmp_path: Path) -> None:
    run = BehaviorRun(settings, NullTracker(), open_store(tmp_path))
    run.train()
    observations = 12 * np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)  # some beyond 10
    seen = run.normalizer.normalize_obs(observations) if run.normalizer is not None else observations
    expected, _ = run.model.predict(seen, deterministic=True)
    snapshot = take_snapshot(run.model, run.normalizer)
    still = np.zeros((5, 2), np.float32)
    np.testing.assert_allclose(np.clip(snapshot.sample_action(observations, still), -1, 1), expected, atol=1e-5)


def test_squashed_actions_need_an_action_range_of_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"act from -1 to 1; InvertedPendulum-v4 takes"):
        BehaviorRun(dataclasses.replace(SAC, environment_id="InvertedPendulum-v4"), NullTracker(), open_store(tmp_path))


@pytest.mark.parametrize("settings", [PPO, SAC], ids=["ppo", "sac"])
def test_a_run_goes_on_from_its_checkpoint(settings: BehaviorTraining, tmp_path: Path) -> None:
    half = train(dataclasses.replace(settings, environment_steps=128), tmp_path)
    run = BehaviorRun(settings, NullTracker(), open_store(tmp_path))
    assert run.start == 128
    if settings.algorithm == "SAC":
        assert run.model.replay_buffer.pos == 64  # 128 steps of two environments
        assert np.abs(run.model.replay_buffer.observations[:64]).max() > 0
    whole = run.train()
    assert whole.environment_steps.tolist() == [0, 64, 128, 192, 256]
    one, other = stack_ladder(half), stack_ladder(whole)
    for name in one:
        assert np.array_equal(one[name], other[name][: len(half.policies)]), name
    assert not np.array_equal(other["w0"][2], other["w0"][4])


@pytest.mark.parametrize("settings", [PPO, SAC], ids=["ppo", "sac"])
def test_an_undisturbed_run_is_a_function_of_its_settings(settings: BehaviorTraining, tmp_path: Path) -> None:
    first, second = (stack_ladder(train(settings, tmp_path / name)) for name in ("a", "b"))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    other = stack_ladder(train(dataclasses.replace(settings, seed=4), tmp_path / "c"))
    assert not np.array_equal(first["w0"], other["w0"])


@pytest.mark.parametrize("name", list_ladders())
def test_committed_settings_are_accepted(name: str) -> None:
    settings = load_settings(name)
    assert settings.keep
    assert settings.keep[-1] * settings.training.snapshot_every <= settings.training.environment_steps


def test_settings_can_be_changed() -> None:
    settings = load_settings("walker2d")
    changed = change_settings(settings, keep="0,2", environment_steps=20_500, seed=7)
    assert (changed.keep, changed.training.environment_steps, changed.training.seed) == ((0, 2), 20_500, 7)
    assert change_settings(settings, keep="all", environment_steps=0, seed=-1).keep == ()
    assert change_settings(settings, keep="", environment_steps=0, seed=-1) == settings
    with pytest.raises(ConfigError, match="--keep must be 'all' or whole numbers"):
        change_settings(settings, keep="0,best", environment_steps=0, seed=-1)


@pytest.mark.parametrize("rungs", [[0, 9], [1, 0], [0, 0]])
def test_rungs_that_do_not_exist_or_rise_are_refused(rungs: list[int], tmp_path: Path) -> None:
    ladder = train(PPO, tmp_path)
    assert len(keep_rungs(ladder, [0, 4]).policies) == 2
    with pytest.raises(ConfigError, match="rising rungs between 0 and 4"):
        keep_rungs(ladder, rungs)


@pytest.mark.parametrize(
    ("keep", "steps", "last"),
    [("", 100_000, 10), ("0,3,12", 119_999, 11), ("3,0", 0, 40), ("-1,3", 0, 40)],
)
def test_rungs_that_the_run_does_not_reach_are_refused_before_it(keep: str, steps: int, last: int) -> None:
    settings = load_settings("hopper")
    assert change_settings(settings, keep="0,3,11", environment_steps=119_999, seed=-1).keep == (0, 3, 11)
    with pytest.raises(ConfigError, match=rf"\(--keep\) must name rising rungs between 0 and {last}, not \["):
        change_settings(settings, keep=keep, environment_steps=steps, seed=-1)


def test_the_command_on_record_has_the_options_given(tmp_path: Path) -> None:
    settings, plain = load_settings("hopper"), "python flows/behavior_flow.py run --ladder hopper"
    assert make_command("hopper", settings, 40_000) == plain
    changed = change_settings(settings, keep="0,3", environment_steps=50_000, seed=5)
    assert make_command("hopper", changed, 9) == (
        f"{plain} --keep 0,3 --environment_steps 50000 --measure_steps 9 --seed 5"
    )
    small = LadderSettings(PPO, 20, (0.0, 100.0), ())
    path = make_ladder(tmp_path, "hopper", small, 40, NullTracker(), open_store(tmp_path / "store"))
    story = json.loads(path.with_suffix(".json").read_text())
    assert story["command"] == f"{plain} --keep all --environment_steps 256 --measure_steps 40 --seed 3"


def test_wrong_settings_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vdt.behavior.ladder.FOLDER", tmp_path)
    good = (
        "{environment_id: X, algorithm: PPO, arguments: {n_steps: 5}, normalize: true, seed: 0, environment_steps: 10, "
    )
    good += "snapshot_every: 5, parallel_environments: 1, horizon: 5, reference_returns: [0, 1], keep: [0]}"
    cases = {
        good.replace("seed: 0", "seed: zero"): "seed must be int, not 'zero'",
        good.replace("seed: 0, ", ""): "no value for seed",
        good.replace("PPO", "DQN"): "algorithm must be PPO or SAC, not 'DQN'",
        good.replace("seed", "sead"): "unknown key 'sead'; did you mean 'seed'",
        good.replace("environments: 1", "environments: 2"): "at least the 10 environment steps of one rollout, not 5",
        good.replace("{n_steps: 5}", "{}"): "at least the 2048 environment steps of one rollout, not 5",
        good.replace("PPO", "SAC").replace(
            "{n_steps: 5}", "{train_freq: 6}"
        ): "at least the 6 environment steps of one",
    }
    for text, message in cases.items():
        (tmp_path / "a.yaml").write_text(text)
        with pytest.raises(ConfigError, match=message):
            load_settings("a")
    (tmp_path / "a.yaml").write_text(good)
    assert load_settings("a").training.algorithm == "PPO"
    (tmp_path / "a.yaml").write_text(good.replace("PPO", "SAC").replace("{n_steps: 5}", "{train_freq: [1, episode]}"))
    assert load_settings("a").training.rollout_steps == 1
    with pytest.raises(ConfigError, match="unknown behaviour settings 'b'"):
        load_settings("b")

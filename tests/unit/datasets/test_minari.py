"""Minari's data sets: made with its own API, read with the environment, the ends and the ranges that it names."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest

from support.data import make_data_config
from support.environments import DICT
from support.minari import PENDULUM, make_minari_set
from vdt.cli import run
from vdt.config.errors import ConfigError
from vdt.config.layers import config_from_yaml
from vdt.data.errors import DataError
from vdt.data.storage import load_snapshot
from vdt.datasets.choose import choose_source
from vdt.datasets.minari import describe_environment, open_sets
from vdt.datasets.minari_folder import get_root, write_beside
from vdt.datasets.snapshot import make_snapshot
from vdt.environments import flatten_observations, make_environment, register_robotics
from vdt.experiments.resolve import resolve_config

ID = "vdttest/pendulum/random-v0"
ENV = f"minari:{ID}"


@pytest.fixture
def changed() -> Iterator[dict[str, Any]]:
    """Metadata of a data set, written back after the test has changed it."""
    make_minari_set(ID)
    path = get_root() / ID / "data" / "metadata.json"
    metadata = json.loads(path.read_text())

    class Metadata(dict[str, Any]):
        def save(self) -> None:
            path.write_text(json.dumps(self))

    return Metadata(metadata)  # type: ignore[return-value]


def test_a_task_is_derived_from_the_data(home: Path) -> None:
    buffers = make_minari_set(ID)
    returns = [sum(buffer.rewards) for buffer in buffers]
    config = resolve_config(ENV, preset="smoke")
    task = config.task
    assert (task.environment_id, task.horizon) == (PENDULUM, 30)
    assert (task.observation_size, task.action_size) == (4, 1)
    assert (task.action_low, task.action_high) == ((-3.0,), (3.0,))
    assert (task.reference_return_min, task.reference_return_max) == (min(returns), max(returns))
    assert task.reference == "the data's own worst and best episode return"
    assert (
        task.candidate_returns[0] == max(returns)
        and list(task.candidate_returns) == sorted(task.candidate_returns)[::-1]
    )
    assert task.return_scale == 10.0  # the best return is 30
    assert config.online.environment_steps == 100  # as the preset says
    shutil.rmtree(get_root())
    assert config_from_yaml(config.to_yaml()) == config, "a stored configuration needs no data"


def test_episodes_are_minaris(home: Path) -> None:
    buffers = make_minari_set(ID)
    snapshot = make_snapshot(resolve_config(ENV, preset="smoke"), home)
    dataset = load_snapshot(Path(snapshot.path))
    assert len(dataset) == len(buffers)
    for episode, buffer in zip(dataset, buffers, strict=True):
        assert np.array_equal(episode.observations, np.float32(buffer.observations)), "with the true final observation"
        np.testing.assert_allclose(episode.actions, np.float32(buffer.actions) / 3.0, atol=1e-6)
        assert episode.terminated == buffer.terminations[-1] != buffer.truncations[-1]
    assert {bool(end) for end in dataset.terminated} == {True, False}
    assert snapshot.source == "minari" and snapshot.label == "minari (not comparable with D4RL)"
    assert any("not comparable with D4RL" in note for note in snapshot.card["notes"])
    first = choose_source(resolve_config(ENV, preset="smoke"), home).key
    shutil.rmtree(get_root())
    make_minari_set(ID, gain=0.2)
    assert choose_source(resolve_config(ENV, preset="smoke"), home).key != first, "the key is that of the content"


def test_actions_reach_the_environment_in_its_own_range() -> None:
    make_minari_set(ID)
    ours, theirs = make_environment(resolve_config(ENV).task), gymnasium.make(PENDULUM)
    seen, _ = ours.reset(seed=3)
    expected, _ = theirs.reset(seed=3)
    for action in (-1.0, 0.5, 0.0):
        seen = ours.step(np.array([action], np.float32))[0]
        expected = theirs.step(np.array([3 * action], np.float32))[0]
        assert np.array_equal(seen, expected)


def test_dict_observations_stand_in_alphabetical_order(home: Path) -> None:
    tree = {"b": np.array([[1, 2], [3, 4]]), "a": {"z": np.array([5]), "c": np.array(6)}}
    assert flatten_observations(tree).tolist() == [6, 5, 1, 2, 3, 4]
    rows = {"b": np.arange(8).reshape(2, 2, 2), "a": {"z": np.full((2, 1), 8), "c": np.array([9, 10])}}
    assert flatten_observations(rows, (2,)).tolist() == [[9, 8, 0, 1, 2, 3], [10, 8, 4, 5, 6, 7]]
    buffers = make_minari_set("dicts-v0", DICT, episodes=3)
    config = resolve_config("minari:dicts-v0", preset="smoke")
    assert config.task.observation_size == 4
    dataset = load_snapshot(Path(make_snapshot(config, home).path))
    environment = make_environment(config.task)
    for seed, (episode, buffer) in enumerate(zip(dataset, buffers, strict=True)):
        observation, _ = environment.reset(seed=seed)
        assert observation.dtype == np.float32 and environment.observation_space.contains(observation)
        assert np.array_equal(episode.observations[0], observation), "data and environment in the same order"
        assert np.array_equal(episode.observations[-1][1:3], buffer.observations["here"]["velocity"][-1])


def test_reference_returns_and_evaluation_environment_of_the_metadata() -> None:
    evaluation = gymnasium.make(PENDULUM, max_episode_steps=77)
    make_minari_set(ID, ref_min_score=3.0, ref_max_score=90.0, eval_env=evaluation)
    task = resolve_config(ENV).task
    assert (task.reference_return_min, task.reference_return_max, task.horizon) == (3.0, 90.0, 77)
    assert task.reference == f"the reference returns of Minari's {ID}"


def test_named_tasks_on_minaris_data(home: Path) -> None:
    """The medium-expert of tasks.md: two data sets end to end, in their environment, scored by D4RL's returns."""
    for name in ("medium-v0", "expert-v0"):
        make_minari_set(f"mujoco/hopper/{name}", "Hopper-v5", episodes=3)
    config = resolve_config("hopper-medium-expert-v2", preset="smoke", source="minari")
    assert (config.task.environment_id, config.task.horizon) == ("Hopper-v5", 30)
    assert config.task.reference_return_max == 3234.3 and config.task.candidate_returns[0] < 500
    snapshot = make_snapshot(config, home)
    assert snapshot.card["episodes"] == 6 and snapshot.label == "minari (not comparable with D4RL)"
    with pytest.raises(ConfigError, match="Minari has no data for hopper-medium-replay-v2"):
        resolve_config("hopper-medium-replay-v2", source="minari")
    shutil.rmtree(get_root() / "mujoco/hopper/expert-v0")
    make_minari_set("mujoco/hopper/expert-v0")
    with pytest.raises(ConfigError, match="have different spaces and cannot be combined"):
        resolve_config("hopper-medium-expert-v2", source="minari")
    assert choose_source(make_data_config("auto", env="hopper-medium-v2"), home).source == "collected"


@pytest.mark.filterwarnings("ignore:.*share an object:UserWarning")  # the environment's goal is always the same array
def test_bridged_tasks_on_minaris_data_are_minaris(home: Path) -> None:
    settings = {"tasks_to_complete": ["microwave", "kettle"], "remove_task_when_completed": False}
    register_robotics()
    make_minari_set("D4RL/kitchen/complete-v2", "FrankaKitchen-v1", episodes=2, limit=4, arguments=settings)
    config = resolve_config("kitchen-complete-v0", preset="smoke", source="minari")
    task = config.task
    assert (task.environment_id, task.horizon, task.bridge) == ("FrankaKitchen-v1", 4, "none")
    assert json.loads(task.environment_kwargs)["tasks_to_complete"] == ["microwave", "kettle"]
    assert task.observation_size == 59 + 2 * 8  # and achieved and desired goal: a door, and a kettle's 7
    assert task.reference.startswith("the data's own return, which all its episodes share"), "no task was completed"
    snapshot = make_snapshot(config, home)
    assert snapshot.label == "minari (not comparable with D4RL)" and not any(
        "paid" in n for n in snapshot.card["notes"]
    )
    assert make_environment(task).reset(seed=0)[0].shape == (75,)


def test_without_an_environment_it_is_offline_only() -> None:
    make_minari_set(ID, with_environment=False)
    config = resolve_config(ENV)
    assert not config.has_environment and config.online.environment_steps == 0 and config.data.held_out_fraction == 0.1
    named = resolve_config(ENV, overrides=f"task.environment_id={PENDULUM}")
    assert named.task.environment_id == PENDULUM


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "observation_space",
            '{"type": "Discrete", "n": 3, "start": 0}',
            "observation_space is, or has a part, of type Dis",
        ),
        ("action_space", '{"type": "Box", "shape": [2, 3]}', "accepted is a Box of one dimension"),
        ("observation_space", "no json", "has no readable observation_space"),
        ("data_format", "zarr", "its data_format is 'zarr'; accepted are hdf5, arrow, parquet"),
        ("env_spec", "[]", "its environment's specification cannot be read"),
        ("env_spec", '{"id": "os:Env-v0"}', "accepted is a registered environment without"),
        (
            "env_spec",
            '{"id": "A-v0", "additional_wrappers": [{"name": "Flatten"}]}',
            r"through the wrappers \['Flatten'\]",
        ),
        ("action_space", '{"type": "Box", "shape": [1], "high": [1]}', r"no readable low and high \('low'\)"),
        ("action_space", '{"type": "Box", "shape": [1], "low": [0, 0], "high": [1]}', "no readable low and high"),
        ("total_episodes", 13, "episode_12 is not a group stored in this file; found there: 'episode_0'"),
        ("total_episodes", 0, "holds no episode"),
    ],
)
def test_metadata_is_read_with_care(changed: Any, key: str, value: Any, message: str) -> None:
    changed[key] = value
    changed.save()
    with pytest.raises(ConfigError, match=message):
        resolve_config(ENV)


@pytest.mark.parametrize("bound", [float(np.finfo(np.float32).max), 1e9])
def test_bounds_far_beyond_the_data_are_none(changed: Any, home: Path, bound: float) -> None:
    own = json.loads(changed["action_space"])
    changed["action_space"] = json.dumps({**own, "low": [-bound], "high": [bound]})
    changed.save()
    config = resolve_config(ENV, preset="smoke")
    actions = load_snapshot(Path(make_snapshot(config, home).path)).actions
    assert config.task.action_high == (1.0,) * len(config.task.action_high), "its actions lie within [-1, 1]"
    assert np.abs(actions).max() > 0.5 and actions.std() > 0.1
    changed["action_space"] = json.dumps({**own, "low": [-500], "high": [500]})
    changed.save()
    assert resolve_config(ENV, preset="smoke").task.action_high == (500.0,), "as the metadata says"


def test_no_entry_point_is_imported_for_a_space_that_is_missing(changed: Any) -> None:
    """Minari itself would make the environment that the metadata names."""
    del changed["observation_space"]
    changed.save()
    with pytest.raises(ConfigError, match="has no readable observation_space"):
        resolve_config(ENV)


def test_images_are_refused_as_images(changed: Any) -> None:
    space = {"type": "Box", "dtype": "uint8", "shape": [32, 32, 3], "low": 0, "high": 255}
    changed["observation_space"] = json.dumps({"type": "Dict", "subspaces": {"camera": space}})
    changed.save()
    with pytest.raises(
        ConfigError, match=r"observation_space .* images \(uint8 of shape \(32, 32, 3\)\); images are not supp"
    ):
        resolve_config(ENV)


def test_what_is_not_here_and_not_within_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"is not at .*HF_HUB_OFFLINE is set.*minari download a/b-v0"):
        resolve_config("minari:a/b-v0")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"its remote cannot be reached \(.*refused"):
        resolve_config("minari:a/b-v0")
    for wrong in ("a/b", "", "../x-v0", "/etc/x-v0", "a//b-v0"):
        with pytest.raises(ConfigError, match="is no id of a Minari data set"):
            resolve_config(f"minari:{wrong}")
    with pytest.raises(ConfigError, match="names its own data; leave --source away"):
        resolve_config("minari:a/b-v0", source="collected")


def test_a_data_set_appears_whole_or_not_at_all() -> None:
    with pytest.raises(KeyboardInterrupt), write_beside(ID):
        make_minari_set(ID)
        raise KeyboardInterrupt
    assert not list(get_root().iterdir())
    with write_beside(ID):
        make_minari_set(ID)
    assert len(minari.load_dataset(ID)) == 12
    with pytest.raises(DataError, match="is there already"), write_beside(ID):
        make_minari_set(ID)


def test_export_is_opened_by_minari_and_its_environment_recovers(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", "walker2d-medium-v2", "--minari", "--preset", "smoke", "--set", "data.steps=500"]
    assert run(words) == 0
    dataset = minari.load_dataset("vdt/walker2d/medium-v0")
    made = load_snapshot(next((home / "data").rglob("trajectories.hdf5")))
    assert "Trajectory" not in repr(dataset[0]) and len(dataset) == len(made)
    for theirs, ours in zip(dataset, made, strict=True):
        assert np.array_equal(theirs.observations, ours.observations)
        assert np.array_equal(theirs.actions, ours.actions) and np.array_equal(theirs.rewards, ours.rewards)
        assert theirs.terminations[-1] == ours.terminated and theirs.truncations[-1] != ours.terminated
        assert not theirs.terminations[:-1].any() and not theirs.truncations[:-1].any()
    environment = dataset.recover_environment()
    assert environment.spec is not None and environment.spec.id == "Walker2d-v4"
    again = load_snapshot(Path(make_snapshot(resolve_config("minari:vdt/walker2d/medium-v0"), home).path))
    assert np.array_equal(again.observations, made.observations) and np.array_equal(again.actions, made.actions)
    assert open_sets(["vdt/walker2d/medium-v0"])[0].get_reference()["task.reference_return_max"] == 4592.3
    for wrong, message in (
        (words, "is there already"),
        (["data", ENV, "--minari"], "only collected data of named tasks"),
    ):
        assert run(wrong) == 2
        assert message in capsys.readouterr().err
    assert {path.name for path in get_root().iterdir()} == {"vdt"}


def test_a_maze_with_other_walls_than_the_datas_is_not_evaluated_in(changed: dict[str, Any]) -> None:
    data, turned = [[1, 1], ["r", 1]], [[1, "g"], [1, 1]]
    for evaluation, chosen in (([[1, 1], ["g", 1]], "eval"), (turned, "data")):
        for key, name, walls in (("env_spec", "data", data), ("eval_env_spec", "eval", evaluation)):
            changed[key] = json.dumps({"id": name, "kwargs": {"maze_map": walls}})
        changed.save()  # type: ignore[attr-defined]
        assert describe_environment(open_sets([ID]))["task.environment_id"] == chosen

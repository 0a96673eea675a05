"""Source `collected`: the data is a function of its settings, and of nothing else."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from support.data import make_data_config
from vdt.behavior.collect import collect_dataset
from vdt.behavior.policy import load_ladder
from vdt.config.layers import PARAMS
from vdt.config.schema import Config
from vdt.data.errors import DataError
from vdt.data.trajectory import TrajectoryDataset
from vdt.datasets.collected import collect_recording, find_ladder, make_collected_key, make_recipe
from vdt.environments import make_gymnasium_environment
from vdt.environments.reproducible import round_states
from vdt.experiments.resolve import resolve_config

LADDER = PARAMS / "behavior" / "walker2d.npz"
ARRAYS = ("observations", "actions", "rewards", "offsets", "terminated")


def collect(
    rungs: tuple[int, ...], steps: int, seed: int = 0, parallel: int = 3, horizon: int = 40
) -> TrajectoryDataset:
    return collect_dataset(
        load_ladder(LADDER),
        rungs,
        lambda: make_gymnasium_environment("Walker2d-v4", horizon),
        steps=steps,
        seed=seed,
        parallel=parallel,
    )


def is_same(one: TrajectoryDataset, other: TrajectoryDataset) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ARRAYS)


def test_same_seed_same_data_whatever_runs_side_by_side() -> None:
    reference = collect((0, 8), 200)
    assert is_same(reference, collect((0, 8), 200))
    assert is_same(reference, collect((0, 8), 200, parallel=1))
    assert is_same(reference, collect((0, 8), 200, parallel=7))
    assert not is_same(reference, collect((0, 8), 200, seed=1))


def test_more_steps_only_add_episodes() -> None:
    short, long = collect((8,), 100), collect((8,), 200)
    rows = len(short.observations)
    assert np.array_equal(long.observations[:rows], short.observations)


def test_whole_episodes_and_equal_shares() -> None:
    dataset = collect((0, 8), 301)
    share = 151  # 301 / 2, rounded up
    first = int(np.searchsorted(np.cumsum(dataset.lengths), share)) + 1  # episodes of rung 0: the fewest that reach it
    assert dataset.lengths[:first].sum() >= share > dataset.lengths[: first - 1].sum()
    assert dataset.lengths[first:].sum() >= share > dataset.lengths[first:-1].sum()
    assert dataset.lengths[:first].mean() < 30 < dataset.lengths[first:].mean()  # the random one falls, the other walks
    cut = dataset.lengths == 40
    assert cut.any() and not dataset.terminated[cut].any() and dataset.terminated[~cut].all()


def test_progress_counts_what_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    """Sixteen episodes run side by side, and as many are kept as hold the steps that were asked for."""
    dataset = collect((0, 8), 200, parallel=16)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"collect: step {dataset.steps}/{dataset.steps} "), last


def test_a_repeated_rung_gives_other_episodes() -> None:
    dataset = collect((8, 8), 160)
    half = len(dataset) // 2
    assert not np.array_equal(dataset[0].observations[0], dataset[half].observations[0])


def test_actions_are_recorded_as_executed() -> None:
    dataset = collect((0,), 60)
    assert np.abs(dataset.actions).max() <= 1.0
    environment = round_states(make_gymnasium_environment("Walker2d-v4", 40))
    seed = int(np.random.SeedSequence([0, 0, 0]).generate_state(1)[0])  # (seed, position, episode)
    episode = dataset[0]
    observation, _ = environment.reset(seed=seed)
    for t, action in enumerate(episode.actions):
        assert np.array_equal(np.asarray(observation, np.float32), episode.observations[t])
        observation, reward, terminated, _, _ = environment.step(action)
        assert np.float32(reward) == episode.rewards[t]
    assert np.array_equal(np.asarray(observation, np.float32), episode.observations[-1])
    assert terminated == episode.terminated
    environment.close()


def test_recording_says_how_it_was_made() -> None:
    config = make_data_config("collected", data__steps=120, task__horizon=40)
    recording = collect_recording(config, LADDER)
    assert recording.dataset.steps >= 120
    assert recording.recipe["snapshots"] == list(config.task.collected.snapshots)
    assert {"seed", "steps", "environment_id", "ladder_sha256", "mujoco"} <= set(recording.recipe)
    assert "not the D4RL data set" in recording.notes[0]


def make_key(config: Config, ladder: Path = LADDER) -> str:
    return make_collected_key(make_recipe(config, ladder))


def test_other_settings_are_another_snapshot(tmp_path: Path) -> None:
    base = make_data_config("collected")
    assert make_key(base) == make_key(base)
    assert make_key(base).startswith("collected-2000-s0-")
    other_ladder = tmp_path / "other.npz"
    other_ladder.write_bytes(LADDER.read_bytes() + b" ")
    others = [
        make_key(make_data_config("collected", data__steps=3000)),
        make_key(make_data_config("collected", data__seed=1)),
        make_key(make_data_config("collected", task__horizon=500)),
        make_key(make_data_config("collected", task__collected__snapshots="[1]")),
        make_key(
            make_data_config(
                "collected",
                task__action_low=f"{[-0.5] * 6}".replace(" ", ""),
                task__action_high=f"{[0.5] * 6}".replace(" ", ""),
            )
        ),
        make_key(base, other_ladder),
    ]
    assert len({make_key(base), *others}) == 7
    assert make_key(make_data_config("collected", critic__expectile=0.8)) == make_key(base)


@pytest.mark.parametrize("rungs", ["[99]", "[-1]", "[]"])
def test_a_rung_that_is_not_there(rungs: str) -> None:
    config = make_data_config("collected", task__collected__snapshots=rungs)
    with pytest.raises(DataError, match=r"task\.collected\.snapshots is .* holds rungs 0 to 11"):
        collect_recording(config, LADDER)


def test_a_ladder_of_another_robot() -> None:
    config = make_data_config("collected", env="hopper-medium-v2", task__collected__snapshots="[0]")
    with pytest.raises(DataError, match="maps 17 observations to 6 actions; hopper-medium-v2 has 11 and 3"):
        collect_recording(config, LADDER)


def test_find_ladder() -> None:
    assert find_ladder(make_data_config("collected")) == LADDER
    assert find_ladder(make_data_config("collected", task__collected__ladder="null")) is None


def test_each_robot_has_two_ladders_of_twelve_rungs() -> None:
    for robot in ("halfcheetah", "hopper", "walker2d"):
        config = resolve_config(f"{robot}-medium-v2", source="collected", overrides="data.ladder=second")
        first, second = (PARAMS / "behavior" / f"{name}.json" for name in (robot, f"{robot}-report"))
        assert find_ladder(config) == second.with_suffix(".npz")
        settings = [json.loads(path.read_text())["settings"] for path in (first, second)]
        assert settings[0]["training"]["algorithm"] != settings[1]["training"]["algorithm"]
        assert settings[0]["training"]["seed"] != settings[1]["training"]["seed"]
        assert [len(each["keep"]) for each in settings] == [12, 12]


def test_second_ladder_is_other_data_of_the_same_rungs() -> None:
    first, second = make_data_config("collected"), make_data_config("collected", data__ladder="second")
    found = find_ladder(second)
    assert found is not None and found.name == "walker2d-report.npz"
    recipes = make_recipe(first, LADDER), make_recipe(second, found)
    differing = {key for key in recipes[0] if recipes[0][key] != recipes[1][key]}
    assert differing == {"ladder", "ladder_sha256"} and recipes[1]["ladder"] == "walker2d-report"
    by_name = make_data_config("collected", task__collected__ladder="walker2d-report")
    assert make_recipe(by_name, found) == recipes[1]
    config = make_data_config("collected")
    gone = dataclasses.replace(config.task.collected, ladder="no-such-ladder")
    assert find_ladder(dataclasses.replace(config, task=dataclasses.replace(config.task, collected=gone))) is None

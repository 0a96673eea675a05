"""Own data that reads well and still misleads: a glitched action, returns that are all alike. The log says it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.data import make_small_config, write_hdf5
from vdt.datasets.action_outliers import find_outliers
from vdt.datasets.snapshot import Snapshot, make_snapshot
from vdt.experiments.resolve import resolve_config

STEPS, EPISODES = 40, 12


def make_arrays(lengths: tuple[int, ...] = (STEPS,) * EPISODES, **changed: Any) -> dict[str, Any]:
    """Episodes in D4RL's schema with two actions within ±1, cut at their ends."""
    rng, ends = np.random.default_rng(1), np.cumsum(lengths) - 1
    rows = sum(lengths)
    return {
        "observations": rng.normal(size=(rows, 3)),
        "actions": rng.uniform(-1, 1, (rows, 2)),
        "rewards": rng.normal(size=rows),
        "terminals": np.zeros(rows, bool),
        "timeouts": np.isin(np.arange(rows), ends),
        **changed,
    }


def snap(path: Path, overrides: str = "", given: tuple[str, ...] = ()) -> Snapshot:
    config = resolve_config(f"data:{path}", preset="smoke", overrides=overrides)
    return make_snapshot(config, path.parent / "home", given)


def get_said(caplog: pytest.LogCaptureFixture, word: str) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records if word in record.getMessage()]


def glitch(actions: np.ndarray, value: float = 1e6) -> np.ndarray:
    """A copy with one value in step 7 of episode 3, component 1."""
    spoilt = actions.copy()
    spoilt[3 * STEPS + 7, 1] = value
    return spoilt


@pytest.mark.parametrize("value", [1e6, -30.0, 1e30])
def test_one_action_that_widens_the_range_is_warned_of_each_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, value: float
) -> None:
    path = write_hdf5(tmp_path / "mine.hdf5", make_arrays(actions=glitch(make_arrays()["actions"], value)))
    for _ in range(2):  # the second time the snapshot is there
        caplog.clear()
        snapshot = snap(path)
        ((level, said),) = get_said(caplog, "a few values widen")
        assert level == "WARNING"
        assert f"1 reaches {value:g} in step 7 of episode 3 (row 127 of all), and at most 0.989789 elsewhere" in said
        assert '--set "task.action_low=[-' in said and "task.action_high=[" in said
        assert not any("widen" in note for note in snapshot.card["notes"])
    caplog.clear()
    snap(path, "task.action_low=[-1,-1] task.action_high=[1,1]", ("task.action_low", "task.action_high"))
    assert get_said(caplog, "a few values widen") == [] and get_said(caplog, "were clipped")


def test_npz_episodes_are_looked_at_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    actions = glitch(make_arrays()["actions"])
    (folder := tmp_path / "mine").mkdir()
    for k in range(EPISODES):
        rows = slice(k * STEPS, (k + 1) * STEPS)
        arrays = {name: values[rows] for name, values in make_arrays(actions=actions).items() if name != "terminals"}
        np.savez(folder / f"{k:02d}.npz", **arrays, terminated=False)
    snap(folder)
    ((_, said),) = get_said(caplog, "a few values widen")
    assert "1 reaches 1e+06 in step 7 of episode 3 (row 127 of all)" in said


NOISE = np.random.default_rng(0)
USUAL = {
    "few steps": NOISE.uniform(-3, 3, (15, 1)),
    "even": NOISE.uniform(-3, 3, (2000, 1)),
    "normal": 5 * NOISE.normal(size=(100_000, 1)),
    "heavy tails": NOISE.standard_t(4, size=(20_000, 1)),
    "bang-bang": NOISE.choice([-5.0, 5.0], (500, 1)),
    "bang-bang and off": NOISE.choice([-5.0, 0.0, 5.0], (500, 1), p=[0.01, 0.98, 0.01]),
    "mostly 0": np.where(NOISE.random((2000, 1)) < 0.004, NOISE.uniform(-9, 9, (2000, 1)), 0.0),
    "0 but once": np.eye(2000, 1) * 50.0,
    "a trigger each episode": np.where(np.arange(2000) % 100 == 50, 40.0, 0.01 * NOISE.normal(size=2000))[:, None],
    "a rare trigger in long episodes": np.where(np.arange(40_000) % 4000 == 50, 40.0, 0.01 * NOISE.normal(size=40_000))[
        :, None
    ],
    "never moves": np.full((500, 1), 2.5),
}


@pytest.mark.parametrize("kind", USUAL)
def test_usual_actions_are_no_outliers(kind: str) -> None:
    actions = USUAL[kind].astype(np.float32)
    length = 4000 if "long" in kind else 100
    lengths = np.full(max(1, len(actions) // length), min(length, len(actions)))
    assert find_outliers(lambda: iter([actions]), lengths) == []


@pytest.mark.parametrize("rows", [30, 150, 2000, 50_000])
@pytest.mark.parametrize("block", [7, 1000, 100_000])
def test_outliers_are_found_in_any_blocks(rows: int, block: int) -> None:
    actions = np.random.default_rng(2).normal(size=(rows, 3)).astype(np.float32)
    actions[rows // 2, 2], count = -1e6, max(1, min(3, rows // 100), rows // 1000)
    actions[rows // 2 : rows // 2 + count, 2] = -1e6

    def read() -> Any:
        return (actions[start : start + block] for start in range(0, rows, block))

    (found,) = find_outliers(read, np.full(10, rows // 10))
    assert (found.component, found.value, found.row, found.count) == (2, -1e6, rows // 2, count)
    assert 1 < found.usual < 6


@pytest.mark.parametrize("kind", ["one reward", "one episode again and again", "sums that rounding alone tells apart"])
def test_equal_returns_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    rng = np.random.default_rng(4)
    episode = rng.normal(size=STEPS).astype(np.float32) + 1
    rewards = {
        "one reward": np.ones(STEPS * EPISODES),
        "one episode again and again": np.tile(episode, EPISODES),
        "sums that rounding alone tells apart": np.concatenate([rng.permutation(episode) for _ in range(EPISODES)]),
    }[kind]
    snapshot = snap(write_hdf5(tmp_path / "mine.hdf5", make_arrays(rewards=rewards)))
    ((level, said),) = get_said(caplog, "have the same return")
    assert (
        level == "WARNING"
        and f"all 12 episodes have the same return, {episode.sum() if 'one r' not in kind else 40:.4g}" in said
    )
    assert "normalized_score means nothing" in said
    assert not any("same return" in note for note in snapshot.card["notes"])
    assert "all its episodes share" in snapshot.card["reference"]
    assert get_said(caplog, "mean normalized_score") == [] and get_said(
        caplog, "SCORE 0 and 100 are the data's own return"
    )


def test_a_scale_that_is_given_makes_a_score_of_equal_returns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_hdf5(tmp_path / "mine.hdf5", make_arrays(rewards=np.ones(STEPS * EPISODES)))
    snapshot = snap(path, "task.reference_return_min=0 task.reference_return_max=80")
    ((_, said),) = get_said(caplog, "have the same return")
    assert "normalized_score" not in said
    assert snapshot.card["normalized_score_mean"] == 50 and get_said(caplog, "mean normalized_score 50.0")


def test_equal_rewards_of_different_lengths_teach_lengths_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lengths = (40, 33, 20, 25, 40)
    snapshot = snap(write_hdf5(tmp_path / "mine.hdf5", make_arrays(lengths, rewards=np.full(sum(lengths), 0.5))))
    ((level, said),) = get_said(caplog, "every reward is 0.5")
    assert level == "INFO" and "only an episode's length can be learned" in said
    assert not any("every reward" in note for note in snapshot.card["notes"])
    caplog.clear()
    snap(write_hdf5(tmp_path / "other.hdf5", make_arrays(lengths)))
    assert get_said(caplog, "every reward") == get_said(caplog, "same return") == []


def test_the_scale_of_a_named_task_stays_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The user's file for a task whose references are known."""
    steps = make_arrays(rewards=np.ones(STEPS * EPISODES))
    steps["observations"], steps["actions"] = steps["observations"][:, :2], steps["actions"][:, :1]
    config = make_small_config(f"path:{write_hdf5(tmp_path / 'mine.hdf5', steps)}", horizon=STEPS)
    make_snapshot(config, tmp_path / "home")
    ((_, said),) = get_said(caplog, "have the same return")
    assert "normalized_score" not in said and get_said(caplog, "mean normalized_score")

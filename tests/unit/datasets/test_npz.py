"""A folder of npz episodes: order, ends, and everything that is refused."""

import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.data import make_small_config
from vdt.config.errors import ConfigError
from vdt.data.errors import DataError
from vdt.data.storage import load_snapshot
from vdt.datasets.choose import choose_source
from vdt.datasets.npz import MAX_BYTES, list_episodes, read_folder
from vdt.datasets.snapshot import make_snapshot
from vdt.experiments.resolve import resolve_config

TASK = make_small_config("collected").task  # S = 2, A = 1


def make_arrays(steps: int, number: int = 0, *, extra: int = 1, terminated: Any = True) -> dict[str, Any]:
    return {
        "observations": np.arange(2.0 * (steps + extra)).reshape(-1, 2) + 100 * number,
        "actions": np.linspace(-1, 1, steps)[:, None],
        "rewards": np.full(steps, float(number)),
        "terminated": terminated,
    }


def write_episode(folder: Path, name: str, **arrays: Any) -> Path:
    folder.mkdir(exist_ok=True)
    np.savez(folder / name, **arrays)
    return folder


def test_episodes_come_in_the_order_of_their_names(tmp_path: Path, home: Path) -> None:
    folder = tmp_path / "mine"
    write_episode(folder, "b.npz", **make_arrays(4, 2, terminated=np.array([False] * 3 + [True])), truncated=False)
    write_episode(folder, "a.npz", **make_arrays(3, 1, terminated=False))
    (folder / "notes.txt").write_text("not an episode")
    snapshot = make_snapshot(make_small_config(f"path:{folder}"), home)
    dataset = load_snapshot(Path(snapshot.path))
    assert dataset.lengths.tolist() == [3, 4] and dataset.terminated.tolist() == [False, True]
    assert dataset.episode_returns.tolist() == [3.0, 8.0]
    assert np.array_equal(dataset[1].observations, make_arrays(4, 2)["observations"])
    first = choose_source(make_small_config(f"path:{folder}"), home).key
    (folder / "b.npz").rename(folder / "c.npz")
    assert choose_source(make_small_config(f"path:{folder}"), home).key != first


def test_final_observation_beside_or_missing(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    write_episode(folder, "0.npz", **make_arrays(3, extra=0, terminated=False), final_observation=np.array([7.0, 8.0]))
    write_episode(folder, "1.npz", **make_arrays(3, 1, extra=0, terminated=False))
    write_episode(folder, "2.npz", **make_arrays(3, extra=0, terminated=True))
    write_episode(folder, "3.npz", **make_arrays(1, 1, extra=0, terminated=False))
    recording = read_folder(folder, TASK, {})
    assert recording.dataset.lengths.tolist() == [3, 3, 3, 1], "every step is kept"
    assert recording.dataset.episode_returns.tolist() == [0.0, 3.0, 0.0, 1.0], "and every reward"
    assert recording.dataset.final_missing.tolist() == [False, True, False, True]
    assert recording.dataset[0].observations[-1].tolist() == [7.0, 8.0]
    assert recording.dataset[1].observations[-1].tolist() == [104.0, 105.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": None}, "rewards missing, found: 'actions', 'observations', 'terminated'; accepted are npz files"),
        (
            {"observations": np.zeros((6, 2))},
            r"'observations' has shape \(6, 2\); accepted beside 3 rewards is \(3, 2\) or \(4, 2\)",
        ),
        ({"observations": np.zeros((4, 3))}, r"'observations' has shape \(4, 3\)"),
        ({"actions": np.zeros((3, 2))}, r"'actions' has shape \(3, 2\); accepted beside 3 rewards is \(3, 1\)"),
        ({"rewards": np.zeros(0)}, "'rewards' is empty, so the episode has no step; leave the file out"),
        (
            {"rewards": np.array([1.0, np.nan, np.inf])},
            r"x\.npz: 'rewards' has 2 values that are not finite, the first in row 1 \(nan\); accepted are finite float32",
        ),
        (
            {"observations": np.array([[0, 0], [0, 0], [0, -1e60], [0, 1e60]])},
            r"'observations' has 2 values that are too large for float32, the first in row 2 \(-1e\+60\); accepted are",
        ),
        (
            {"actions": np.array([[1e60], [np.nan], [0]])},
            r"'actions' has 2 values that are not finite or too large for float32, the first in row 0 \(1e\+60\); acc",
        ),
        ({"actions": np.array([["a"]] * 3)}, "'actions' is <U1 of shape .* accepted are real numbers"),
        ({"actions": np.array([[None]] * 3)}, "accepted are real numbers"),
        ({"terminated": np.zeros((3, 2))}, r"'terminated' has shape .* is \(\) or \(1,\) or \(3,\)"),
        ({"terminated": 2.0}, "'terminated' holds 2 in row 0; accepted are 0 and 1"),
        ({"terminated": np.array([0, 0, -1])}, "'terminated' holds -1 in row 2; accepted are 0 and 1"),
        (
            {"terminated": np.array([False, True, True])},
            r"x\.npz: 'terminated' is set in row 1 of rows 0 to 2, .* accepted is a real end in the last row alone",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    arrays = {name: value for name, value in {**make_arrays(3), **change}.items() if value is not None}
    folder = write_episode(tmp_path / "mine", "x.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read_folder(folder, TASK, {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"observations": np.zeros(4)},
            r"'observations' has shape \(4,\); accepted beside 3 .* is \(3, S\) or \(4, S\)",
        ),
        ({"actions": np.zeros((4, 2))}, r"'actions' has shape \(4, 2\); accepted beside 3 rewards is \(3, A\)$"),
        (
            {"actions": np.arange(3)},
            r"one whole number a row: discrete actions are not supported; .* continuous ones, \(3, A\)",
        ),
        ({"actions": np.linspace(0, 1, 3)}, r"'actions' has shape \(3,\); accepted beside 3 rewards is \(3, A\)"),
        (
            {"observations": np.zeros((4, 8, 8, 3), np.uint8)},
            r"images \(uint8 of shape \(4, 8, 8, 3\)\); images are not supported, accepted are vectors",
        ),
        (
            {"observations": np.zeros((4, 3))},
            r"'observations' has shape \(4, 3\); the files before have another size, 2",
        ),
    ],
)
def test_shapes_of_own_data_name_the_file_that_is_odd(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    for k in range(2):
        write_episode(tmp_path / "mine", f"{k}.npz", **make_arrays(3, k))
    write_episode(tmp_path / "mine", "last.npz", **{**make_arrays(3), **change})
    with pytest.raises(ConfigError, match=rf"last\.npz: .*{message}"):
        resolve_config(f"data:{tmp_path / 'mine'}")


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no \.npz file"):
        read_folder(tmp_path, TASK, {})
    (tmp_path / "x.npz").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match="not a whole npz file"):
        read_folder(tmp_path, TASK, {})
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        header = {"descr": "<f8", "fortran_order": False, "shape": (2**40, 2)}
        with archive.open("observations.npy", "w") as file:
            np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]
    with pytest.raises(
        DataError, match=r"observations' is float64 of shape \(1099511627776, 2\); accepted are .* 1 GiB"
    ):
        read_folder(tmp_path, TASK, {})
    assert MAX_BYTES == 2**30


def test_an_extension_in_capitals_is_an_episode_too(tmp_path: Path) -> None:
    for name in ("a.npz", "b.NPZ"):
        with (tmp_path / name).open("wb") as file:
            np.savez(file, **make_arrays(2))
    (tmp_path / "notes.txt").write_text("none")
    assert [path.name for path in list_episodes(tmp_path)] == ["a.npz", "b.NPZ"]


def test_arrays_of_other_names_are_listed(tmp_path: Path) -> None:
    folder = write_episode(tmp_path / "mine", "x.npz", obs=np.zeros((3, 2)), act=np.zeros((3, 1)), reward=np.zeros(3))
    with pytest.raises(
        DataError, match="observations, actions, rewards, terminated missing, found: 'act', 'obs', 'reward';"
    ):
        read_folder(folder, TASK, {})


@pytest.mark.parametrize("top", [1, 4])
def test_numbers_of_discrete_actions_are_refused_unless_they_have_a_range(tmp_path: Path, top: int) -> None:
    folder = tmp_path / "mine"
    for k in range(2):
        write_episode(folder, f"{k}.npz", **{**make_arrays(5, k), "actions": np.arange(5.0)[:, None] % (top + 1)})
    with pytest.raises(ConfigError, match=rf"whole numbers from 0 to {top}, like .* discrete .*action_high=\[{top}\]"):
        resolve_config(f"data:{folder}")
    ranges = f"task.action_low=[0] task.action_high=[{top}]"
    assert resolve_config(f"data:{folder}", overrides=ranges).task.action_high == (top,)
    write_episode(folder, "2.npz", **{**make_arrays(5, 2), "actions": np.full((5, 1), 0.5)})
    assert resolve_config(f"data:{folder}").task.action_size == 1


@pytest.mark.parametrize(
    ("limits", "given", "shown", "low", "high"),
    [
        ([3, 0.5], "", "[-3, 3], [-0.5, 0.5]", "[-3,-0.5]", "[3,0.5]"),
        ([0.4, 0.5], "", "[-1, 1] each", "[-1,-1]", "[1,1]"),
        ([0.4], "task.action_low=[0] task.action_high=[2]", "[0, 2]", "[0]", "[2]"),
        ([2, *[0.5] * 6], "", "[-2, 2], [-0.5, 0.5], [-0.5, 0.5] and 4 more", "[…]", "[…]"),
    ],
)
def test_the_range_of_own_actions_is_announced(
    tmp_path: Path,
    home: Path,
    caplog: pytest.LogCaptureFixture,
    limits: list[float],
    given: str,
    shown: str,
    low: str,
    high: str,
) -> None:
    for k in range(2):
        actions = np.linspace(-1, 1, 5)[:, None] * limits
        write_episode(tmp_path / "mine", f"{k}.npz", **{**make_arrays(5, k), "actions": actions})
    caplog.set_level(logging.INFO)
    make_snapshot(resolve_config(f"data:{tmp_path / 'mine'}", preset="smoke", overrides=given), home)
    (said,) = [line for line in caplog.text.splitlines() if line.startswith("ACTIONS")]
    assert said == (
        f"ACTIONS are scaled from {shown}, the policy's range; if the actuators differ: "
        f'--set "task.action_low={low} task.action_high={high}"'
    )


def test_a_task_with_a_known_range_announces_none(tmp_path: Path, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_episode(tmp_path / "mine", "0.npz", **make_arrays(3, 1))
    caplog.set_level(logging.INFO)
    make_snapshot(make_small_config(f"path:{tmp_path / 'mine'}"), home)
    assert "from source PATH" in caplog.text and "ACTIONS" not in caplog.text


def test_episodes_that_come_after_the_facts_were_read_are_left_out(
    tmp_path: Path, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "mine"
    caplog.set_level(logging.INFO)
    for k in range(2):
        write_episode(folder, f"{k}.npz", **make_arrays(3, k + 1))
    config = resolve_config(f"data:{folder}", preset="smoke")
    late = {**make_arrays(9, 5), "actions": np.linspace(-4, 4, 9)[:, None]}
    write_episode(folder, "2.npz", **late)
    snapshot = make_snapshot(config, home)
    assert load_snapshot(Path(snapshot.path)).lengths.tolist() == [3, 3] and snapshot.card["clipped_actions"] == 0
    assert "1 episodes came to" in caplog.text and "2.npz and later" in caplog.text
    assert snapshot.card["recipe"]["sha256"] == config.task.d4rl_sha256
    (folder / "2.npz").unlink()
    assert make_snapshot(resolve_config(f"data:{folder}", preset="smoke"), home).path == snapshot.path, "the same data"
    write_episode(folder, "2.npz", **late)
    grown = resolve_config(f"data:{folder}", preset="smoke")
    assert grown.task.horizon == 9 and make_snapshot(grown, home).card["episodes"] == 3


@pytest.mark.parametrize("change", ["another content", "one before the others", "one less"])
def test_other_changes_after_the_facts_were_read_are_refused(tmp_path: Path, home: Path, change: str) -> None:
    folder = tmp_path / "mine"
    for k in range(3):
        write_episode(folder, f"{k}.npz", **make_arrays(3, k + 1))
    config = resolve_config(f"data:{folder}", preset="smoke")
    if change == "one less":
        (folder / "1.npz").unlink()
    else:
        write_episode(folder, "1.npz" if change == "another content" else "0a.npz", **make_arrays(9, 5))
    with pytest.raises(
        DataError, match=r"mine: changed after the run had begun .* was last written, .* begin a new run"
    ):
        make_snapshot(config, home)
    assert not list((home / "data").rglob("*.hdf5"))


def test_what_is_read_is_what_the_key_names(tmp_path: Path, home: Path) -> None:
    folder = write_episode(tmp_path / "mine", "0.npz", **make_arrays(3, 1))
    choice = choose_source(make_small_config(f"path:{folder}"), home)
    write_episode(folder, "1.npz", **make_arrays(4, 2))
    assert choice.load().dataset.lengths.tolist() == [3], "as listed"
    choice = choose_source(make_small_config(f"path:{folder}"), home)
    write_episode(folder, "1.npz", **make_arrays(5, 2))
    with pytest.raises(DataError, match=r"1\.npz was last written"):
        choice.load()


def test_data_without_an_environment(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    write_episode(folder, "0.npz", **make_arrays(3, 1))
    with pytest.raises(ConfigError, match="holds one episode; accepted are at least 2"):
        resolve_config(f"data:{folder}")
    write_episode(folder, "1.npz", **{**make_arrays(5, 2), "actions": np.linspace(-4, 4, 5)[:, None]})
    task = resolve_config(f"data:{folder}").task
    assert (task.observation_size, task.action_size, task.horizon, task.environment_id) == (2, 1, 5, None)
    assert (task.action_low, task.action_high) == ((-4.0,), (4.0,)), "all actions count, none is clipped"
    assert (task.reference_return_min, task.reference_return_max) == (3.0, 10.0)
    write_episode(folder, "2.npz", **{**make_arrays(5, 2), "actions": np.zeros((5, 2))})
    with pytest.raises(ConfigError, match="the files before have another size"):
        resolve_config(f"data:{folder}")


def test_recordings_that_a_horizon_cuts_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    for number, steps in enumerate((3, 5, 2)):
        write_episode(folder, f"{number}.npz", **make_arrays(steps, number))
    cut = read_folder(folder, TASK, {}, horizon=2)
    assert cut.dataset.lengths.tolist() == [2, 1, 2, 2, 1, 2]
    assert cut.notes == [
        "2 recordings were longer than 2 steps and were cut into episodes of that length (task.horizon)"
    ]
    assert read_folder(folder, TASK, {}, horizon=5).notes == []

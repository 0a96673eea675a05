"""Snapshots: written once, atomically, versioned by a real DVC repository."""

import dataclasses
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from support.data import ROOT, find_real_file, make_data_config, make_small_config, make_steps, write_hdf5
from vdt.config.schema import Config
from vdt.data.errors import DataError
from vdt.data.storage import load_snapshot, write_trajectories
from vdt.data.trajectory import TrajectoryDataset
from vdt.datasets.card import describe_doubts, format_card
from vdt.datasets.snapshot import Snapshot, make_snapshot
from vdt.system.files import compute_file_digest
from vdt.system.home import FolderError


def make_dataset(steps: int = 9) -> TrajectoryDataset:
    generator = np.random.default_rng(0)
    actions = np.tanh(generator.standard_normal((steps + 2, 1))).astype(np.float32)
    actions[[3, -1]] = 0.0
    rewards = generator.standard_normal(steps + 2).astype(np.float32)
    rewards[[3, -1]] = 0.0
    observations = generator.standard_normal((steps + 2, 2)).astype(np.float32)
    return TrajectoryDataset(observations, actions, rewards, np.array([0, 4, steps + 2]), np.array([True, False]))


def make_file_config(tmp_path: Path) -> Config:
    """Source path: a hand-made file of two episodes, returns 0+1+2+3 and 4+5+6+7."""
    path = write_hdf5(tmp_path / "hand.hdf5", make_steps(8, terminals=(3,), timeouts=(7,)))
    return make_small_config(f"path:{path}")


def read_dvc_file(snapshot: Snapshot) -> dict[str, object]:
    outs = yaml.safe_load(Path(f"{snapshot.path}.dvc").read_text())["outs"]
    assert len(outs) == 1
    return dict(outs[0])


def test_round_trip_and_equal_bytes(tmp_path: Path) -> None:
    dataset = make_dataset()
    for name in ("a", "b"):
        write_trajectories(tmp_path / name, dataset, {"z": 1, "a": [2.5]})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    loaded = load_snapshot(tmp_path / "a")
    for name in ("observations", "actions", "rewards", "offsets", "terminated"):
        one, other = getattr(dataset, name), getattr(loaded, name)
        assert np.array_equal(one, other) and one.dtype == other.dtype, name
    with h5py.File(tmp_path / "a") as file:
        assert all(file[name].chunks is None for name in ("observations", "actions", "rewards"))


@pytest.mark.parametrize("git", [True, False], ids=["with git", "without git"])
@pytest.mark.parametrize("initialised", [True, False], ids=["with dvc", "without dvc"])
def test_md5_is_that_of_dvc(tmp_path: Path, git: bool, initialised: bool) -> None:
    home = tmp_path / "home"
    home.mkdir()
    if git:
        subprocess.run(["git", "init", "-q", str(home)], check=True)
    if initialised:
        shutil.copytree(ROOT / ".dvc", home / ".dvc", ignore=lambda *_: ["cache", "tmp"])
    snapshot = make_snapshot(make_file_config(tmp_path), home)
    recorded = read_dvc_file(snapshot)
    assert recorded["md5"] == snapshot.md5 == compute_file_digest(Path(snapshot.path), "md5")
    assert recorded["size"] == snapshot.size == Path(snapshot.path).stat().st_size
    cached = home / ".dvc" / "cache" / "files" / "md5" / snapshot.md5[:2] / snapshot.md5[2:]
    assert cached.read_bytes() == Path(snapshot.path).read_bytes()
    if git:
        command = ["git", "-C", str(home), "diff", "--cached", "--name-only"]
        staged = subprocess.run(command, capture_output=True, check=True)
        assert staged.stdout == b""  # nothing is committed, nothing staged


def test_second_time_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = make_file_config(tmp_path)
    first = make_snapshot(config, tmp_path / "home")
    before = os.stat(first.path)
    second = make_snapshot(config, tmp_path / "home")
    after = os.stat(first.path)
    assert second == first
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert capsys.readouterr().out.count("from source PATH") == 2


def test_card(tmp_path: Path) -> None:
    """Two episodes of 4 steps: return 0+1+2+3 = 6 that ends, 4+5+6+7 = 22 that is cut, its final observation missing."""
    config = make_file_config(tmp_path)
    card = make_snapshot(config, tmp_path / "home").card
    assert (card["episodes"], card["steps"], card["terminated_share"]) == (2, 8, 0.5)
    assert card["return_mean"] == 14
    assert card["return_quantiles"]["min"] == 6 and card["return_quantiles"]["max"] == 22
    assert card["return_quantiles"]["50%"] == 14 and card["length_quantiles"]["75%"] == 4
    reference = (config.task.reference_return_min, config.task.reference_return_max)
    assert card["normalized_score_mean"] == pytest.approx(100 * (14 - reference[0]) / (reference[1] - reference[0]))
    assert card["action_max"] == np.float32(0.07) and card["clipped_actions"] == 0
    assert "was given" in card["reason"] and card["recipe"]["file"] == "hand.hdf5"
    json.dumps(card)
    text = format_card(card)
    for part in (
        "2 episodes, 8 steps",
        "source `path`",
        "mean return 14.0",
        "hand.hdf5",
        card["reason"],
        card["licence"],
    ):
        assert part in text


def test_scores_are_on_the_scale_of_the_run_not_of_the_one_that_made_the_snapshot(tmp_path: Path) -> None:
    """The file stays as it is; mean return 14, as in `test_card`."""
    config = make_file_config(tmp_path)
    first = make_snapshot(config, tmp_path / "home")
    task = dataclasses.replace(config.task, reference_return_min=10.0, reference_return_max=15.0, reference="own")
    second = make_snapshot(dataclasses.replace(config, task=task), tmp_path / "home")
    assert (second.path, second.md5) == (first.path, first.md5)
    assert second.card["normalized_score_mean"] == pytest.approx(80.0) and second.card["reference"] == "own"
    assert second.card["normalized_score_standard_error"] == pytest.approx(100 * 8 / 5)  # returns 6 and 22


def make_constant_dataset(rewards: list[float], actions: list[list[float]]) -> TrajectoryDataset:
    """Two episodes of two steps; their last rows, which do not count, hold other numbers."""
    return TrajectoryDataset(
        np.zeros((6, 1), np.float32),
        np.insert(np.array(actions, np.float32), [2, 4], 0.9, axis=0),
        np.insert(np.array(rewards, np.float32), [2, 4], 7.0),
        np.array([0, 3, 6]),
        np.array([True, True]),
    )


def test_data_that_nothing_can_be_learned_from_is_doubted() -> None:
    task, moving = make_small_config("collected").task, [[0.1], [0.2], [0.3], [0.4]]
    assert describe_doubts(make_constant_dataset([0, 0, 0, 1], moving), task) == []
    (said,) = describe_doubts(make_constant_dataset([0, 0, 0, 0], moving), task)
    assert said.startswith("every reward is 0, so all episodes have the same return: ")
    still = [[0.5, 0.1, 0.0], [0.5, 0.2, 0.0], [0.5, 0.3, 0.0], [0.5, 0.4, 0.0]]
    (said,) = describe_doubts(make_constant_dataset([0, 0, 0, 1], still), task)
    assert said.startswith("action components that never change (counted from 0): 0 is always 0.5, 2 is always 0; ")
    scaled = dataclasses.replace(task, action_low=(-1.0,), action_high=(3.0,))
    (said,) = describe_doubts(make_constant_dataset([0, 0, 0, 1], [[0.5]] * 4), scaled)
    assert "(counted from 0): 0 is always 2; " in said, "in the actuators' units"


def test_collected_twice_has_the_same_md5(tmp_path: Path) -> None:
    config = make_data_config("collected", data__steps=150, task__horizon=40)
    snapshots = [make_snapshot(config, tmp_path / name) for name in ("one", "two")]
    assert snapshots[0].md5 == snapshots[1].md5
    assert make_snapshot(config, tmp_path / "one") == snapshots[0]  # read back: the same card
    assert snapshots[0].source == "collected" and "--source collected" in snapshots[0].reason
    other = make_snapshot(
        make_data_config("collected", data__steps=150, task__horizon=40, data__seed=1), tmp_path / "one"
    )
    assert other.path != snapshots[0].path and other.md5 != snapshots[0].md5


def test_another_md5_than_the_recorded_one_is_in_log_and_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_data_config("collected", data__steps=150, task__horizon=40)
    usual = make_snapshot(config, tmp_path / "home")
    said = capsys.readouterr().out
    assert "was recorded" not in said + str(usual.card)
    assert said.count("no md5 is recorded for this recipe (150 steps, seed 0); not compared") == 1
    recorded = {Path(usual.path).parent.name: {"md5": "0" * 32, "versions": {"mujoco": "2.0"}}}
    (tmp_path / "checksums.json").write_text(json.dumps(recorded))
    monkeypatch.setattr("vdt.datasets.checksums.CHECKSUMS", tmp_path / "checksums.json")
    unusual = make_snapshot(config, tmp_path / "home")
    said = f"the data has md5 {usual.md5}, but this recipe gave {'0' * 32} where it was recorded, with mujoco 2.0"
    logged = capsys.readouterr().out
    assert said in logged and "no md5 is recorded" not in logged
    assert any(said in note for note in unusual.card["notes"]) and unusual.md5 == usual.md5


def make_in_process(config: Config, home: Path, queue: "multiprocessing.Queue[tuple[str, int]]") -> None:
    snapshot = make_snapshot(config, home)
    queue.put((snapshot.md5, os.stat(snapshot.path).st_ino))


def test_two_processes_make_it_once(tmp_path: Path) -> None:
    config = make_data_config("collected", data__steps=150, task__horizon=40)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    arguments = (config, tmp_path / "home", queue)
    processes = [context.Process(target=make_in_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert results[0] == results[1]  # the same file, not written a second time


def test_a_changed_snapshot_is_noticed(tmp_path: Path) -> None:
    config = make_file_config(tmp_path)
    snapshot = make_snapshot(config, tmp_path / "home")
    write_trajectories(Path(snapshot.path), make_dataset())
    with pytest.raises(DataError, match=f"records {snapshot.md5}: it is not the file that was versioned"):
        make_snapshot(config, tmp_path / "home")


def test_a_snapshot_that_was_not_versioned_is_finished(tmp_path: Path) -> None:
    """As after a kill between writing and `dvc add`."""
    config = make_file_config(tmp_path)
    snapshot = make_snapshot(config, tmp_path / "home")
    Path(f"{snapshot.path}.dvc").unlink()
    assert make_snapshot(config, tmp_path / "home") == snapshot
    assert read_dvc_file(snapshot)["md5"] == snapshot.md5


def test_bad_data_leaves_nothing_behind(tmp_path: Path) -> None:
    steps = make_steps(8, terminals=(3,))
    steps["rewards"][5] = np.nan
    config = make_small_config(f"path:{write_hdf5(tmp_path / 'bad.hdf5', steps)}")
    with pytest.raises(DataError, match="'rewards' has 1 values that are not finite"):
        make_snapshot(config, tmp_path / "home")
    assert not list((tmp_path / "home" / "data").rglob("*"))
    assert not (tmp_path / "home" / ".dvc").exists()


def test_returns_beyond_float32_are_refused(tmp_path: Path) -> None:
    steps = make_steps(8, terminals=(3, 7))
    steps["rewards"][4:7] = np.float32(1.5e38)
    config = make_small_config(f"path:{write_hdf5(tmp_path / 'large.hdf5', steps)}")
    with pytest.raises(
        DataError, match=r"rewards of episode 1 add up to 4\.5e\+38; accepted are returns within float32"
    ):
        make_snapshot(config, tmp_path / "home")
    steps["rewards"][4:7] = np.float32(1e38)
    make_snapshot(make_small_config(f"path:{write_hdf5(tmp_path / 'fits.hdf5', steps)}"), tmp_path / "home")


def test_episodes_that_are_trained_on_need_a_target(tmp_path: Path) -> None:
    """One episode of 20 steps, and one of a single step whose next observation is missing."""
    (folder := tmp_path / "mine").mkdir()
    for number, steps in enumerate((20, 1)):
        rows = {"observations": np.ones((steps, 2)), "actions": np.linspace(-1, 1, steps)[:, None]}
        np.savez(folder / f"{number}.npz", **rows, rewards=np.ones(steps), terminated=False)
    messages = []
    for seed in range(6):
        config = make_small_config(f"path:{folder}", data__held_out_fraction="0.5", data__seed=str(seed))
        try:
            make_snapshot(config, tmp_path / "home")
        except DataError as error:
            messages.append(str(error))
    assert 0 < len(messages) < 6, "either is held out"
    assert all("data.keep_best_fraction leave to train on: none of the 1 steps" in message for message in messages)


def test_own_observations_in_tiny_units_are_warned_of_in_the_log_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    steps = make_steps(8, terminals=(3, 7))
    steps["observations"][:, 1] *= 1e-8
    config = make_small_config(f"path:{write_hdf5(tmp_path / 'tiny.hdf5', steps)}")
    snapshot = make_snapshot(config, tmp_path / "home")
    (said,) = [record for record in caplog.records if "observation components that vary" in record.message]
    assert said.levelname == "WARNING" and not any("vary" in note for note in snapshot.card["notes"])


def test_actions_beyond_the_range_given_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    steps = make_steps(8, terminals=(3, 7))
    steps["actions"][:] = 0.5
    steps["actions"][:2] = -0.9
    path = write_hdf5(tmp_path / "beyond.hdf5", steps)
    for low, share in ((-1.0, None), (-0.6, "25.00%")):
        caplog.clear()
        config = make_small_config(f"path:{path}", task__action_low=f"[{low}]", task__action_high="[1.0]")
        make_snapshot(config, tmp_path / "home")
        said = [record for record in caplog.records if "clipped to the nearest end" in record.message]
        assert [share is not None and share in record.message for record in said] == [True] * (share is not None)
        assert all(record.levelname == "WARNING" and "2 action components" in record.message for record in said)


@pytest.mark.parametrize("blocked", ["data", "data/walker2d-medium-v2"])
def test_unwritable_folder_before_any_work(tmp_path: Path, blocked: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A file where a folder must be: unlike permissions, it stops every user."""
    config = make_data_config("collected", data__steps=10_000)
    home = tmp_path / "home"
    (home / blocked).parent.mkdir(parents=True)
    (home / blocked).touch()
    with pytest.raises(FolderError, match=r"cannot write to .*data.*VDT_HOME"):
        make_snapshot(config, home)
    assert "collect: step" not in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["cut", "text", "foreign", "offsets", "lengths"])
def test_damaged_snapshot(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "trajectories.hdf5"
    write_trajectories(path, make_dataset(2000))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-5000])
    elif damage == "text":
        path.write_text("nothing of the kind")
    elif damage == "foreign":
        write_hdf5(path, make_steps(4))
    else:
        with h5py.File(path, "a") as file:
            del file["offsets" if damage == "offsets" else "rewards"]
            if damage == "lengths":
                file["rewards"] = np.zeros(3, np.float32)
    with pytest.raises(DataError, match=r"trajectories\.hdf5"):
        load_snapshot(path)
    with pytest.raises(FileNotFoundError, match="no snapshot at"):
        load_snapshot(tmp_path / "nothing.hdf5")


def test_real_file_becomes_a_snapshot(tmp_path: Path) -> None:
    path = find_real_file("episodes/walker2d-v4-expert.hdf5")
    snapshot = make_snapshot(make_data_config(f"path:{path}"), tmp_path / "home")
    dataset = load_snapshot(Path(snapshot.path))
    assert (len(dataset), dataset.steps) == (2, 2000)
    assert snapshot.card["normalized_score_mean"] > 90
    with h5py.File(path) as file:
        assert np.array_equal(dataset[0].rewards, file["rewards"][:1000])


def run_module(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vdt.cli", "data", *arguments]
    environment = {**os.environ, "VDT_HOME": str(home), "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=home.parent, env=environment, capture_output=True, text=True)


def test_command_line(tmp_path: Path) -> None:
    source = find_real_file("episodes/walker2d-v4-expert.hdf5")
    done = run_module(tmp_path / "home", "walker2d-medium-v2", "--source", f"path:{source}")
    assert done.returncode == 0, done.stderr
    assert "from source PATH" in done.stdout
    written = json.loads((tmp_path / "home" / "reports" / "walker2d-medium-v2" / "dataset.json").read_text())
    assert written["md5"] == written["md5"].lower() and written["card"]["episodes"] == 2
    wrong = run_module(tmp_path / "home", "walker2d-medum-v2")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: unknown env 'walker2d-medum-v2'; did you mean 'walker2d-medium-v2'")
    assert "Traceback" not in wrong.stderr

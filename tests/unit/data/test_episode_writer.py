"""Episodes written on a robot: what the reader gets back, what is refused, and what a kill leaves."""

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vdt
from vdt.data.storage import load_snapshot
from vdt.data.trajectory import TrajectoryDataset
from vdt.datasets.npz import read_folder
from vdt.datasets.snapshot import make_snapshot
from vdt.experiments.resolve import resolve_config

ROOT = Path(__file__).resolve().parents[3]


def read(folder: Path) -> TrajectoryDataset:
    """What `--env data:FOLDER` trains on."""
    config = resolve_config(f"data:{folder}", overrides="task.action_low=[-1] task.action_high=[1]")
    return read_folder(folder, config.task, {}).dataset


def play(writer: vdt.EpisodeWriter, steps: int, **end: bool) -> Path | None:
    """Record an episode whose k-th observation is (k, -k), action k / 100 and reward k."""
    writer.begin([0, 0])
    path = None
    for k in range(steps):
        path = writer.add([k / 100], float(k), np.array([k + 1.0, -k - 1.0]), **(end if k == steps - 1 else {}))
    return path


def test_the_reader_gets_back_what_happened(tmp_path: Path, home: Path) -> None:
    writer = vdt.EpisodeWriter(tmp_path / "logs" / "robot")
    first, second = play(writer, 3, terminated=True), play(writer, 4, truncated=True)
    assert (first, second) == tuple(writer.folder / f"episode-0000000{k}.npz" for k in (0, 1))
    assert play(writer, 2) is None
    third = writer.end()
    assert (writer.observation_size, writer.action_size) == (2, 1)
    dataset = read(writer.folder)
    assert dataset.lengths.tolist() == [3, 4, 2] and dataset.terminated.tolist() == [True, False, False]
    assert not dataset.final_missing.any(), "the last observation is recorded"
    assert dataset[1].observations.tolist() == [[k, -k] for k in range(5)]
    assert dataset[1].actions.tolist() == pytest.approx(np.array([[0.0], [0.01], [0.02], [0.03]]))
    assert dataset[1].rewards.tolist() == [0, 1, 2, 3]
    assert third.name == "episode-00000002.npz"
    config = resolve_config(f"data:{writer.folder}")
    snapshot = make_snapshot(config, home)
    assert load_snapshot(Path(snapshot.path)).episode_returns.tolist() == [3.0, 6.0, 1.0]


def test_whole_episodes_with_and_without_the_last_observation(tmp_path: Path) -> None:
    writer = vdt.EpisodeWriter(tmp_path)
    arrays = np.arange(8.0).reshape(4, 2), np.zeros((3, 1)), [1, 2, 3]
    writer.write(*arrays, terminated=False)
    writer.write(arrays[0][:3], *arrays[1:], terminated=False)
    writer.write(arrays[0][:3], *arrays[1:], terminated=np.True_)
    dataset = read(tmp_path)
    assert dataset.final_missing.tolist() == [False, True, False]
    assert dataset.terminated.tolist() == [False, False, True]
    assert dataset[0].observations[-1].tolist() == [6.0, 7.0]


def test_a_later_writer_goes_on_and_never_overwrites(tmp_path: Path) -> None:
    one = vdt.EpisodeWriter(tmp_path)
    path = play(one, 2, terminated=True)
    assert path is not None
    (tmp_path / "episode-00000007.npz").write_bytes(path.read_bytes())
    (tmp_path / "notes.txt").write_text("of the operator")
    other = vdt.EpisodeWriter(tmp_path)
    assert (other.observation_size, other.action_size) == (2, 1)
    written = [play(writer, 3, truncated=True) for writer in (other, one, other)]
    assert [p.name for p in written if p] == [f"episode-{k:08d}.npz" for k in (8, 9, 10)]
    assert len(read(tmp_path)) == 5


def test_a_number_that_another_writer_holds_is_left_to_it(tmp_path: Path) -> None:
    (tmp_path / ".episode-00000000.npz.part").write_bytes(b"of a writer that is still at it")
    path = play(vdt.EpisodeWriter(tmp_path), 2, terminated=True)
    assert path == tmp_path / "episode-00000001.npz"
    assert (tmp_path / ".episode-00000000.npz.part").exists()


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    code = (
        f"import vdt; writer = vdt.EpisodeWriter({str(tmp_path)!r})\n"
        "for k in range(40): writer.write([[0], [1]], [[0.5]], [1], terminated=True)"
    )
    running = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(2)]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    assert len(list(tmp_path.glob("*.npz"))) == 80 and not list(tmp_path.glob(".*"))


def test_a_kill_leaves_whole_episodes_alone(tmp_path: Path) -> None:
    """Killed while it writes, again and again: the reader takes all that is there."""
    code = (
        f"import vdt, numpy as np; writer = vdt.EpisodeWriter({str(tmp_path)!r}); print('ready', flush=True)\n"
        "while True: writer.write(np.ones((20001, 16)), np.zeros((20000, 1)), np.ones(20000), terminated=False)"
    )
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stdout.readline()
            before = set(tmp_path.iterdir())
            while set(tmp_path.iterdir()) == before:
                assert process.poll() is None
            os.kill(process.pid, signal.SIGKILL)
    left = len(list(tmp_path.glob(".*.part")))
    writer = vdt.EpisodeWriter(tmp_path)
    writer.write(np.ones((2, 16)), [[0.5]], [1], terminated=True)
    writer.write(np.ones((2, 16)), [[0.5]], [1], terminated=True)
    dataset = read(tmp_path)
    assert set(dataset.lengths.tolist()) <= {1, 20000} and dataset.terminated.tolist()[-2:] == [True, True]
    assert len(list(tmp_path.glob(".*.part"))) == left, "what a kill left is no episode and blocks none"


FINE = ([0.5], 1.0, [1.0, 2.0])
BAD_STEPS: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    (([0.5, 0.5], 1.0, [1.0, 2.0]), {}, r"action must be 1 numbers, as before, not of shape \(2,\)"),
    ((0.5, 1.0, [1.0, 2.0]), {}, r"action must be 1 numbers, as before, not of shape \(\)"),
    (([np.nan], 1.0, [1.0, 2.0]), {}, r"action\[0\] is not a finite float32 number: nan"),
    (([0.5], np.inf, [1.0, 2.0]), {}, "reward is not a finite float32 number: inf"),
    (([0.5], [1.0, 2.0], [1.0, 2.0]), {}, "reward must be one number"),
    (([0.5], None, [1.0, 2.0]), {}, "reward must be numbers, not NoneType"),
    (([0.5], 1.0, [1.0]), {}, r"observation must be 2 numbers, as before, not of shape \(1,\)"),
    (([0.5], 1.0, [1.0, 1e300]), {}, r"observation\[1\] is not a finite float32 number: inf"),
    (([0.5], 1.0, [[1.0, 2.0]]), {}, "observation must be 2 numbers"),
    (FINE, {"terminated": 1}, "terminated must be true or false, not 1"),
    (FINE, {"truncated": np.array([True])}, "truncated must be true or false"),
]


@pytest.mark.parametrize(("step", "flags", "said"), BAD_STEPS, ids=[said[:40] for *_, said in BAD_STEPS])
def test_a_wrong_step_is_named_and_changes_nothing(
    tmp_path: Path, step: tuple[Any, ...], flags: dict[str, Any], said: str
) -> None:
    writer = vdt.EpisodeWriter(tmp_path)
    writer.begin([0.0, 0.0])
    writer.add(*FINE)
    with pytest.raises(ValueError, match=said):
        writer.add(*step, **flags)
    assert not list(tmp_path.iterdir())
    writer.add(*FINE, terminated=True)
    assert read_lengths(tmp_path) == [2]


def test_a_failed_write_leaves_the_episode_as_it_was(tmp_path: Path) -> None:
    """The disk is full: no file may grow beyond 100 bytes."""
    writer = vdt.EpisodeWriter(tmp_path)
    writer.begin([0.0, 0.0])
    writer.add(*FINE)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        for _ in range(2):
            with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
                writer.add([0.25], 3.0, [4.0, 5.0], terminated=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())
    path = writer.add([0.25], 3.0, [4.0, 5.0], terminated=True)
    assert path is not None and np.load(path)["rewards"].tolist() == [1.0, 3.0]
    assert (
        np.load(path)["observations"].tolist() == [[0.0, 0.0], [1.0, 2.0], [4.0, 5.0]] and np.load(path)["terminated"]
    )


def test_a_folder_that_cannot_be_synced_has_its_episode_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Some network file systems refuse to sync a folder."""
    sync = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        sync(descriptor)

    writer = vdt.EpisodeWriter(tmp_path)
    monkeypatch.setattr(os, "fsync", refuse_folders)
    assert play(writer, 2, terminated=True) == tmp_path / "episode-00000000.npz"
    assert "its folder cannot be synced ([Errno 22] Invalid argument)" in caplog.text
    assert play(writer, 3, truncated=True) is not None and read_lengths(tmp_path) == [2, 3]


def test_ctrl_c_after_an_episode_is_there_keeps_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes while the folder is synced; `end` in a `finally` must not write the same steps again."""
    sync = os.fsync

    def interrupt_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise KeyboardInterrupt
        sync(descriptor)

    writer = vdt.EpisodeWriter(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt_folders)
        with pytest.raises(KeyboardInterrupt):
            play(writer, 3, terminated=True)
    with pytest.raises(RuntimeError, match="there is no step to keep"):
        writer.end()
    assert read_lengths(tmp_path) == [3]


def read_lengths(folder: Path) -> list[int]:
    return [len(np.load(path)["rewards"]) for path in sorted(folder.glob("*.npz"))]


BAD_EPISODES: list[tuple[tuple[Any, ...], Any, str]] = [
    (([[0, 0]] * 5, [[0]] * 3, [1] * 3), True, r"observations must have shape \(4, 2\) or \(3, 2\) beside 3 rewards"),
    (([[0, 0]] * 4, [[0]] * 2, [1] * 3), True, r"actions must have shape \(3, 1\) beside 3 rewards, not \(2, 1\)"),
    (([[0, 0, 0]] * 4, [[0]] * 3, [1] * 3), True, r"observations must have shape \(4, 2\).*not \(4, 3\)"),
    (([[0, 0]] * 4, [0] * 3, [1] * 3), True, r"actions must have shape"),
    (([[0, 0]], [], []), True, r"rewards must be \(T,\) with at least one step, not of shape \(0,\)"),
    (([[0, 0]] * 4, [[0]] * 3, [[1]] * 3), True, r"rewards must be \(T,\)"),
    (([[0, 0]] * 4, [[0]] * 3, [1, np.nan, 1]), True, r"rewards\[1\] is not a finite float32 number: nan"),
    (([[0, 0]] * 4, [[0]] * 3, ["a"] * 3), True, "rewards must be numbers"),
    (([[0, 0]] * 4, [[0]] * 3, [1] * 3), [False, True], "terminated must be true or false"),
]


@pytest.mark.parametrize(("arrays", "terminated", "said"), BAD_EPISODES, ids=[said[:40] for *_, said in BAD_EPISODES])
def test_a_wrong_episode_is_named_and_not_written(
    tmp_path: Path, arrays: tuple[Any, ...], terminated: Any, said: str
) -> None:
    play(vdt.EpisodeWriter(tmp_path), 2, terminated=True)
    with pytest.raises(ValueError, match=said):
        vdt.EpisodeWriter(tmp_path).write(*arrays, terminated=terminated)
    assert [path.name for path in tmp_path.iterdir()] == ["episode-00000000.npz"]


def test_order_of_calls_and_what_is_not_kept(tmp_path: Path) -> None:
    writer = vdt.EpisodeWriter(tmp_path)
    with pytest.raises(RuntimeError, match=r"call begin\(observation\) before add\(\)"):
        writer.add(*FINE)
    with pytest.raises(RuntimeError, match="there is no step to keep"):
        writer.end()
    writer.begin([9.0, 9.0])
    writer.begin([0.0, 0.0])  # no step was taken: the robot was put back
    writer.add(*FINE)
    with pytest.raises(RuntimeError, match="the episode before has 1 steps and no end"):
        writer.begin([0.0, 0.0])
    writer.discard()
    with pytest.raises(RuntimeError, match=r"call begin\(observation\) before add\(\)"):
        writer.add(*FINE)
    assert not list(tmp_path.iterdir())
    (tmp_path / "episode-00000000.npz").write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match=r"episode-00000000\.npz is no episode that can be read"):
        vdt.EpisodeWriter(tmp_path)


def test_recorded_numbers_are_copies(tmp_path: Path) -> None:
    """A robot's driver may fill the same buffer again and again."""
    writer, seen = vdt.EpisodeWriter(tmp_path), np.zeros(2, np.float32)
    writer.begin(seen)
    for k in range(1, 4):
        seen += 1
        writer.add([k / 10], 1.0, seen, truncated=k == 3)
    play(writer, 2, terminated=True)
    assert read(tmp_path)[0].observations[:, 0].tolist() == [0.0, 1.0, 2.0, 3.0]


def test_needs_numpy_alone(tmp_path: Path) -> None:
    blocked = (
        "torch metaflow mlflow dvc minari gymnasium mujoco matplotlib pandas h5py scipy typer yaml pydantic filelock"
    )
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked.split()!r}));"
        f"import vdt; writer = vdt.EpisodeWriter({str(tmp_path)!r}); writer.begin([0.0]);"
        "print(writer.add([0.5], 1.0, [1.0], terminated=True).name)"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120, stdout=subprocess.PIPE)
    assert said.stdout.decode().strip() == "episode-00000000.npz"

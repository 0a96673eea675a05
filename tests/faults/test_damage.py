"""Whole flows whose files are damaged, read-only or locked: what is said, and the result after the cause is gone."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.faults import Flow, Kill, assert_same_outcome, find_newest_step, make_words, mount_tmpfs, wait_for_moment

pytestmark = pytest.mark.faults

HOLD_DVC = """
import sys
from dvc.repo import Repo
repo = Repo.init(sys.argv[1], no_scm=True)
with repo.lock:
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    flow = Flow(tmp_path_factory.mktemp("undisturbed"), *make_words())
    assert flow.wait() == 0, flow.output[-6000:]
    return flow.folder / "home"


def run_until(folder: Path, kill: Kill) -> Flow:
    """A flow that was killed there."""
    flow = Flow(folder, *make_words())
    pid = wait_for_moment(flow, kill)
    assert pid is not None, flow.output[-6000:]
    subprocess.run(["kill", "-9", str(pid)], check=True)
    assert flow.wait() != 0
    return flow


def resume(flow: Flow, *step: str) -> Flow:
    again = Flow(flow.folder, "resume", *step, "--origin-run-id", flow.run_id)
    again.wait()
    print("\n".join(line for line in again.output.splitlines() if "WARNING" in line or "error:" in line))
    return again


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit])
def test_the_newest_checkpoint_is_damaged(tmp_path: Path, undisturbed: Path, damage: Callable[[Path], None]) -> None:
    flow = run_until(tmp_path, Kill("train_actor", 0.6))
    newest = find_newest_step(tmp_path / "home", flow.run_id, "train_actor")
    files = (tmp_path / "home").glob(f".vdt/checkpoints/VDTFlow/{flow.run_id}/train_actor/*/*{newest}.*.pt")
    damage(next(files))
    again = resume(flow)
    assert again.process.returncode == 0, again.output[-6000:]
    assert f"{newest}." in again.output and "damaged" in again.output
    print(assert_same_outcome(tmp_path / "home", undisturbed))


def test_a_file_between_two_steps_is_cut(tmp_path: Path, undisturbed: Path) -> None:
    flow = run_until(tmp_path, Kill("tune_online", 0.2))
    (buffer,) = (tmp_path / "home").glob(".vdt/checkpoints/VDTFlow/*/seed_buffer/*/buffer.hdf5")
    truncate(buffer)
    failed = resume(flow)
    assert failed.process.returncode == 1
    assert f"{buffer}, made by an earlier step, is gone or changed; resume from the step that makes it" in failed.output
    again = resume(flow, "seed_buffer")
    assert again.process.returncode == 0, again.output[-6000:]
    print(assert_same_outcome(tmp_path / "home", undisturbed))


def test_the_home_folder_becomes_read_only(tmp_path: Path, undisturbed: Path) -> None:
    home = tmp_path / "home"
    with mount_tmpfs(home, 256):
        flow = Flow(tmp_path, *make_words())
        assert wait_for_moment(flow, Kill("train_actor", 0.3)) is not None
        subprocess.run(
            ["mount", "--bind", str(home), str(home)], check=True
        )  # what is open stays writable, as on a real disk
        subprocess.run(["mount", "-o", "remount,bind,ro", str(home)], check=True)
        assert flow.wait() == 1
        print("\n".join(line for line in flow.output.splitlines() if "WARNING" in line or "error:" in line))
        assert "Read-only file system" in flow.output
        subprocess.run(["umount", str(home)], check=True)
        again = resume(flow)
        assert again.process.returncode == 0, again.output[-6000:]
        print(assert_same_outcome(home, undisturbed))


@contextlib.contextmanager
def hold_dvc(home: Path) -> Iterator[None]:
    """Another process with DVC's own lock."""
    home.mkdir()
    command = [sys.executable, "-c", HOLD_DVC, str(home)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and "held\n" in iter(process.stdout.readline, "")
        yield
        assert process.stdin is not None
        process.stdin.close()


def test_dvc_is_locked_by_another_process(tmp_path: Path, undisturbed: Path) -> None:
    with hold_dvc(tmp_path / "home"):
        flow = Flow(tmp_path, *make_words())
        while "DVC is locked by another process" not in flow.output:
            assert flow.process.poll() is None, flow.output[-6000:]
            time.sleep(0.1)
    assert flow.wait() == 0, flow.output[-6000:]
    print(assert_same_outcome(tmp_path / "home", undisturbed))

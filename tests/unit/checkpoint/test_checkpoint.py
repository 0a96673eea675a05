import json
import math
import os
import resource
import signal
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from vdt.checkpoint.names import CheckpointError
from vdt.checkpoint.store import CheckpointStore, DivergenceError, load_state
from vdt.system.files import compute_file_digest
from vdt.system.home import FolderError
from vdt.system.processes import SAVE, save_request


def make_store(folder: Path, *ancestors: Path, keep: int = 3, continue_finished: bool = False) -> CheckpointStore:
    return CheckpointStore(
        folder, ancestors, interval_seconds=1e9, interval_steps=10, keep=keep, continue_finished=continue_finished
    )


def make_state(step: int) -> dict[str, object]:
    return {"step": step, "weights": torch.full((3,), float(step))}


def list_steps(folder: Path) -> list[int]:
    return sorted(int(p.name.split(".")[0]) for p in folder.glob("*.pt"))


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # one bit
    path.write_bytes(content)


def test_everything_that_a_training_state_holds_comes_back(tmp_path: Path) -> None:
    state = {
        "network": {"weight": torch.randn(2, 3), "steps": torch.tensor(5)},
        "optimizer": {"state": {0: {"exp_avg": torch.randn(2)}}, "param_groups": [{"lr": 3e-4, "betas": (0.9, 0.999)}]},
        "random": {"torch": torch.get_rng_state(), "numpy": np.random.default_rng(3).bit_generator.state},
        "config": "env: é\n",
        "none": None,
        "flag": True,
    }
    loaded = load_state(make_store(tmp_path).save(1, state))
    assert torch.equal(loaded["network"]["weight"], state["network"]["weight"])  # type: ignore[index]
    assert torch.equal(loaded["random"]["torch"], state["random"]["torch"])  # type: ignore[index]
    assert loaded["random"]["numpy"] == state["random"]["numpy"]  # type: ignore[index]
    assert loaded["optimizer"]["param_groups"] == state["optimizer"]["param_groups"]  # type: ignore[index]
    assert (loaded["config"], loaded["none"], loaded["flag"]) == ("env: é\n", None, True)


def test_keeps_the_newest_and_finds_them(tmp_path: Path) -> None:
    store = make_store(tmp_path, keep=2)
    for step in (10, 20, 100):
        store.save(step, make_state(step))
    assert list_steps(tmp_path) == [20, 100]
    again = make_store(tmp_path)
    state = again.load_latest()
    assert state is not None and state["step"] == 100
    assert again.last is not None and again.last.name.startswith("000000100.")
    assert not [p for p in tmp_path.iterdir() if p.suffix == ".part"]


def test_name_carries_the_digest(tmp_path: Path) -> None:
    path = make_store(tmp_path).save(10, make_state(10))
    assert path.name == f"000000010.{compute_file_digest(path, 'sha256')[:16]}.pt"


@pytest.mark.parametrize(
    "name", ["hopper.medium-replay-v2.pt", "walker.0123456789abcdef.pt", "000000010.of-my-own-robot.pt"]
)
def test_a_file_may_have_any_other_name(tmp_path: Path, name: str) -> None:
    """What stands between the dots is a digest in the names that the store gives alone."""
    path = make_store(tmp_path).save(10, make_state(10))
    assert load_state(path.rename(tmp_path / name))["step"] == 10
    renamed = (tmp_path / name).rename(tmp_path / "000000010.0123456789abcdef.pt")
    with pytest.raises(CheckpointError, match="damaged"):
        load_state(renamed)


def test_due_when_another_process_asks(tmp_path: Path) -> None:
    store, before = (
        CheckpointStore(tmp_path, interval_seconds=1e9, interval_steps=10**9, keep=1),
        signal.getsignal(SAVE),
    )
    assert not store.is_due(1)
    save_request.listen()
    try:
        os.kill(os.getpid(), SAVE)
        assert [store.is_due(step) for step in (2, 3)] == [True, False]
    finally:
        signal.signal(SAVE, before)


def test_due_by_steps_and_by_time(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    assert [store.is_due(step) for step in (0, 9, 10, 11)] == [False, False, True, True]
    store.save(10, make_state(10))
    assert [store.is_due(step) for step in (19, 20)] == [False, True]
    resumed = make_store(tmp_path)
    resumed.load_latest()
    assert [resumed.is_due(step) for step in (19, 20)] == [False, True]
    timed = CheckpointStore(tmp_path, interval_seconds=0.05, interval_steps=10**9, keep=1)
    assert not timed.is_due(5)
    time.sleep(0.06)
    assert timed.is_due(5)
    timed.save(5, make_state(5))
    assert not timed.is_due(6)


def test_damage_is_noticed_and_the_one_before_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_store(tmp_path)
    paths = [store.save(step, make_state(step)) for step in (10, 20)]
    damage(paths[1])
    with pytest.raises(CheckpointError, match="damaged"):
        load_state(paths[1])
    resumed = make_store(tmp_path, keep=1)
    state = resumed.load_latest()
    assert state is not None and state["step"] == 10
    assert "damaged" in capsys.readouterr().out
    resumed.save(15, make_state(15))  # keeps what was just written, not the damaged file of a higher step
    assert list_steps(tmp_path) == [15]


def test_truncated_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = make_store(tmp_path).save(10, make_state(10))
    renamed = tmp_path / "mine.pt"
    renamed.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(CheckpointError, match=r"mine\.pt is not a readable checkpoint"):
        load_state(renamed)
    torch.save({"path": Path("/")}, renamed)
    with pytest.raises(CheckpointError, match="more than plain tensors"):
        load_state(renamed)
    torch.save([1], renamed)
    with pytest.raises(CheckpointError, match="must hold a mapping, not list"):
        load_state(renamed)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_state(tmp_path / "absent.pt")


def test_checkpoints_of_the_last_version_are_refused_by_name(tmp_path: Path) -> None:
    torch.save({"brain": {"config": "env: walker2d-medium-v2"}, "step": 3}, tmp_path / "actor.pt")
    with pytest.raises(CheckpointError, match=r"written by version 0\.1; .* train again"):
        load_state(tmp_path / "actor.pt")


def test_a_file_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(1_000_000)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as source,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for item in source.infolist():
            packed.writestr(item.filename, source.read(item))
    with pytest.raises(
        CheckpointError, match=r"bomb\.pt is not a readable checkpoint: it would unpack to 4\d{6} bytes"
    ):
        load_state(tmp_path / "bomb.pt")
    torch.save({"weights": torch.zeros(1).expand(1_000_000)}, tmp_path / "view.pt")
    with pytest.raises(CheckpointError, match="claim more memory than the file has bytes"):
        load_state(tmp_path / "view.pt")


def test_ancestors_are_read_nearest_first_and_never_written(tmp_path: Path) -> None:
    oldest, middle, own = (tmp_path / name for name in ("oldest", "middle", "own"))
    make_store(oldest).save(10, make_state(10))
    store = make_store(own, middle, oldest)  # the middle run died before its first checkpoint
    state = store.load_latest()
    assert state is not None and state["step"] == 10
    store.save(12, make_state(12))
    make_store(middle).save(30, make_state(30))
    state = make_store(own, middle, oldest).load_latest()
    assert state is not None and state["step"] == 12, "a run's own checkpoint goes before its ancestors'"
    assert (list_steps(oldest), list_steps(middle), list_steps(own)) == ([10], [30], [12])


def test_a_finished_ancestor_means_a_fresh_start(tmp_path: Path) -> None:
    first, second, own = (tmp_path / name for name in ("first", "second", "own"))
    make_store(first).save(10, make_state(10))
    path = make_store(second).finish(40, make_state(40))
    assert (second / "DONE").read_text().strip() == path.name
    assert make_store(own, second, first).load_latest() is None
    state = make_store(own, second, first, continue_finished=True).load_latest()
    assert state is not None and state["step"] == 40
    state = make_store(second).load_latest()
    assert state is not None and state["step"] == 40, "a retry of the same run keeps its result"


def test_no_checkpoint(tmp_path: Path) -> None:
    assert make_store(tmp_path / "a", tmp_path / "b").load_latest() is None


# Numbers that go wrong


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_state_that_is_not_finite_is_never_written(tmp_path: Path, bad: float) -> None:
    store = make_store(tmp_path)
    with pytest.raises(DivergenceError, match=r"weights is not finite at step 5 .* none: this step saved nothing yet"):
        store.save(5, {**make_state(5), "weights": torch.tensor([1.0, bad])})
    good = store.save(10, make_state(10), score=1.0)
    for save in (store.save, store.finish):
        with pytest.raises(DivergenceError, match=f"optimizer.state.0.1 is not finite at step 20 .*{good.name}"):
            save(20, {"optimizer": {"state": [[0.0, bad]]}}, 99.0)
    assert list_steps(tmp_path) == [10] and not (tmp_path / "DONE").exists()
    assert json.loads((tmp_path / "BEST").read_text())["name"] == good.name
    state = make_store(tmp_path).load_latest()
    assert state is not None and state["step"] == 10


# The best


def test_the_best_is_kept_beside_the_newest_over_kills(tmp_path: Path) -> None:
    old, own = tmp_path / "old", tmp_path / "own"
    store = make_store(old, keep=1)
    for step, score in ((10, 1.0), (20, 5.0), (30, 2.0)):
        store.save(step, make_state(step), score)
    assert list_steps(old) == [20, 30]
    resumed = make_store(own, old, keep=1)
    resumed.save(40, make_state(40), 4.0)
    best = resumed.find_best()
    assert not (own / "BEST").exists() and best is not None, "40 is not the best: the ancestor has a better one"
    assert best.parent == old and best.name.startswith("000000020.")
    fifty, _ = (resumed.save(step, make_state(step), score) for step, score in ((50, 6.0), (60, 3.0)))
    assert list_steps(own) == [50, 60] and resumed.find_best() == fifty
    assert json.loads((own / "BEST").read_text())["score"] == 6.0
    again = resumed.save(70, make_state(70), 6.0)
    assert resumed.find_best() == again, "a score that is met again was made again"
    assert list_steps(own) == [70] and list_steps(old) == [20, 30]


# Faults


def test_other_versions_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_store(tmp_path).save(10, make_state(10))
    assert load_state(path)["versions"]["numpy"] == np.__version__
    make_store(tmp_path).load_latest()
    assert "WARNING" not in capsys.readouterr().out
    content = torch.load(path, weights_only=True)
    content["versions"]["numpy"] = "1.0.0"
    path.unlink()
    torch.save(content, tmp_path / "10.pt")  # no digest in its name
    make_store(tmp_path).load_latest()
    assert "written with other versions (numpy 1.0.0 -> " in capsys.readouterr().out


def test_a_full_disk_costs_no_checkpoint(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk; the error and what is left are the same."""
    store = make_store(tmp_path)
    good = store.save(10, make_state(10))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(FolderError, match=rf"cannot write checkpoint .*last good checkpoint is .*{good.name}"):
            store.save(20, {"weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(path.name for path in tmp_path.iterdir()) == [good.name, "SECONDS"]
    store.save(20, make_state(20))
    state = make_store(tmp_path).load_latest()
    assert state is not None and state["step"] == 20


def test_what_a_kill_left_half_written_is_removed_and_never_read(tmp_path: Path) -> None:
    path = make_store(tmp_path).save(10, make_state(10))
    (tmp_path / f".000000020.{path.name.split('.')[1]}.pt.abc.part").write_bytes(path.read_bytes()[:100])
    state = make_store(tmp_path).load_latest()
    assert state is not None and state["step"] == 10
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, "SECONDS"]


def test_writing_takes_a_small_share_of_the_time(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, interval_seconds=0.0, interval_steps=10**9, keep=1)
    began = time.monotonic()
    store.save(1, {"weights": torch.zeros(300_000)})
    took = time.monotonic() - began
    assert not store.is_due(2), "however short the interval"
    time.sleep(took / 0.02)
    assert store.is_due(2)


def test_a_step_knows_what_it_took_in_the_runs_that_it_continues(tmp_path: Path) -> None:
    first = make_store(tmp_path / "first")
    first.clock.began -= 100.0  # it began so long ago
    first.save(10, make_state(10))
    first.clock.began -= 50.0  # lost with the kill
    second = make_store(tmp_path / "second", tmp_path / "first")
    assert second.clock.before == 0.0
    second.load_latest()
    assert second.clock.before == pytest.approx(100, abs=5)
    second.clock.began -= 30.0
    elsewhere = second.move_to(tmp_path / "shared")
    elsewhere.finish(20, make_state(20))
    third = make_store(tmp_path / "third", tmp_path / "shared", continue_finished=True)
    third.load_latest()
    assert third.clock.before == pytest.approx(130, abs=5) and third.clock.read() >= third.clock.before


def test_checkpoints_of_an_older_version_took_nothing(tmp_path: Path) -> None:
    make_store(tmp_path / "first").save(10, make_state(10))
    (tmp_path / "first" / "SECONDS").unlink()
    store = make_store(tmp_path / "second", tmp_path / "first")
    assert store.load_latest() is not None and store.clock.before == 0.0

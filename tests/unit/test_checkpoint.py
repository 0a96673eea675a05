import time
from pathlib import Path

import numpy as np
import pytest
import torch

from vdt.files import compute_file_digest
from vdt.training.checkpoint import CheckpointError, CheckpointStore, load_state


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
    assert again.loaded_from is not None and again.loaded_from.name.startswith("000000100.")
    assert not [p for p in tmp_path.iterdir() if p.suffix == ".part"]


def test_name_carries_the_digest(tmp_path: Path) -> None:
    path = make_store(tmp_path).save(10, make_state(10))
    assert path.name == f"000000010.{compute_file_digest(path, 'sha256')[:16]}.pt"


def test_due_by_steps_and_by_time(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    assert [store.due(step) for step in (0, 9, 10, 11)] == [False, False, True, True]
    store.save(10, make_state(10))
    assert [store.due(step) for step in (19, 20)] == [False, True]
    resumed = make_store(tmp_path)
    resumed.load_latest()
    assert [resumed.due(step) for step in (19, 20)] == [False, True]
    timed = CheckpointStore(tmp_path, interval_seconds=0.05, interval_steps=10**9, keep=1)
    assert not timed.due(5)
    time.sleep(0.06)
    assert timed.due(5)
    timed.save(5, make_state(5))
    assert not timed.due(6)


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

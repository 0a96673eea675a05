"""Whole flows against a full disk, and several at once on a fresh home."""

import contextlib
import time
from pathlib import Path

import pytest

from support.faults import Flow, assert_same_outcome, find_newest_step, make_words, mount_tmpfs
from vdt.tracking import open_store

pytestmark = pytest.mark.faults


def test_a_full_disk_stops_with_one_line_and_loses_nothing(tmp_path: Path) -> None:
    undisturbed = Flow(tmp_path / "undisturbed", *make_words())
    assert undisturbed.wait() == 0, undisturbed.output[-6000:]
    with mount_tmpfs(tmp_path / "small" / "home", 64):
        flow = Flow(tmp_path / "small", *make_words())
        home, ballast = tmp_path / "small" / "home", tmp_path / "small" / "home" / "ballast"
        deadline = time.monotonic() + 1800
        while "Workflow starting" not in flow.output or not find_newest_step(home, flow.run_id, "train_actor"):
            assert flow.process.poll() is None and time.monotonic() < deadline, flow.output[-6000:]
            time.sleep(0.01)
        with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        assert flow.wait() == 1
        errors = [line for line in flow.output.splitlines() if "error: cannot write" in line]
        print("\n".join(line for line in flow.output.splitlines() if "WARNING" in line or "error:" in line))
        assert errors and "No space left on device" in errors[0]
        assert "resume --origin-run-id" in flow.output
        ballast.unlink()
        again = Flow(tmp_path / "small", "resume", "--origin-run-id", flow.run_id)
        assert again.wait() == 0, again.output[-6000:]
        print(assert_same_outcome(home, tmp_path / "undisturbed" / "home"))


def test_five_flows_at_once_on_a_fresh_home(tmp_path: Path) -> None:
    flows = [Flow(tmp_path, *make_words(seeds=str(seed))) for seed in range(5)]
    for flow in flows:
        assert flow.wait() == 0, flow.output[-6000:]
    client = open_store(tmp_path / "home")
    experiment = client.get_experiment_by_name("vdt")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert sorted((run.info.status, run.data.params["seed"]) for run in runs) == [
        ("FINISHED", str(s)) for s in range(5)
    ]
    curves = [sorted(m.step for m in client.get_metric_history(run.info.run_id, "critic/q_loss")) for run in runs]
    assert len(curves[0]) == 400 and all(curve == curves[0] for curve in curves)

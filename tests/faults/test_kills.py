"""A short fault campaign, and the whole one behind the marker `faults`."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.faults import (
    RUN_ID,
    STARTED,
    TOTALS,
    Flow,
    Kill,
    assert_same_outcome,
    find_newest_point,
    find_newest_step,
    make_words,
    run_with_kills,
    wait_for_moment,
)
from vdt.system.home import ROOT
from vdt.tracking import open_store


def test_three_kills_in_a_row_change_nothing(tmp_path: Path) -> None:
    undisturbed = Flow(tmp_path / "undisturbed", *make_words())
    kills = [
        Kill("pretrain_critic", 0.3, "step", moment="uncovered"),
        Kill("train_actor", 0.2, "parent", signal.SIGKILL),
        Kill("tune_online", 0.2, "parent", signal.SIGTERM, "write"),
    ]
    outcomes = []
    for kill, outcome in run_with_kills(tmp_path / "killed", kills):
        outcomes.append(outcome)
        if kill is kills[0]:
            check_the_failed_run(tmp_path / "killed")
    assert undisturbed.wait() == 0, undisturbed.output[-6000:]
    assert "missed" not in outcomes
    print(assert_same_outcome(tmp_path / "killed" / "home", tmp_path / "undisturbed" / "home"))
    check_the_first_resume(tmp_path / "killed")
    check_a_stopped_repeat(undisturbed)


def check_a_stopped_repeat(finished: Flow) -> None:
    """A finished run stays finished where a repeat of one of its steps is stopped; the repeat's own has failed."""
    repeat = Flow(finished.folder, "resume", "train_actor", "--origin-run-id", finished.run_id)
    pid = wait_for_moment(repeat, Kill("train_actor", 0.3, "parent"))
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    assert repeat.wait() != 0
    client = open_store(finished.folder / "home")
    experiment = client.get_experiment_by_name("vdt")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
    assert [run.info.status for run in runs] == ["FINISHED", "FAILED"]


def check_the_failed_run(folder: Path) -> None:
    """Its curve goes beyond its newest checkpoint; MLflow says FAILED, and the terminal how to go on."""
    home, output = folder / "home", (folder / "log-0.txt").read_text()
    (run_id,) = RUN_ID.findall(output)
    checkpoint = find_newest_step(home, run_id, "pretrain_critic")
    assert 0 < checkpoint < find_newest_point(home, "pretrain_critic") < TOTALS["pretrain_critic"]
    client = open_store(home)
    experiment = client.get_experiment_by_name("vdt")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
    assert re.search(rf"^\s+VDT_HOME=\S+ .* resume --origin-run-id {run_id}$", output, re.MULTILINE)


def check_the_first_resume(folder: Path) -> None:
    """It goes on within the step that was killed; what was complete is not run again."""
    killed, resumed = ((folder / f"log-{number}.txt").read_text() for number in (0, 1))
    checkpoint = find_newest_step(folder / "home", RUN_ID.findall(killed)[0], "pretrain_critic")
    assert f"continuing from step {checkpoint:,}" in resumed
    assert STARTED.findall(resumed)[0][0] == "pretrain_critic"


@pytest.mark.faults
@pytest.mark.parametrize(("cells", "kills"), [(1, 40), (3, 16)])
def test_campaign(tmp_path: Path, cells: int, kills: int) -> None:
    command = [sys.executable, str(ROOT / "tests" / "faults" / "campaign.py"), "--folder", str(tmp_path)]
    subprocess.run([*command, "--cells", str(cells), "--kills", str(kills)], check=True)

"""A short fault campaign, and the whole one behind the marker `faults`."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.faults import Flow, Kill, assert_same_outcome, make_words, run_with_kills
from vdt.system.home import ROOT


def test_three_kills_in_a_row_change_nothing(tmp_path: Path) -> None:
    undisturbed = Flow(tmp_path / "undisturbed", *make_words())
    kills = [
        Kill("pretrain_critic", 0.3, "step"),
        Kill("train_actor", 0.2, "parent", signal.SIGKILL),
        Kill("tune_online", 0.2, "parent", signal.SIGTERM, "write"),
    ]
    outcomes = [outcome for _, outcome in run_with_kills(tmp_path / "killed", kills)]
    assert undisturbed.wait() == 0, undisturbed.output[-6000:]
    assert "missed" not in outcomes
    print(assert_same_outcome(tmp_path / "killed" / "home", tmp_path / "undisturbed" / "home"))


@pytest.mark.faults
@pytest.mark.parametrize(("cells", "kills"), [(1, 40), (3, 16)])
def test_campaign(tmp_path: Path, cells: int, kills: int) -> None:
    command = [sys.executable, str(ROOT / "tests" / "faults" / "campaign.py"), "--folder", str(tmp_path)]
    subprocess.run([*command, "--cells", str(cells), "--kills", str(kills)], check=True)

"""Cells that share a critic get all its curves, however slowly the store takes them: the real MLflow store."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from support.builders import make_config, make_dataset, make_store
from vdt.experiments.sharing import Sharing, compute_critic_key, share_training
from vdt.tracking import MLflowTracker, create_run, open_store
from vdt.tracking.mlflow_run import RunSender
from vdt.training.critic_pretraining import pretrain_critic


def share(home: Path, seed: int, tracker: MLflowTracker) -> str:
    """Train or take the critic; the cells differ in a setting that no critic depends on."""
    config, dataset = make_config({"planner.candidates": 1 + seed}), make_dataset()
    key = compute_critic_key(config, "md5")
    return share_training(
        "critic",
        key,
        config,
        Sharing(home, tracker.run_id, "md5"),
        tracker,
        make_store(home / "unused"),
        lambda store, tracker: pretrain_critic(config, dataset, tracker, store),
    )[1]


@pytest.fixture
def run_ids(home: Path) -> list[str]:
    return [create_run(home, make_config(), "flow", "command") for _ in range(8)]


def test_eight_cells_keep_every_point(home: Path, run_ids: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is slow while the first cell trains, so that its curves lie in the backlog when the others want them."""

    def send_slowly(sender: RunSender, records: Any) -> None:
        if threading.current_thread().name == "vdt-delivery" and sender.run_id == run_ids[0]:
            time.sleep(3.0)
        send(sender, records)

    send = RunSender.__call__
    monkeypatch.setattr(RunSender, "__call__", send_slowly)
    trainer = MLflowTracker(home, run_ids[0])
    owners = [share(home, 0, trainer)]
    for number, run_id in enumerate(run_ids[1:], start=1):
        tracker = MLflowTracker(home, run_id)
        owners.append(share(home, number, tracker))
        tracker.close()
    trainer.close()
    assert owners == ["", *[run_ids[0]] * 7]
    client = open_store(home)
    curves = [
        sorted((point.step, point.value) for point in client.get_metric_history(run_id, "critic/q_loss"))
        for run_id in run_ids
    ]
    assert [step for step, _ in curves[0]] == list(range(1, 31)), "each point once"
    assert curves[1:] == curves[:1] * 7

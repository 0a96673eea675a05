"""`benchmarks/oracle_choice.py`: the simulator's own choice among returns, on the real Hopper."""

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.oracle_choice import main, run_oracle
from support.builders import make_actor_critic, make_dataset
from vdt.agent.actor_critic import ActorCritic
from vdt.config.schema import Config
from vdt.data.trajectory import Trajectory, TrajectoryDataset
from vdt.experiments.resolve import resolve_config

RETURNS = (3000.0, 1500.0, 300.0)


def make_hopper() -> ActorCritic:
    """Make a policy of the Hopper that falls soon, but not at once, and listens to the return it is asked for."""
    config: Config = resolve_config(
        "hopper-medium-v2", preset="smoke", source="collected", overrides="planner.candidates=3"
    )
    size = config.task.observation_size
    episodes = [
        Trajectory(torch.randn(9, size).numpy(), torch.zeros(8, config.task.action_size).numpy(), e.rewards[:8], True)
        for e in make_dataset((8, 8, 8))
    ]
    torch.manual_seed(0)
    actor_critic = make_actor_critic(config, TrajectoryDataset.from_trajectories(episodes))
    for parameter in actor_critic.policy.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    actor_critic.return_percentiles = tuple(30.0 * k for k in range(101))
    return actor_critic


def test_one_return_leaves_nothing_to_choose() -> None:
    """Whatever is played on from a copy ends as the episode that was never interrupted, to the bit."""
    found = run_oracle(make_hopper(), RETURNS[:1], 50_000, every=5)
    assert found["oracle"] == found["alone"][0] and found["changes"] == 0


def test_the_oracle_is_above_each_return_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    actor_critic = make_hopper()
    found = run_oracle(actor_critic, RETURNS, 50_000, every=5)
    assert len(set(found["alone"])) == 3 and found["oracle"] > max(found["alone"])
    torch.save({"actor_critic": actor_critic.state_dict(), "step": 1}, tmp_path / "policy.pt")
    results = tmp_path / "results.jsonl"
    words = ["", str(tmp_path / "policy.pt"), "--results", str(results), "--episodes", "1", "--every", "5"]
    monkeypatch.setattr(sys, "argv", words)
    for _ in range(2):
        main()
        assert len(results.read_text().splitlines()) == 1, "nothing is played twice"
    entry = json.loads(results.read_text())
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| hopper"))
    assert row.split("|")[5].strip() == f"{entry['oracle']:.1f}"

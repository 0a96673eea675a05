"""`benchmarks/acting_choices.py`: stored policies under every target and choice, continued where it stopped."""

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.acting_choices import describe_difference, main
from support.builders import make_lively_actor_critic


def test_differences_are_paired_by_policy_golden() -> None:
    # differences 1, 2 and 3: mean 2, standard error 1 / sqrt(3), Student's t of two degrees of freedom 4.303
    scores, others = {"a": 11.0, "b": 2.0, "c": 8.0, "d": 99.0}, {"a": 10.0, "b": 0.0, "c": 5.0}
    assert describe_difference(scores, others) == "+2.0 [-0.5, +4.5]"
    assert describe_difference({"a": 1.0}, others) == "-"


def test_a_policy_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    actor_critic = make_lively_actor_critic()
    actor_critic.return_percentiles = tuple(float(k) for k in range(101))
    torch.save({"actor_critic": actor_critic.state_dict(), "step": 1}, tmp_path / "policy.pt")
    results = tmp_path / "results.jsonl"
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "policy.pt"), "--results", str(results), "--episodes", "2"])
    main()
    entries = [json.loads(line) for line in results.read_text().splitlines()]
    returns = {entry["setting"]: entry["returns"] for entry in entries}
    assert returns["task 2"] == [6.0] and returns["data q75"] == [75.0]
    assert returns["task margin"] == [12.0, 6.0, 3.0] and returns["data per_episode"] == [99.0, 90.0, 75.0]
    assert len(returns) == len(entries) == 3 + 4 + 6
    table = _read_table(capsys.readouterr().out)
    assert len(table) == 2 + 13 + 2
    scores = {entry["setting"]: entry["scores"] for entry in entries}
    best = [max(three) for three in zip(*(scores[f"data q{share}"] for share in (99, 90, 75)), strict=True)]
    hindsight = next(line for line in table if line.startswith("| data hindsight"))
    assert hindsight.split("|")[2].strip() == f"{sum(best) / len(best):.1f}"
    main()
    assert len(results.read_text().splitlines()) == len(entries), "nothing is measured twice"
    assert _read_table(capsys.readouterr().out) == table


def _read_table(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("|")]

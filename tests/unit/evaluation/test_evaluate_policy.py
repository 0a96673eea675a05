"""A loaded policy's episodes are the report's, to the bit, and wrong arguments are named before any episode."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import vdt
from support.builders import make_config, make_lively_actor_critic
from vdt.agent.agent import PlannerSettings
from vdt.evaluation.evaluate import evaluate, evaluate_agents, find_acting_setting
from vdt.evaluation.records import EvaluationReport
from vdt.tracking import NullTracker


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy") / "policy.pt"
    torch.save({"actor_critic": make_lively_actor_critic({"task.action_low": [-2.0]} | HIGH).state_dict()}, path)
    return path


HIGH = {"task.action_high": [1.0]}


def drop_time(report: EvaluationReport) -> dict[str, Any]:
    return asdict(replace(report, seconds=0.0, label=""))


def test_the_defaults_give_the_reports_numbers_to_the_bit(path: Path) -> None:
    policy = vdt.load_policy(path)
    reports = evaluate_agents(policy.config, {"offline": path}, NullTracker()).policies["offline"]
    assert drop_time(vdt.evaluate_policy(policy)) == drop_time(reports["single"])
    looking = vdt.evaluate_policy(vdt.load_policy(path, lookahead=True))
    assert drop_time(looking) == drop_time(reports[find_acting_setting(policy.config)])
    assert looking.episode_returns != reports["single"].episode_returns


def test_arguments_replace_the_configurations(path: Path) -> None:
    policy, actor_critic = vdt.load_policy(path), make_lively_actor_critic({"task.action_low": [-2.0]} | HIGH)
    report = vdt.evaluate_policy(policy, episodes=3, seed=4, target_return=3.0)
    config = make_config({"evaluation.episodes": 3, "evaluation.seed": 4, "task.action_low": [-2.0]} | HIGH)
    settings = PlannerSettings.from_config(config).follow(3.0)
    assert drop_time(report) == drop_time(evaluate(actor_critic, settings, config, ""))
    assert report.episode_lengths == [6, 2, 3]  # 2 + seed % 5
    assert report.candidate_returns == [3.0]


def test_the_policys_own_episodes_go_on_undisturbed(path: Path) -> None:
    policy, alone = vdt.load_policy(path), vdt.load_policy(path)
    for one in (policy, alone):
        one.reset()
        one.act([3.0, 1.0])
    vdt.evaluate_policy(policy, episodes=2)
    assert (policy.act([2.0, 1.0], 1.0) == alone.act([2.0, 1.0], 1.0)).all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"episodes": 0}, "episodes must be a whole number of at least 1, not 0"),
        ({"episodes": True}, "episodes must be a whole number of at least 1, not True"),
        ({"seed": -1}, "seed must be a whole number of at least 0, not -1"),
        ({"seed": 1.5}, r"seed must be a whole number of at least 0, not 1\.5"),
        ({"target_return": float("nan")}, "target_return must be a finite number"),
        ({"target_return": [1.0, 2.0]}, "2 target returns need look-ahead"),
    ],
)
def test_wrong_arguments_are_named(path: Path, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        vdt.evaluate_policy(vdt.load_policy(path), **arguments)


def test_what_is_no_policy_is_named(path: Path) -> None:
    with pytest.raises(ValueError, match="policy must be a Policy, as load_policy returns it, not 'x'"):
        vdt.evaluate_policy("x")  # type: ignore[arg-type]
    policy = vdt.load_policy(path)
    with pytest.raises(ValueError, match="history of episode 0 must be an EpisodeHistory, not list"):
        policy.act_after([[0.0, 0.0]])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="target_return must be a number, not True"):
        policy.reset(target_return=True)


def test_data_without_an_environment_has_no_episodes(tmp_path: Path) -> None:
    none = {"task.environment_id": "null", "online.environment_steps": 0, "data.held_out_fraction": 0.1}
    torch.save({"actor_critic": make_lively_actor_critic(none).state_dict()}, tmp_path / "policy.pt")
    with pytest.raises(ValueError, match=r"no episodes to run; .* report and in .*metadata\[\"scores\"\]"):
        vdt.evaluate_policy(vdt.load_policy(tmp_path / "policy.pt"))

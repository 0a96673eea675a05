"""Reports of finished policies."""

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from support.builders import RecordingTracker, make_actor_critic, make_config, make_dataset, make_trajectory
from support.environments import SUCCESS
from vdt.agent.actor_critic import ActorCritic
from vdt.agent.agent import PlannerSettings
from vdt.config.schema import Config
from vdt.data.trajectory import TrajectoryDataset
from vdt.evaluation.evaluate import _count_successes, evaluate, evaluate_agents, make_evaluation_settings


def make_lively(config: Config) -> ActorCritic:
    actor_critic = make_actor_critic(config, make_dataset())
    for parameter in [*actor_critic.policy.parameters(), *actor_critic.critic.target_q.parameters()]:
        parameter.data += 0.3 * torch.randn_like(parameter)
    return actor_critic


def test_report_golden() -> None:
    config = make_config(
        {"evaluation.episodes": 3, "task.reference_return_min": 2.0, "task.reference_return_max": 12.0}
    )
    report = evaluate(make_lively(config), PlannerSettings((6.0,)), config, "x")
    assert report.episode_lengths == [2, 3, 4]  # 2 + seed % 5 for seeds 1000, 1001, 1002
    assert report.normalized_scores == pytest.approx([10 * (r - 2) for r in report.episode_returns])  # 100 / (12 - 2)
    assert report.normalized_score_mean == pytest.approx(sum(report.normalized_scores) / 3)
    deviations = [(s - report.normalized_score_mean) ** 2 for s in report.normalized_scores]
    assert report.normalized_score_standard_error == pytest.approx((sum(deviations) / 2 / 3) ** 0.5)  # n - 1, then / n
    assert report.environment_steps == 9
    assert report.chosen_candidates == [1.0]
    assert (report.label, report.candidate_returns, report.planning_horizon, report.env_model) == (
        "x",
        [6.0],
        1,
        "none",
    )


def test_an_episode_without_a_word_of_success_has_failed_where_others_report_it() -> None:
    """An environment that sets info["success"] only when it happens leaves nothing in the others."""
    one = make_dataset((3,))[0]
    episodes = [replace(one, success=said) for said in (True, None, None, None)]
    fields = _count_successes(episodes)
    assert fields["successes"] == [True, False, False, False] and fields["success_rate"] == 0.25
    assert _count_successes(episodes[1:]) == {}


def test_success_is_reported_where_the_environment_says_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    config = make_config({"task.environment_id": SUCCESS, "evaluation.episodes": 4, "planner.candidates": 1})
    actor_critic, path, tracker = make_lively(config), tmp_path / "agent.pt", RecordingTracker()
    torch.save({"actor_critic": actor_critic.state_dict()}, path)
    (report,) = evaluate_agents(config, {"offline": path}, tracker).policies["offline"].values()
    assert report.successes == [False, True, True, True]  # seeds 1000 to 1003
    assert report.success_rate == 0.75
    assert report.success_interval == pytest.approx([0.30064, 0.95441], abs=1e-5)  # Wilson's, of 3 of 4
    assert tracker.metrics[0][1]["eval/offline_single_success_rate"] == 0.75
    assert "success 75% (30-95%)" in caplog.text
    silent = evaluate(make_lively(make_config()), PlannerSettings((6.0,)), make_config(), "x")
    assert (silent.successes, silent.success_rate, silent.success_interval) == (None, None, None)


def test_one_episode_has_no_standard_error(caplog: pytest.LogCaptureFixture) -> None:
    config = make_config({"evaluation.episodes": 1})
    with caplog.at_level("INFO"):
        report = evaluate(make_lively(config), PlannerSettings((6.0,)), config, "x")
    assert report.normalized_score_standard_error is None
    assert f"normalized_score {report.normalized_score_mean:.1f} (1 episode)" in caplog.text


def test_evaluation_is_deterministic() -> None:
    config = make_config()
    first, second = (
        evaluate(make_lively(config), PlannerSettings((12.0, 6.0), 3, "learned"), config, "x") for _ in "ab"
    )
    assert first.episode_returns == second.episode_returns
    assert first.chosen_candidates == second.chosen_candidates


def test_all_settings_meet_the_same_episodes() -> None:
    config = make_config()
    lengths = [
        evaluate(make_lively(config), planner, config, name).episode_lengths
        for name, planner in make_evaluation_settings(config).items()
    ]
    assert lengths == [[2, 3, 4, 5]] * 3


def test_episodes_can_be_cut_short() -> None:
    config = make_config({"evaluation.max_episode_steps": 3})
    assert evaluate(make_lively(config), PlannerSettings((6.0,)), config, "x").episode_lengths == [2, 3, 3, 3]


def test_episodes_that_were_cut_short_have_no_score(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Rewards are whole numbers of an episode: laid beside references of whole episodes, a part of one says nothing."""
    config = make_config({"evaluation.max_episode_steps": 3, "task.horizon": 20, "planner.candidates": 1})
    path, tracker = tmp_path / "agent.pt", RecordingTracker()
    torch.save({"actor_critic": make_lively(config).state_dict()}, path)
    caplog.set_level(logging.INFO)
    (report,) = evaluate_agents(config, {"offline": path}, tracker).policies["offline"].values()
    # seeds 1000 to 1003 end by themselves after 2, 3, 4 and 5 steps; 3 and 3 are where they were stopped
    first, second, *cut = report.normalized_scores
    assert first is not None and second is not None and cut == [None, None]
    assert (report.normalized_score_mean, report.normalized_score_standard_error) == (None, None)
    assert report.cut_at == 3 and len(report.episode_returns) == 4
    mean = sum(report.episode_returns) / 4
    assert tracker.metrics[0][1] == {"eval/offline_single_episode_return_of_3_steps": mean}, "no score in MLflow either"
    assert "cut at 3 steps: no normalized_score (4 episodes)" in caplog.text
    whole = make_config({"evaluation.max_episode_steps": 20, "task.horizon": 20})
    assert evaluate(make_lively(whole), PlannerSettings((6.0,)), whole, "x").cut_at is None, "the task's own limit"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {},
            {
                "single": PlannerSettings((12.0,)),
                "candidates": PlannerSettings((12.0, 6.0, 3.0)),
                "lookahead": PlannerSettings((12.0, 6.0, 3.0), 2, "learned"),
            },
        ),
        ({"planner.candidates": 1}, {"single": PlannerSettings((12.0,))}),
        (
            {"planner.context_length": 3, "planner.forget_steps": 2},
            {
                "single": PlannerSettings((12.0,), context_length=3, forget_steps=2),
                "candidates": PlannerSettings((12.0, 6.0, 3.0), context_length=3, forget_steps=2),
                "lookahead": PlannerSettings((12.0, 6.0, 3.0), 2, "learned", 3, 2),
            },
        ),
        (
            {
                "planner.candidates": 2,
                "evaluation.lookahead_horizon": 0,
                "planner.planning_horizon": 1,
                "planner.env_model": "none",
            },
            {"single": PlannerSettings((12.0,)), "candidates": PlannerSettings((12.0, 6.0))},
        ),
        (  # the additional one stands in only where no look-ahead is acted with
            {"planner.planning_horizon": 1, "planner.env_model": "none"},
            {
                "single": PlannerSettings((12.0,)),
                "candidates": PlannerSettings((12.0, 6.0, 3.0)),
                "lookahead": PlannerSettings((12.0, 6.0, 3.0), 3, "learned"),
            },
        ),
        (
            {"planner.candidates": 2, "planner.planning_horizon": 5, "planner.env_model": "simulator"},
            {
                "single": PlannerSettings((12.0,)),
                "candidates": PlannerSettings((12.0, 6.0)),
                "lookahead": PlannerSettings((12.0, 6.0), 5, "simulator"),
            },
        ),
    ],
)
def test_settings_that_are_compared(settings: dict[str, object], expected: dict[str, PlannerSettings]) -> None:
    assert make_evaluation_settings(make_config(settings)) == expected


def test_simulator_lookahead_is_counted_as_environment_steps() -> None:
    config = make_config(
        {
            "task.environment_id": "InvertedPendulum-v5",
            "task.observation_size": 4,
            "task.horizon": 3,
            "evaluation.episodes": 2,
        }
    )
    dataset = TrajectoryDataset.from_trajectories([make_trajectory(9, observation_size=4)])
    report = evaluate(make_actor_critic(config, dataset), PlannerSettings((4.0, 2.0), 2, "simulator"), config, "x")
    assert report.episode_lengths == [3, 3]
    assert report.environment_steps == 6 + 6 * 2  # each of 6 steps imagines one step for 2 candidates


def test_agents_reports_are_json_and_tracked(tmp_path: Path) -> None:
    config = make_config({"evaluation.episodes": 2})
    paths = {}
    for name, steps in (("offline", 5), ("online", 9)):
        actor_critic = make_lively(config)
        actor_critic.gradient_steps = steps
        paths[name] = tmp_path / f"{name}.pt"
        torch.save({"actor_critic": actor_critic.state_dict()}, paths[name])
    tracker = RecordingTracker()
    result = evaluate_agents(config, paths, tracker)
    plain = asdict(result)
    assert json.loads(json.dumps(plain)) == plain
    assert set(result.policies) == {"offline", "online"}
    assert set(result.policies["online"]) == {"single", "candidates", "lookahead"}
    # equal networks, equal seeds, equal returns
    assert result.policies["offline"]["single"].episode_returns == result.policies["online"]["single"].episode_returns
    assert [step for step, _ in tracker.metrics] == [5, 9]
    acting = result.policies["online"]["candidates"]  # three candidates and a horizon of 1
    headline = {
        "score": acting.normalized_score_mean,
        "score_standard_error": acting.normalized_score_standard_error,
        "episode_return": float(np.mean(acting.episode_returns)),
        "episode_length": float(np.mean(acting.episode_lengths)),
    }
    assert {key: value for key, value in tracker.metrics[1][1].items() if "/" not in key} == headline
    for (_, every), (name, reports) in zip(tracker.metrics, result.policies.items(), strict=True):
        metrics = {key: value for key, value in every.items() if "/" in key}
        returns = {f"eval/{name}_{k}_episode_return": float(np.mean(r.episode_returns)) for k, r in reports.items()}
        scores = {f"eval/{name}_{k}_normalized_score": r.normalized_score_mean for k, r in reports.items()}
        assert metrics == {**scores, **returns}
    assert [(n, p) for n, p, *_ in tracker.checkpoints] == list(paths.items())


def test_shares_of_choices_add_up() -> None:
    config = make_config()
    report = evaluate(make_lively(config), PlannerSettings((12.0, 6.0, 3.0)), config, "x")
    assert len(report.chosen_candidates) == 3
    assert float(np.sum(report.chosen_candidates)) == pytest.approx(1.0)

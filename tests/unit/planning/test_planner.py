"""The look-ahead score (M5), imagined returns-to-go (M6) and the choice between candidates."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reference.planner import score_candidate_loop
from support.builders import make_config
from vdt.critic.critic import Critic
from vdt.data.normalization import RewardStatistics
from vdt.planning.env_model import LearnedModel
from vdt.planning.imagination import Imagination, imagine
from vdt.planning.planner import Plan, plan
from vdt.policy.decision_transformer import DecisionTransformer, PolicyOutput
from vdt.policy.history import History


class ReturnPolicy(nn.Module):
    """Acts its return-to-go (so that actions show it), and predicts a reward of 2 and an observation that grows by 1."""

    def forward(self, observations: Tensor, actions: Tensor, returns_to_go: Tensor, timesteps: Tensor) -> PolicyOutput:
        return PolicyOutput(returns_to_go[..., None], observations + 1, torch.full_like(returns_to_go, 2.0))


class EndingModel:
    """Imagines like `ReturnPolicy`, and ends the first candidate after one step."""

    def begin(self, environments: Sequence[Any], candidates: int) -> None:
        self.calls = 0

    def predict(self, imagination: Imagination) -> tuple[Tensor, Tensor, Tensor]:
        self.calls += 1
        goes_on = torch.ones(len(imagination.observations))
        goes_on[0] = 0.0
        return imagination.observations + 1, torch.full((len(goes_on),), 2.0), goes_on


def make_history(returns: list[list[float]], context_length: int = 4, steps: int = 1) -> History:
    history = History(torch.tensor(returns), context_length)
    torch.manual_seed(0)
    for step in range(steps):
        history.append_observation(torch.randn(len(returns), 3) if steps > 1 else torch.zeros(len(returns), 3), 1)
        if step + 1 < steps:
            history.set_action(torch.rand(len(returns), 1))
            history.align_returns(torch.rand(len(returns)))
    return history


def action_as_q(observations: Tensor, actions: Tensor) -> Tensor:
    return actions[..., 0]


def run(history: History, policy: nn.Module, min_q: Any, **settings: Any) -> Plan:
    settings = {"discount": 0.5, "planning_horizon": 1, "env_model": LearnedModel(), **settings}
    return plan(history, policy, min_q, **settings)


# M5


@pytest.mark.parametrize(
    ("horizon", "discount", "scores", "chosen"),
    [
        (1, 0.5, [1.0, 3.5], 1),
        (2, 0.5, [2.0, 3.5], 1),  # 1 + 2/2
        (3, 0.5, [3.0, 3.5], 1),  # 1 + 2/2 + 4/4: without the discount the other one would win
        (3, 1.0, [7.0, 3.5], 0),  # 1 + 2 + 4
    ],
)
def test_score_golden(horizon: int, discount: float, scores: list[float], chosen: int) -> None:
    # candidate 0 meets Q = 1, 2, 4 and candidate 1 meets 3.5, 0, 0: exactly E terms, discounted by discount^i
    table = torch.tensor([[1.0, 3.5], [2.0, 0.0], [4.0, 0.0]])

    def min_q(observations: Tensor, actions: Tensor) -> Tensor:
        return table[observations[:, 0, 0].long()]  # `ReturnPolicy` adds 1 a step

    result = run(make_history([[10.0, 20.0]]), ReturnPolicy(), min_q, planning_horizon=horizon, discount=discount)
    torch.testing.assert_close(result.scores, torch.tensor([scores]))
    assert result.chosen.tolist() == [chosen]
    assert result.actions.tolist() == [[[10.0], [20.0]][chosen]]  # the first action of the winner, not a later one


def test_smaller_of_the_twins_decides() -> None:
    # twins (9, 0) and (1, 2) -> minima 1 and 0 for the first, 2 for the second candidate; the larger twin would say 9
    critic = Critic(3, 1, make_config().critic)
    for parameter in critic.target_q.parameters():
        parameter.data.zero_()

    class Twins(nn.Module):
        def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
            return torch.tensor([[[9.0, 1.0]], [[0.0, 2.0]]])

    critic.target_q = Twins()  # type: ignore[assignment]
    result = run(make_history([[1.0, 2.0]]), ReturnPolicy(), critic.compute_min_q)
    assert result.scores.tolist() == [[0.0, 1.0]]
    assert result.chosen.tolist() == [1]


def test_each_episode_chooses_for_itself() -> None:
    result = run(make_history([[1.0, 3.0, 2.0], [9.0, 4.0, 5.0]]), ReturnPolicy(), action_as_q)
    assert result.chosen.tolist() == [1, 0]
    assert result.actions.tolist() == [[3.0], [9.0]]


def test_nothing_counts_after_an_imagined_end() -> None:
    # candidate 0 ends after its first step: 10; candidate 1 goes on: 9 + 7/2 + 5/4
    model = EndingModel()
    result = run(make_history([[10.0, 9.0]]), ReturnPolicy(), action_as_q, planning_horizon=3, env_model=model)
    torch.testing.assert_close(result.scores, torch.tensor([[10.0, 9 + 3.5 + 1.25]]))
    assert model.calls == 2  # E - 1 imagined steps, not E


# M6


def test_predicted_rewards_are_decoded_before_returns_shrink_golden() -> None:
    # the head says 2 in units of 0.5 around 0.25: a reward of 1.25, so actions are 10, 8.75, 7.5
    model = LearnedModel(RewardStatistics(0.25, 0.5))
    result = run(make_history([[10.0, 0.0]]), ReturnPolicy(), action_as_q, planning_horizon=3, env_model=model)
    torch.testing.assert_close(result.scores[0, 0], torch.tensor(10.0 + 8.75 / 2 + 7.5 / 4))


def test_imagined_returns_shrink_by_the_predicted_reward_golden() -> None:
    # actions are the returns-to-go 10, 8, 6 (reward 2 each): 10 + 8/2 + 6/4
    result = run(make_history([[10.0, 0.0]]), ReturnPolicy(), action_as_q, planning_horizon=3)
    torch.testing.assert_close(result.scores, torch.tensor([[15.5, 0 - 1.0 - 1.0]]))  # 0, -2/2, -4/4


# The whole planner


def make_networks(context_length: int = 4) -> tuple[DecisionTransformer, Critic]:
    torch.manual_seed(3)
    config = make_config({"policy.context_length": context_length})
    policy, critic = DecisionTransformer(3, 1, 50, config.policy).eval(), Critic(3, 1, config.critic)
    for parameter in [*policy.parameters(), *critic.target_q.parameters()]:
        parameter.data += 0.2 * torch.randn_like(parameter)
    return policy, critic


@pytest.mark.parametrize("horizon", [1, 2, 4])
@pytest.mark.parametrize("steps", [1, 3, 6])  # shorter than, near and beyond the context of 4
def test_planner_equals_the_loop_over_candidates(horizon: int, steps: int) -> None:
    policy, critic = make_networks()
    returns = [[3.0, 1.0, -1.0], [2.0, 0.5, 4.0]]
    history = make_history(returns, 4, steps)
    result = run(history, policy, critic.compute_min_q, discount=0.9, planning_horizon=horizon)
    assert history.observations is not None and history.actions is not None and history.returns_to_go is not None
    for episode in range(2):
        expected = [
            score_candidate_loop(
                policy,
                critic.compute_min_q,
                list(history.observations[episode]),
                list(history.actions[episode][:-1]),
                history.returns_to_go[episode, candidate].tolist(),
                int(history.timesteps()[0]),
                discount=0.9,
                planning_horizon=horizon,
                context_length=4,
            )
            for candidate in range(3)
        ]
        scores = torch.tensor([score for _, score in expected])
        torch.testing.assert_close(result.scores[episode], scores, atol=1e-5, rtol=1e-4)
        assert int(result.chosen[episode]) == int(scores.argmax())
        torch.testing.assert_close(result.actions[episode], expected[int(scores.argmax())][0], atol=1e-5, rtol=1e-4)


def test_one_candidate_is_the_plain_policy() -> None:
    policy, critic = make_networks()
    history = make_history([[3.0], [1.0]], 4, 3)
    assert history.returns_to_go is not None
    times = history.timesteps().expand(2, 3)
    with torch.no_grad():
        plain = policy(history.observations, history.actions, history.returns_to_go[:, 0], times)
    for horizon in (1, 5):
        result = run(history, policy, critic.compute_min_q, planning_horizon=horizon, env_model=None)
        torch.testing.assert_close(result.actions, plain.actions[:, -1])
        assert result.chosen.tolist() == [0, 0]


def test_permuting_candidates_permutes_scores() -> None:
    policy, critic = make_networks()
    order = [2, 0, 1]
    returns = [[3.0, 1.0, -1.0], [2.0, 0.5, 4.0]]
    first = run(make_history(returns, 4, 3), policy, critic.compute_min_q, planning_horizon=3)
    permuted = [[row[k] for k in order] for row in returns]
    second = run(make_history(permuted, 4, 3), policy, critic.compute_min_q, planning_horizon=3)
    torch.testing.assert_close(second.scores, first.scores[:, order])
    torch.testing.assert_close(second.actions, first.actions)  # the same one wins


def test_episodes_beside_change_nothing() -> None:
    policy, critic = make_networks()
    both = run(make_history([[3.0, 1.0], [2.0, 0.5]], 4, 1), policy, critic.compute_min_q, planning_horizon=3)
    alone = run(make_history([[2.0, 0.5]], 4, 1), policy, critic.compute_min_q, planning_horizon=3)
    torch.testing.assert_close(both.scores[1:], alone.scores)


def test_candidates_of_an_episode_stand_next_to_each_other() -> None:
    history = make_history([[1.0, 2.0], [3.0, 4.0]], 4, 1)
    assert history.observations is not None
    history.observations[1] += 5
    imagination = imagine(ReturnPolicy(), history, 1)
    assert imagination.actions[:, 0].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert torch.equal(imagination.observations, history.observations[:, -1].repeat_interleave(2, 0))


def test_planning_changes_neither_history_nor_gradients() -> None:
    policy, critic = make_networks()
    history = make_history([[3.0, 1.0]], 4, 3)
    before = [history.observations.clone(), history.actions.clone(), history.returns_to_go.clone()]  # type: ignore[union-attr]
    result = run(history, policy, critic.compute_min_q, planning_horizon=3)
    for old, new in zip(before, (history.observations, history.actions, history.returns_to_go), strict=True):
        assert torch.equal(old, new)  # type: ignore[arg-type]
    assert history.timestep == 2
    assert not result.actions.requires_grad and all(p.grad is None for p in policy.parameters())

"""A policy without a memory, given the history, acts as the one that remembers; histories that do not fit are refused."""

import copy
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from support.builders import make_lively_actor_critic
from vdt import EpisodeHistory, Policy
from vdt.agent.actor_critic import ActorCritic
from vdt.agent.agent import Agent
from vdt.planning.planner import Plan

SIZE, STEPS = 2, 23  # several contexts of 4 steps
RANGE = {"task.action_low": [-2.0], "task.action_high": [1.0]}
MLP = {
    "policy.kind": "mlp",
    "planner.candidates": 1,
    "planner.planning_horizon": 1,
    "actor.next_observation_coefficient": 0.0,
    "actor.reward_coefficient": 0.0,
}
ONE = EpisodeHistory([[0.0, 0.0], [1.0, 1.0]], [[0.5]], [2.0])


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy(make_lively_actor_critic())


def play(actor_critic: ActorCritic, episodes: int, *, lookahead: bool, target: Any = None) -> float:
    """The largest difference between the two ways to act, over an episode."""
    remembers, forgets = (Policy(actor_critic, lookahead=lookahead) for _ in range(2))
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(episodes, STEPS, SIZE)).astype(np.float32)
    rewards = rng.normal(size=(episodes, STEPS)).astype(np.float32)
    taken = np.zeros((episodes, STEPS, 1), np.float32)
    remembers.reset(target, episodes)
    differences = []
    for t in range(STEPS):
        chosen = remembers.act(observations[:, t], rewards[:, t - 1] if t else None)
        histories = [
            EpisodeHistory(observations[i, : t + 1], taken[i, :t], rewards[i, :t], target) for i in range(episodes)
        ]
        answer = forgets.act_after(histories)
        assert answer.dtype == np.float32 and answer.shape == (episodes, 1)
        differences.append(np.abs(answer - chosen).max())
        taken[:, t] = chosen
    assert taken.std() > 1e-6, "the actions differ from step to step"
    return float(max(differences))


def test_targets_of_any_number_leave_no_agents_behind() -> None:
    """A server answers requests with up to thousands of returns; what each needs is gone with its answer."""
    policy = Policy(make_lively_actor_critic(), lookahead=True)
    fresh = Policy(make_lively_actor_critic(), lookahead=True)
    for count in (1, 2, 3, 5, 2):
        history = EpisodeHistory([[0.0, 0.0], [1.0, 1.0]], [[0.5]], [2.0], [float(12 - i) for i in range(count)])
        assert (policy.act_after([history]) == copy.deepcopy(fresh).act_after([history])).all()
    agents = list(policy._recaller._agents.values())
    assert len(agents) == 2 and all(agent._history is None for agent in agents)


@pytest.mark.parametrize("episodes", [1, 3])
@pytest.mark.parametrize("lookahead", [False, True])
@pytest.mark.parametrize("settings", [{}, {"planner.forget_steps": 3}, {"planner.context_length": 1}, MLP], ids=str)
def test_actions_are_those_of_a_policy_with_memory(settings: dict[str, Any], lookahead: bool, episodes: int) -> None:
    assert play(make_lively_actor_critic(settings), episodes, lookahead=lookahead) == 0.0


def test_where_actions_have_a_range_the_last_digit_may_differ() -> None:
    assert play(make_lively_actor_critic(RANGE), 1, lookahead=False) < 2e-6


@pytest.mark.parametrize("target", [5.0, [2.0, 9.0]])
def test_a_target_return_is_followed(target: Any) -> None:
    assert play(make_lively_actor_critic(), 2, lookahead=True, target=target) == 0.0


def test_a_choice_that_is_kept_needs_a_memory() -> None:
    policy = Policy(make_lively_actor_critic({"planner.select": "margin"}), lookahead=True)
    with pytest.raises(ValueError, match=r"episode 0: planner.select is margin: .* accepted is per_step, or one"):
        policy.act_after([ONE])
    alone = EpisodeHistory(ONE.observations, ONE.actions, ONE.rewards, 5.0)
    assert np.isfinite(policy.act_after([alone])).all()


def test_episodes_of_one_request_do_not_know_each_other(policy: Policy) -> None:
    """Different lengths, different targets; the first of equal length as well."""
    rng = np.random.default_rng(1)
    histories = [
        EpisodeHistory(rng.normal(size=(t + 1, SIZE)), rng.uniform(-1, 1, (t, 1)), rng.normal(size=t), target)
        for t, target in ((0, None), (7, 3.0), (2, None), (7, None), (0, 8.0), (30, None))
    ]
    together = policy.act_after(histories)
    alone = np.concatenate([policy.act_after([history]) for history in histories])
    assert np.abs(together - alone).max() < 1e-6
    assert len(np.unique(together.round(4))) == len(histories)


def test_the_oldest_steps_may_be_left_out(policy: Policy) -> None:
    rng = np.random.default_rng(2)
    seen, taken, rewards = rng.normal(size=(31, SIZE)), rng.uniform(-1, 1, (30, 1)), rng.normal(size=30)
    whole = policy.act_after([EpisodeHistory(seen, taken, rewards)])
    for skipped in (1, 26, 27):
        short = EpisodeHistory(seen[skipped:], taken[skipped:], rewards, skipped_steps=skipped)
        assert (policy.act_after([short]) == whole).all()
    with pytest.raises(ValueError, match="skipped_steps of episode 0: at step 30 the policy looks at the last 4"):
        policy.act_after([EpisodeHistory(seen[28:], taken[28:], rewards, skipped_steps=28)])


def test_the_episode_that_runs_goes_on_undisturbed(policy: Policy) -> None:
    policy.reset()
    first = policy.act([0.0, 0.0])
    policy.act_after([ONE])
    second = policy.act([1.0, 1.0], 2.0)
    assert (policy.act_after([EpisodeHistory([[0.0, 0.0], [1.0, 1.0]], [first], [2.0])])[0] == second).all()


def test_a_policy_without_memory_needs_no_rewards() -> None:
    policy = Policy(make_lively_actor_critic(MLP))
    bare = policy.act_after([EpisodeHistory([[0.0, 0.0], [1.0, 1.0]], [[0.5]])])
    assert (bare == policy.act_after([ONE])).all()
    last = EpisodeHistory([[1.0, 1.0]], skipped_steps=1)
    assert (bare == policy.act_after([last])).all()


@pytest.mark.parametrize("skipped", [10**13, 10**30])
def test_a_policy_without_memory_makes_nothing_for_steps_that_are_left_out(skipped: int) -> None:
    """A number for each of them would not fit into any memory."""
    policy = Policy(make_lively_actor_critic(MLP))
    alone, after = (EpisodeHistory([[1.0, 1.0]], skipped_steps=count) for count in (0, skipped))
    assert (policy.act_after([after]) == policy.act_after([alone])).all()
    with pytest.raises(ValueError, match=r"skipped steps have .* rewards, not 1"):
        policy.act_after([EpisodeHistory([[1.0, 1.0]], rewards=[1.0], skipped_steps=skipped)])


@pytest.mark.parametrize("lookahead", [False, True])
def test_threads_share_a_policy(lookahead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has an episode of its own; the first calls come together, too."""
    actor_critic, rng, decide = make_lively_actor_critic(), np.random.default_rng(3), Agent.decide
    histories = [
        EpisodeHistory(rng.normal(size=(t + 1, SIZE)), rng.uniform(-1, 1, (t, 1)), rng.normal(size=t))
        for t in (0, 3, 7, 12)
    ]
    alone, shared = (Policy(actor_critic, lookahead=lookahead) for _ in range(2))
    expected = [alone.act_after([history]) for history in histories]

    def decide_later(agent: Agent) -> Plan:
        time.sleep(0.005)  # the other threads are at work meanwhile
        return decide(agent)

    def count_wrong(place: int) -> int:
        return sum(bool((shared.act_after([histories[place]]) != expected[place]).any()) for _ in range(5))

    monkeypatch.setattr(Agent, "decide", decide_later)
    with ThreadPoolExecutor(len(histories)) as threads:
        assert list(threads.map(count_wrong, range(len(histories)))) == [0] * len(histories)


def test_a_policy_that_has_acted_can_be_copied(policy: Policy) -> None:
    action = policy.act_after([ONE])
    assert (copy.deepcopy(policy).act_after([ONE]) == action).all()


def test_actions_beyond_the_range_count_as_its_end(policy: Policy) -> None:
    histories = [EpisodeHistory(ONE.observations, [[action]], ONE.rewards) for action in (1.0, 7.0)]
    first, second = policy.act_after(histories)
    assert first == second


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"observations": [[0.0, 0.0, 0.0]]},
            r"observations of episode 1 must be rows of 2 numbers, not of shape \(1, 3\)",
        ),
        ({"observations": [0.0, 0.0]}, r"observations of episode 1 must be rows of 2 numbers, not of shape \(2,\)"),
        ({"observations": [[0.0], [1.0, 2.0]]}, "observations of episode 1 must be an array of numbers"),
        ({"observations": []}, "observations of episode 1 are empty"),
        ({"observations": [["a", "b"]]}, "observations of episode 1 must be numbers"),
        ({"observations": [[0.0, 0.0], [1.0, float("nan")]]}, r"observations\[1, 1\] of episode 1 is not a finite"),
        ({"observations": [[0.0, 0.0], [1.0, 1e39]]}, "is not a finite float32 number: inf"),
        ({"actions": []}, "actions of episode 1: 2 observations have 1 actions between them, not 0"),
        ({"actions": [[0.5, 0.5]]}, "actions of episode 1 must be rows of 1 numbers"),
        ({"actions": [[float("inf")]]}, r"actions\[0, 0\] of episode 1 is not a finite"),
        ({"rewards": [1.0, 2.0]}, "rewards of episode 1: 1 actions have 1 rewards, not 2"),
        ({"rewards": []}, "rewards of episode 1: 1 actions have 1 rewards, not 0"),
        ({"rewards": [[1.0]]}, "rewards of episode 1 must be a list of numbers"),
        ({"rewards": 1.0}, "rewards of episode 1 must be a list of numbers"),
        ({"rewards": ["1"]}, "rewards of episode 1 must be numbers"),
        ({"rewards": [float("nan")]}, r"rewards\[0\] of episode 1 is not a finite"),
        ({"rewards": [3e38]}, r"rewards\[0\] of episode 1 is too large for the policy: 3e\+38; accepted is -1e\+13 to"),
        ({"target_return": 1e30}, r"episode 1: target_return is too large for the policy: 1e\+30; accepted is -1e\+13"),
        ({"target_return": float("nan")}, "episode 1: target_return must be a finite number, not nan"),
        ({"target_return": [1.0, 2.0]}, "episode 1: 2 target returns need look-ahead"),
        ({"skipped_steps": 1}, "rewards of episode 1: 1 actions and 1 skipped steps have 2 rewards, not 1"),
        ({"skipped_steps": -1}, "skipped_steps of episode 1 must be a whole number of at least 0, not -1"),
        ({"skipped_steps": 0.5}, "skipped_steps of episode 1 must be a whole number"),
        ({"skipped_steps": True}, "skipped_steps of episode 1 must be a whole number"),
    ],
    ids=str,
)
def test_histories_that_do_not_fit_are_refused(policy: Policy, changed: dict[str, Any], message: str) -> None:
    history = EpisodeHistory(**{**vars(ONE), **changed})
    with pytest.raises(ValueError, match=message):
        policy.act_after([ONE, history])


def test_no_history_is_refused(policy: Policy) -> None:
    with pytest.raises(ValueError, match="at least one episode"):
        policy.act_after([])

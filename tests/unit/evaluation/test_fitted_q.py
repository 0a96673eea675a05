"""Fitted-Q evaluation against values that are known, and the policy's actions against a literal loop."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from support.builders import (
    RecordingTracker,
    make_actor_critic,
    make_config,
    make_dataset,
    make_lively_actor_critic,
)
from vdt.agent.actor_critic import ActorCritic, make_buffer
from vdt.config.schema import Config
from vdt.data.normalization import Normalizer
from vdt.data.trajectory import Trajectory, TrajectoryDataset
from vdt.evaluation.fitted_q import (
    compute_data_value,
    compute_policy_actions,
    estimate_value,
    estimate_values,
    fit_q,
    make_judge_config,
    take_episodes,
)

DISCOUNT = 0.9
Rule = Callable[[np.ndarray], np.ndarray]  # places (N,) -> actions (N,)
PLACES = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.float32)  # their observations


def make_judge(steps: int, seed: int = 0) -> Config:
    """The judge with a shorter memory and a smaller network, so that it ends in a second."""
    config = make_judge_config(make_config({"evaluation.fitted_q_steps": steps}, seed=seed))
    small = {"hidden_size": 32, "batch_size": 64, "discount": DISCOUNT, "target_update_rate": 0.05}
    return replace(config, critic=replace(config.critic, **small))


def walk(*, terminates: bool) -> TrajectoryDataset:
    """Random walks on places 0 to 3: an action above 0 goes one place on, else one stays. Reaching place 3 pays 1.

    With `terminates` that is the end; else one starts again at place 0, until a time limit.
    """
    rng, episodes = np.random.default_rng(0), []
    for _ in range(120):
        place, places, actions, rewards, ended = 0, [0], [], [], False
        while len(actions) < 20 and not ended:
            action = rng.uniform(-1, 1)
            place += action > 0
            rewards.append(float(place == 3))
            ended = terminates and place == 3
            place = 0 if place == 3 and not terminates else place
            actions.append([action])
            places.append(place)
        taken, paid = np.array(actions, np.float32), np.array(rewards, np.float32)
        episodes.append(Trajectory(PLACES[places], taken, paid, ended))
    return TrajectoryDataset.from_trajectories(episodes)


def value_of(dataset: TrajectoryDataset, rule: Rule, *, steps: int = 1000, seed: int = 0) -> float:
    """Return the fitted value, at place 0, of the policy that acts by `rule`."""
    judged = make_judge(steps, seed)
    buffer = make_buffer(judged, Normalizer.fit(dataset), 1.0, dataset)
    places = (dataset.observations @ [1, 2]).astype(int)
    taken = torch.from_numpy(rule(places).astype(np.float32)[:, None])
    start = buffer.matrix[:1, buffer.column.observation]
    return fit_q(judged, buffer, taken, start, taken[:1], "test")[1]


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        (lambda places: np.full(len(places), 0.5), DISCOUNT**2),  # two steps, then the reward, then nothing
        (lambda places: np.full(len(places), -0.5), 0.0),
        (lambda places: np.where(places < 2, 0.5, -0.5), 0.0),  # stays before the last step
    ],
)
def test_value_of_a_walk_that_ends(rule: Rule, value: float) -> None:
    assert value_of(walk(terminates=True), rule) == pytest.approx(value, abs=0.05)


def test_a_time_limit_is_no_end() -> None:
    """A reward every three steps for ever: 0.9^2 / (1 - 0.9^3), although every episode is cut after 20 steps."""
    forever = DISCOUNT**2 / (1 - DISCOUNT**3)
    value = value_of(walk(terminates=False), lambda places: np.full(len(places), 0.5))
    assert value == pytest.approx(forever, abs=0.2)


def test_the_same_seed_gives_the_same_bits_and_leaves_the_random_stream_alone() -> None:
    dataset = walk(terminates=True)
    values = []
    for stream, seed in ((5, 3), (6, 3), (7, 4)):
        torch.manual_seed(stream)
        before = torch.get_rng_state()
        values.append(value_of(dataset, np.ones_like, steps=30, seed=seed))
        assert torch.equal(torch.get_rng_state(), before)
    first, again, other = values
    assert first == again != other


def test_the_judge_does_not_depend_on_what_is_judged() -> None:
    one, other = (
        make_judge_config(make_config({"critic.discount": d, "critic.hidden_size": h, "critic.n_step": n})).critic
        for d, h, n in ((0.9, 16, 3), (0.99, 64, 1))
    )
    for key in ("discount", "hidden_size", "hidden_layers", "learning_rate", "n_step", "target_update_rate"):
        assert getattr(one, key) == getattr(other, key)
    assert one.n_step == 1, "several rewards of the data's actions would not be the policy's"


def answer_literally(actor_critic: ActorCritic, dataset: TrajectoryDataset, length: int) -> list[torch.Tensor]:
    """The action at every observation of every episode, one pass for each, the candidates' choice by Q included."""
    config, answers = actor_critic.config, []
    stride = max(1, length // 2)
    candidates = config.task.candidate_returns[: config.planner.candidates]
    for episode in dataset:
        steps = len(episode)
        observations = actor_critic.normalizer.normalize(torch.from_numpy(episode.observations))
        actions = torch.cat([torch.from_numpy(episode.actions), torch.zeros(1, config.task.action_size)])
        earned = np.concatenate([[0.0], np.cumsum(episode.rewards)])
        for t in range(steps + 1):
            first = 0 if t < length else max(s for s in range(0, t + 1, stride) if t - s >= length - stride)
            offers = []
            for wanted in candidates:
                left = torch.tensor((wanted - earned) / config.task.return_scale, dtype=torch.float32)
                inputs = (part[None, first : t + 1] for part in (observations, actions, left, torch.arange(steps + 1)))
                offers.append(actor_critic.policy(*inputs).actions[0, -1])
            offered = torch.stack(offers)
            scores = actor_critic.critic.compute_min_q(observations[t].expand(len(offers), -1), offered)
            answers.append(offered[scores.argmax()])
    return answers


@pytest.mark.parametrize("length", [1, 2, 5, 8])
@torch.no_grad()
def test_actions_are_those_of_a_literal_loop(length: int) -> None:
    actor_critic = make_lively_actor_critic({"policy.context_length": length, "evaluation.fitted_q_steps": 1})
    actor_critic.policy.eval()
    dataset = make_dataset((5, 1, 13, 16))
    buffer = actor_critic.make_buffer(dataset, 1)
    actions = compute_policy_actions(actor_critic, buffer)
    starts, steps = buffer.index()
    literal = torch.stack(answer_literally(actor_critic, dataset, length))
    assert torch.allclose(actions[buffer.list_step_rows((starts, steps + 1))], literal, atol=1e-5)
    assert len(literal.unique()) > len(literal) / 2, "actions differ"


def test_a_network_without_memory_answers_everywhere() -> None:
    config = make_config({"evaluation.fitted_q_steps": 1}, method="bc")
    actor_critic = make_actor_critic(config, make_dataset())
    buffer = actor_critic.make_buffer(make_dataset(), 1)
    rows = buffer.list_step_rows((buffer.index()[0], buffer.index()[1] + 1))
    actions = compute_policy_actions(actor_critic, buffer)[rows]
    expected = actor_critic.policy(buffer.matrix[rows, buffer.column.observation], *[torch.zeros(0)] * 3).actions
    assert torch.allclose(actions, expected, atol=1e-6)


def test_the_estimate_is_in_units_of_the_environment() -> None:
    """Rewards of 1 for ever: with ten times the scale the critic sees 10, and the report says the same."""
    episodes = [Trajectory(e.observations, e.actions, np.ones_like(e.rewards), False) for e in make_dataset((9, 8, 7))]
    data = TrajectoryDataset.from_trajectories(episodes)
    found = []
    for scale in (0.1, 1.0):
        actor_critic = make_actor_critic(make_config({"evaluation.fitted_q_steps": 150}), data)
        actor_critic.reward_scale = scale
        found.append(estimate_value(actor_critic, data, make_dataset((4, 3)), "test"))
    assert found[0].episodes == 3 + 2, "held-out episodes begin too"
    assert found[0].fitted_q == pytest.approx(found[1].fitted_q, rel=0.35)
    assert 0 < found[1].fitted_q_halfway < found[1].fitted_q < 100, "on its way to 1 / (1 - 0.99)"
    assert found[0].critic == pytest.approx(10 * found[1].critic, rel=1e-4), "an untrained critic's number, rescaled"


def test_what_the_data_earned_by_hand() -> None:
    episodes = [
        Trajectory(
            np.zeros((len(r) + 1, 1), np.float32), np.zeros((len(r), 1), np.float32), np.array(r, np.float32), True
        )
        for r in ([1.0, 2.0, 4.0], [8.0])
    ]
    parts = [TrajectoryDataset.from_trajectories([episode]) for episode in episodes]
    assert compute_data_value(parts, 0.5) == pytest.approx((1 + 1 + 1 + 8) / 2)


def test_it_is_measured_where_it_is_asked_for(tmp_path: Path) -> None:
    tracker = RecordingTracker()
    actor_critic = make_actor_critic(make_config(), make_dataset())
    torch.save({"actor_critic": actor_critic.state_dict()}, tmp_path / "agent.pt")
    agents = {"offline": tmp_path / "agent.pt", "online": tmp_path / "agent.pt"}
    assert estimate_values(make_config(), agents, make_dataset(), None, tracker) == {}
    asked = make_config({"evaluation.fitted_q_steps": 2})
    found = estimate_values(asked, agents, make_dataset(), None, tracker)
    assert list(found) == ["offline"] and found["offline"].fitted_q_steps == 2
    (metrics,) = (metrics for _, metrics in tracker.metrics)
    assert metrics == {
        "eval/offline_value_critic": found["offline"].critic,
        "eval/offline_value_fitted_q": found["offline"].fitted_q,
    }
    without = make_config({"evaluation.fitted_q_steps": 2}, method="dt")
    actor_critic = make_actor_critic(without, make_dataset())
    torch.save({"actor_critic": actor_critic.state_dict()}, tmp_path / "agent.pt")
    assert estimate_values(without, agents, make_dataset(), None, tracker)["offline"].critic is None
    assert math.isfinite(tracker.metrics[-1][1]["eval/offline_value_fitted_q"])


def test_of_much_data_whole_episodes_are_taken_the_same_ones_each_time() -> None:
    dataset = make_dataset((5, 1, 7, 3, 6, 2))
    assert take_episodes(dataset, 24, seed=0) is dataset
    some = take_episodes(dataset, 15, seed=0)
    assert 15 - 7 < some.steps <= 15 and set(some.episode_returns) < set(dataset.episode_returns)
    assert np.array_equal(some.observations, take_episodes(dataset, 15, seed=0).observations)
    assert len({tuple(take_episodes(dataset, 15, seed=seed).lengths) for seed in range(8)}) > 1
    assert len(take_episodes(dataset, 0, seed=0)) == 1, "never none"


@torch.no_grad()
def test_a_critic_that_may_not_guide_chooses_no_return() -> None:
    settings = {"planner.candidates": 2, "planner.planning_horizon": 1, "planner.env_model": "none"}
    actor_critic, data = make_lively_actor_critic({**settings, "actor.max_history_correlation": 0.25}), make_dataset()
    actor_critic.policy.eval()
    buffer = make_buffer(actor_critic.config, actor_critic.normalizer, 1.0, data)
    chosen = compute_policy_actions(actor_critic, buffer)
    actor_critic.history_correlation = 0.9
    followed = compute_policy_actions(actor_critic, buffer)
    config = actor_critic.config
    actor_critic.config = replace(config, planner=replace(config.planner, candidates=1))
    assert torch.equal(followed, compute_policy_actions(actor_critic, buffer))
    assert not torch.equal(followed, chosen)


def test_what_the_data_earned_has_the_shift_of_the_critics_rewards() -> None:
    (episode,) = make_dataset((3,))
    pays = replace(episode, rewards=np.zeros(3, np.float32))
    assert compute_data_value([TrajectoryDataset.from_trajectories([pays])], 0.5, -1.0) == pytest.approx(-1.75)


def test_of_held_out_episodes_the_policy_sees_the_first_observation_alone() -> None:
    """However long they are, and the value is that of the whole episodes."""
    data, held_out = make_dataset((4, 3)), make_dataset((40, 60))
    found, asked = [], []
    for part in (held_out, held_out.keep_first(1)):
        actor_critic = make_actor_critic(make_config({"evaluation.fitted_q_steps": 3}), data)
        seen: list[int] = []
        actor_critic.policy.register_forward_hook(lambda _m, inputs, _o, seen=seen: seen.append(len(inputs[0])))
        found.append(estimate_value(actor_critic, data, part, "test"))
        asked.append(sum(seen))
    assert asked[0] == asked[1]
    assert (found[0].fitted_q, found[0].critic) == (found[1].fitted_q, found[1].critic)
    assert found[0].data != found[1].data, "what the data earned is that of whole episodes"

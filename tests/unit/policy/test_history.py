"""What an acting policy remembers, and return-to-go alignment (M4)."""

import pytest
import torch

from vdt.policy.history import History


def observe(value: float, episodes: int = 1) -> torch.Tensor:
    return torch.full((episodes, 2), value)


def test_returns_to_go_shrink_by_the_actual_rewards_golden() -> None:
    # candidates 10 and 5; rewards 2 then 3: 10, 8, 5 and 5, 3, 0
    history = History(torch.tensor([[10.0, 5.0]]), context_length=4)
    for step, reward in enumerate([2.0, 3.0, 9.0]):
        history.append_observation(observe(step), 1)
        history.set_action(torch.tensor([[0.1 * step]]))
        if step < 2:
            history.align_returns(torch.tensor([reward]))
    assert history.returns_to_go is not None
    assert history.returns_to_go.tolist() == [[[10.0, 8.0, 5.0], [5.0, 3.0, 0.0]]]


def test_each_episode_is_aligned_with_its_own_reward() -> None:
    history = History(torch.tensor([[10.0], [10.0]]), 4)
    history.append_observation(observe(0, 2), 1)
    history.align_returns(torch.tensor([1.0, 4.0]))
    history.append_observation(observe(1, 2), 1)
    assert history.returns_to_go is not None
    assert history.returns_to_go[:, 0].tolist() == [[10.0, 9.0], [10.0, 6.0]]


def test_alignment_changes_no_earlier_return() -> None:
    history = History(torch.tensor([[10.0]]), 4)
    history.append_observation(observe(0), 1)
    history.align_returns(torch.tensor([4.0]))
    assert history.returns_to_go is not None
    assert history.returns_to_go.tolist() == [[[10.0]]]


def test_the_last_k_steps_are_remembered() -> None:
    history = History(torch.tensor([[10.0, 20.0]]), context_length=3)
    for step in range(5):
        history.append_observation(observe(step), 1)
        history.set_action(torch.tensor([[float(step)]]))
        history.align_returns(torch.tensor([1.0]))
    history.append_observation(observe(5), 1)
    assert history.observations is not None and history.actions is not None and history.returns_to_go is not None
    assert history.observations[0, :, 0].tolist() == [3, 4, 5]
    assert history.actions[0, :, 0].tolist() == [3, 4, 0]  # the present action is still open
    assert history.returns_to_go[0].tolist() == [[7, 6, 5], [17, 16, 15]]
    assert history.timesteps().tolist() == [3, 4, 5] and history.timesteps().dtype == torch.int64


@pytest.mark.parametrize(
    ("forget_steps", "lengths"),
    [
        (1, [1, 2, 3, 4, 4, 4, 4, 4, 4]),
        (2, [1, 2, 3, 4, 3, 4, 3, 4, 3]),
        (3, [1, 2, 3, 4, 2, 3, 4, 2, 3]),
        (9, [1, 2, 3, 4, 1, 2, 3, 4, 1]),  # more than there are: all
    ],
)
def test_several_steps_may_be_forgotten_at_once(forget_steps: int, lengths: list[int]) -> None:
    history = History(torch.tensor([[10.0]]), 4, forget_steps)
    for step, length in enumerate(lengths):
        history.append_observation(observe(step), 1)
        history.set_action(torch.tensor([[float(step)]]))
        history.align_returns(torch.tensor([1.0]))
        assert history.observations is not None and history.actions is not None and history.returns_to_go is not None
        steps = list(range(step + 1 - length, step + 1))
        assert len(history) == length and history.timesteps().tolist() == steps
        assert history.observations[0, :, 0].tolist() == history.actions[0, :, 0].tolist() == steps
        assert history.returns_to_go[0, 0].tolist() == [10 - t for t in steps]


def test_a_short_history_is_not_padded() -> None:
    history = History(torch.tensor([[1.0]]), context_length=20)
    history.append_observation(observe(0), 3)
    assert history.observations is not None and history.actions is not None
    assert (history.observations.shape, history.actions.shape) == ((1, 1, 2), (1, 1, 3))
    assert history.timesteps().tolist() == [0]


def test_context_of_one_step() -> None:
    history = History(torch.tensor([[5.0]]), context_length=1)
    for step in range(3):
        history.append_observation(observe(step), 1)
        history.align_returns(torch.tensor([1.0]))
    assert history.observations is not None and history.returns_to_go is not None
    assert history.observations[0, :, 0].tolist() == [2]
    assert history.returns_to_go.tolist() == [[[3.0]]]
    assert history.timesteps().tolist() == [2]


def test_finished_episodes_are_dropped_with_all_that_is_theirs() -> None:
    history = History(torch.tensor([[10.0], [20.0], [30.0]]), 4)
    history.append_observation(torch.tensor([[0.0], [1.0], [2.0]]), 1)
    history.set_action(torch.tensor([[0.0], [1.0], [2.0]]))
    history.align_returns(torch.tensor([1.0, 2.0, 3.0]))
    history.drop_finished(torch.tensor([True, False, True]))
    history.append_observation(torch.tensor([[5.0], [7.0]]), 1)
    assert history.observations is not None and history.actions is not None and history.returns_to_go is not None
    assert history.observations[..., 0].tolist() == [[0, 5], [2, 7]]
    assert history.actions[..., 0].tolist() == [[0, 0], [2, 0]]
    assert history.returns_to_go[:, 0].tolist() == [[10, 9], [30, 27]]

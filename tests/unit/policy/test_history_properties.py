"""Laws of the acting window, for any context, forgetting and rewards, against lists that are cut by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vdt.policy.history import History

FIRST = (30.0, 20.0)  # candidate returns


@given(
    rewards=st.lists(st.integers(-4, 4), min_size=1, max_size=25),
    context_length=st.integers(1, 8),
    forget_steps=st.integers(1, 10),
)
def test_the_window_is_the_end_of_the_episode(rewards: list[int], context_length: int, forget_steps: int) -> None:
    history = History(torch.tensor([FIRST]), context_length, forget_steps)
    kept: list[int] = []  # timesteps
    for step, reward in enumerate(rewards):
        if len(kept) == context_length:
            kept = kept[forget_steps:]
        kept.append(step)
        history.append_observation(torch.full((1, 2), float(step)), 1)
        assert history.observations is not None and history.actions is not None and history.returns_to_go is not None
        assert history.count_kept(step)[0] == len(kept)
        assert len(history) == len(kept) and history.timesteps().tolist() == kept
        assert history.observations[0, :, 0].tolist() == kept
        assert history.actions[0, :, 0].tolist() == [*kept[:-1], 0]  # the present action is still open
        for candidate, first in enumerate(FIRST):
            wanted = [first - sum(rewards[:t]) for t in kept]
            assert history.returns_to_go[0, candidate].tolist() == pytest.approx(wanted)
        history.set_action(torch.tensor([[float(step)]]))
        history.align_returns(torch.tensor([float(reward)]))

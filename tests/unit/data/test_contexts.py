"""What a policy sees at stored moments, and which moments a critic asks it about."""

import numpy as np
import pytest
import torch

from reference.targets import n_step_target_loop
from support.builders import SETTINGS, make_buffer, make_dataset, make_tiny_sampler, make_trajectory
from vdt.data.sampling import find_bootstrap_rows, gather_contexts

LENGTHS = (5, 1, 7)
DATASET = make_dataset(LENGTHS)
ALL = [(e, t) for e, steps in enumerate(LENGTHS) for t in range(steps + 1)]  # final observations too, in row order


@pytest.mark.parametrize("context", [1, 3, 20])
def test_histories_are_the_last_steps_of_the_same_episode(context: int) -> None:
    buffer = make_buffer(DATASET)
    histories = gather_contexts(buffer, torch.arange(len(ALL)), context)
    for row, (episode, moment) in enumerate(ALL):
        trajectory, first = DATASET[episode], max(0, moment - context + 1)
        assert int(histories.present[row]) == moment - first
        seen = buffer.normalizer.normalize(torch.from_numpy(trajectory.observations[first : moment + 1]))
        count = moment - first + 1
        torch.testing.assert_close(histories.observations[row, :count], seen)
        assert histories.timesteps[row, :count].tolist() == list(range(first, moment + 1))
        for k, t in enumerate(range(first, min(moment, len(trajectory) - 1) + 1)):
            assert float(histories.actions[row, k, 0]) == pytest.approx(float(trajectory.actions[t, 0]))
            assert float(histories.returns_to_go[row, k]) == pytest.approx(
                float(trajectory.rewards[t:].sum()), abs=1e-5
            )
    torch.testing.assert_close(histories.at_present(histories.observations), buffer.matrix[: len(ALL), :2])


def test_successive_moments_share_a_context() -> None:
    """Each sees the steps up to itself, at least K - W + 1 of them where the episode has them, and no other's."""
    buffer, width, context = make_buffer(DATASET), 3, 4
    first = {0: 0, 1: 6, 2: 8}
    windows = [(e, t) for e, steps in enumerate(LENGTHS) for t in range(steps + 1 - (width - 1))]
    rows = torch.tensor([[first[e] + t + i for i in range(width)] for e, t in windows])
    shared = gather_contexts(buffer, rows, context)
    torch.testing.assert_close(shared.at_present(shared.observations), buffer.matrix[rows.flatten(), :2])
    for place, (_, moment) in enumerate(windows):
        for i in range(width):
            present = int(shared.present[place, i])
            assert int(shared.timesteps[place, present]) == moment + i
            assert present >= min(moment + i, context - width)
    alone = gather_contexts(buffer, rows[:, -1].contiguous(), context)
    assert torch.equal(shared.observations, alone.observations)
    assert torch.equal(shared.returns_to_go, alone.returns_to_go)


def test_after_a_real_end_nothing_is_to_go_and_after_a_time_limit_what_was() -> None:
    histories = gather_contexts(make_buffer(DATASET), torch.tensor([5, 7]), 4)  # cut, and really ended
    last = float(DATASET[0].rewards[-1])
    assert histories.at_present(histories.returns_to_go).tolist() == [pytest.approx(last), 0.0]
    assert histories.returns_to_go[0, :3].tolist() == pytest.approx(
        [float(DATASET[0].rewards[t:].sum()) for t in (2, 3, 4)], abs=1e-5
    )


def test_histories_after_eviction() -> None:
    buffer = make_buffer(DATASET, capacity=2)
    buffer.add(make_trajectory(4, seed=9))
    starts, lengths = buffer.index()
    rows = starts + lengths - 1
    histories = gather_contexts(buffer, rows, 20)
    assert histories.present.tolist() == [6, 3]
    torch.testing.assert_close(histories.at_present(histories.observations), buffer.matrix[rows, :2])


def test_bootstrap_rows_are_where_the_rewards_stop() -> None:
    buffer = make_buffer(DATASET)
    steps = [(row, *moment) for row, moment in enumerate(ALL) if moment[1] < LENGTHS[moment[0]]]
    rows = torch.tensor([row for row, _, _ in steps])
    after = find_bootstrap_rows(buffer, rows)
    for got, (row, episode, moment) in zip(after.tolist(), steps, strict=True):
        rewards = DATASET[episode].rewards.tolist()
        _, taken, _ = n_step_target_loop(rewards, False, SETTINGS.discount, SETTINGS.n_step, moment)
        assert got == row + taken
    batch = make_tiny_sampler(buffer).gather_transitions(rows)
    np.testing.assert_array_equal(batch.bootstrap_observations, buffer.matrix[after, :2])


def test_nothing_before_the_first_row_is_read() -> None:
    """A mapped store tells the system which rows will be read, and refuses one below 0."""

    class Strict:
        def __init__(self) -> None:
            self.store = make_buffer(DATASET)

        def __getattr__(self, name: str) -> object:
            return getattr(self.store, name)

        def take(self, rows: torch.Tensor, *columns: object) -> torch.Tensor:
            assert int(rows.min()) >= 0
            return self.store.take(rows, *columns)  # type: ignore[arg-type]

    assert gather_contexts(Strict(), torch.tensor([0, 3]), 2).present.tolist() == [0, 1]  # type: ignore[arg-type]

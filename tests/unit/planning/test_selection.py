"""When an episode may change the candidate return that it follows."""

import pytest
import torch

from vdt.planning.selection import Selection


def follow(
    selection: Selection, *steps: list[list[float]], disagreements: list[list[float]] | None = None
) -> list[list[int]]:
    """Take the given scores, (N, M) a step; return the choices."""
    chosen = []
    for step in steps:
        scores, disagreement = torch.tensor(step), None if disagreements is None else torch.tensor(disagreements)
        choice = selection.choose(scores, disagreement)
        assert torch.equal(choice, selection.choose(scores, disagreement)), "choosing changes nothing"
        selection.record(scores, choice)
        chosen.append(choice.tolist())
    return chosen


STEPS = ([[1.0, 3.0], [2.0, 0.0]], [[5.0, 1.0], [0.0, 1.0]], [[0.0, 9.0], [0.0, 9.0]])


def test_per_step_takes_the_highest_score_of_each_step() -> None:
    assert follow(Selection(), *STEPS) == [[1, 0], [0, 1], [1, 1]]


@pytest.mark.parametrize(
    ("steps", "chosen"),
    [
        (1, [[1, 0], [1, 0], [1, 0]]),  # by the first observation alone
        (2, [[0, 0], [0, 0], [0, 0]]),  # sums 6 and 4, 2 and 1: the first candidate stays, whatever comes later
        (3, [[0, 0], [0, 0], [1, 1]]),  # sums 6 and 13, 2 and 10
        (4, [[0, 0], [0, 0], [0, 0]]),  # the episode is over before
    ],
)
def test_per_episode_chooses_once_by_the_mean_of_the_first_observations(steps: int, chosen: list[list[int]]) -> None:
    assert follow(Selection("per_episode", steps), *STEPS) == chosen


def test_per_episode_keeps_the_first_of_equals() -> None:
    assert follow(Selection("per_episode", 2), [[1.0, 2.0, 2.0]], [[2.0, 1.0, 1.0]], [[0.0, 5.0, 5.0]]) == [[0]] * 3


def test_per_episode_is_settled_from_its_choice_on() -> None:
    selection = Selection("per_episode", 2)
    assert selection.settled is None
    follow(selection, STEPS[0])
    assert selection.settled is None
    follow(selection, STEPS[1])
    assert selection.settled is not None and selection.settled.tolist() == [0, 0]
    for other in (Selection("per_step", 2), Selection("margin", 2)):
        follow(other, *STEPS, disagreements=[[0.0, 0.0]] * 2)
        assert other.settled is None


def test_margin_leaves_the_followed_candidate_for_a_clear_gain_only() -> None:
    scores = (
        [[1.0, 1.4, 0.0]],  # a gain of 0.4 is not above 0.5
        [[1.0, 1.6, 0.0]],  # 0.6 is
        [[1.4, 1.0, 1.05]],  # neither back by 0.4 nor on by 0.05
        [[1.0, 1.0, 2.0]],
        [[9.0, 1.0, 2.0]],
    )
    assert follow(Selection("margin"), *scores, disagreements=[[0.5, 0.1, 0.1]]) == [[0], [1], [1], [2], [0]]


def test_the_larger_disagreement_of_the_two_is_the_margin() -> None:
    scores = [[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]]
    disagreements = [[0.5, 1.5], [1.5, 0.5], [0.5, 0.9]]
    assert follow(Selection("margin"), scores, disagreements=disagreements) == [[0, 0, 1]]


def test_finished_episodes_are_dropped() -> None:
    for kind in ("per_episode", "margin"):
        selection = Selection(kind, 2)
        disagreements = torch.zeros(3, 2)
        first = torch.tensor([[9.0, 0.0], [0.0, 9.0], [0.0, 1.0]])
        selection.record(first, selection.choose(first, disagreements))
        selection.drop_finished(torch.tensor([False, True, True]))
        second = torch.zeros(2, 2)
        assert selection.choose(second, disagreements[1:]).tolist() == [1, 1], kind

"""Choice of the candidate return that an episode follows (`planner.select`)."""

from __future__ import annotations

import torch
from torch import Tensor


class Selection:
    """Choice of N episodes that began together, among M candidates, at one step after the other.

    - `per_step`: the highest score of this step.
    - `per_episode`: the first candidate until the scores of `steps` observations are known, from then on the candidate
      with the highest mean of these. All candidates are scored at the observations that the first one meets.
    - `margin`: the candidate that was followed before, at first the first one, unless another one's score is higher by
      more than the critic's disagreement about either of them.

    Ties go to the candidate that comes first. `choose` changes nothing; `record` makes its choice the past.
    """

    def __init__(self, kind: str = "per_step", steps: int = 1) -> None:
        """Begin episodes; `steps` is of `per_episode`."""
        self.kind, self.steps = kind, steps
        self._count = 0  # observations whose scores are known
        self._sums: Tensor | None = None  # (N, M), of their scores
        self._followed: Tensor | None = None  # (N,)

    @property
    def needs_disagreements(self) -> bool:
        """Return whether the critic's disagreements decide."""
        return self.kind == "margin"

    @property
    def settled(self) -> Tensor | None:
        """Return the candidate that each episode follows to its end, (N,), once no score can change it."""
        return self._followed if self.kind == "per_episode" and self._count >= self.steps else None

    def choose(self, scores: Tensor, disagreements: Tensor | None = None) -> Tensor:
        """Return the index of the candidate to follow, (N,) int64.

        Args:
            scores: (N, M) of the present observations.
            disagreements: (N, M) of the scores, not negative; of `margin` alone.
        """
        if self.kind == "per_step":
            return scores.argmax(1)
        followed = torch.zeros_like(scores[:, 0], dtype=torch.int64) if self._followed is None else self._followed
        if self.kind == "margin":
            assert disagreements is not None
            return _keep_unless_better(followed, scores, disagreements)
        if self._count + 1 != self.steps:  # too early, or settled
            return followed
        return (scores if self._sums is None else self._sums + scores).argmax(1)

    def record(self, scores: Tensor, chosen: Tensor) -> None:
        """Take the step with what `choose` was given and returned."""
        self._sums = scores if self._sums is None else self._sums + scores
        self._followed = chosen
        self._count += 1

    def drop_finished(self, active: Tensor) -> None:
        """Drop finished episodes: `active` is (N,) bool."""
        if self._sums is not None and self._followed is not None:
            self._sums, self._followed = self._sums[active], self._followed[active]


def _keep_unless_better(followed: Tensor, scores: Tensor, disagreements: Tensor) -> Tensor:
    """Return the best candidate where it exceeds the followed one by more than both disagreements, else the followed one."""
    best = scores.argmax(1)
    pair = torch.stack([best, followed], 1)
    (better, kept), disagreement = scores.gather(1, pair).unbind(1), disagreements.gather(1, pair).amax(1)
    return torch.where(better - kept > disagreement, best, followed)

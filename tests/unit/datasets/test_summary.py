"""Facts of a data set that a task needs, and the mapping of its actions."""

import dataclasses

import numpy as np
import pytest

from vdt.datasets.summary import DataSummary, derive_targets, normalise_actions
from vdt.experiments.resolve import resolve_config


def test_a_wide_range_is_mapped_without_overflow() -> None:
    task, largest = resolve_config("walker2d-medium-v2").task, float(np.finfo(np.float32).max)
    actions = np.array([[-largest], [0.5], [largest / 2]], np.float32)
    for high, expected in ((largest, [-1.0, 0.5 / largest, 0.5]), (1e9, [-1.0, 5e-10, 1.0])):
        wide = dataclasses.replace(task, action_low=(-high,), action_high=(high,))
        mapped, _ = normalise_actions(actions, wide)
        np.testing.assert_allclose(mapped[:, 0], np.float32(expected), rtol=1e-6, atol=1e-15)


@pytest.mark.parametrize(
    ("best", "scale"), [(0.0, 1.0), (7.3, 1.0), (730.0, 100.0), (4e-8, 1e-8), (-4e-8, 1e-8), (2e-12, 1e-9)]
)
def test_returns_are_scaled_by_their_decade_however_small(best: float, scale: float) -> None:
    returns = np.array([best / 2, best])
    summary = DataSummary(2, 1, np.array([3, 3]), returns, np.ones(1, np.float32))
    assert derive_targets(summary)["task.return_scale"] == pytest.approx(scale)

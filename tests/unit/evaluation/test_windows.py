"""Sub-trajectories that answer for recorded steps: each step once, with enough history."""

import pytest
import torch

from support.builders import make_actor_critic, make_config, make_dataset
from vdt.evaluation import windows as module
from vdt.evaluation.windows import iterate_windows


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("length", [1, 2, 5, 8, 40])
def test_every_step_is_answered_once_with_its_history(
    length: int, final: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STEPS_PER_PASS", 2 * length)  # two sub-trajectories at a time
    data = make_dataset((5, 1, 13, 16))
    buffer = make_actor_critic(make_config(), data).make_buffer(data, 1)
    starts, steps = buffer.index()
    seen = []
    for windows in iterate_windows(buffer, length, final=final):
        assert len(windows.rows) <= 2 and windows.rows.shape == windows.timesteps.shape == windows.answered.shape
        assert torch.equal(windows.rows - windows.timesteps, starts[windows.episodes, None].expand(windows.rows.shape))
        before = torch.arange(length).expand(windows.rows.shape)[windows.answered]
        times = windows.timesteps[windows.answered]
        assert (before >= torch.minimum(times, torch.tensor(length - max(1, length // 2)))).all()
        seen += windows.rows[windows.answered].tolist()
    assert seen == buffer.list_step_rows((starts, steps + int(final))).tolist()

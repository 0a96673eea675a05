"""Environments whose actions have no bounds: the policy's range comes from the data, or is asked for."""

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from support.builders import LinearActor
from support.environments import CountdownEnv
from support.minari import PENDULUM, make_minari_set
from vdt.config.errors import ConfigError
from vdt.datasets.minari import open_sets
from vdt.datasets.minari_folder import get_root
from vdt.datasets.snapshot import make_snapshot
from vdt.environments import get_action_bounds, make_environment
from vdt.environments.rollout import collect_trajectories
from vdt.experiments.cells import resolve_cells
from vdt.experiments.preflight import check_cells
from vdt.experiments.resolve import resolve_config

ID = "vdttest/unbounded/random-v0"
LARGEST = float(np.finfo(np.float32).max)


class UnboundedEnv(CountdownEnv):
    """The same, with actions of any size."""

    def __init__(self, bound: float = np.inf) -> None:
        super().__init__()
        self.action_space = gymnasium.spaces.Box(-bound, bound, (1,), np.float32)


UNBOUNDED, HUGE = "VDTTest/Unbounded-v0", "VDTTest/Huge-v0"
for name, settings in {UNBOUNDED: {}, HUGE: {"bound": LARGEST}}.items():
    if name not in gymnasium.registry:
        gymnasium.register(name, entry_point=f"{__name__}:UnboundedEnv", kwargs=settings)


def collect_executed(task: Any) -> np.ndarray:
    """Actions of noisy rollouts, as executed."""
    environments = [make_environment(task) for _ in range(4)]
    trajectories = collect_trajectories(LinearActor(0.3), environments, [0, 1, 2, 3], noise=0.1)
    return np.concatenate([trajectory.actions for trajectory in trajectories])


def test_noise_is_finite_where_the_environment_has_no_bounds() -> None:
    buffers = make_minari_set(ID, UNBOUNDED, gain=0.1)
    assert max(np.abs(buffer.actions).max() for buffer in buffers) <= 1
    task = resolve_config(f"minari:{ID}", preset="smoke").task
    assert (task.action_low, task.action_high) == ((-1.0,), (1.0,))
    assert [bound.tolist() for bound in get_action_bounds(make_environment(task))] == [[-1.0], [1.0]]
    executed = collect_executed(task)
    assert np.isfinite(executed).all() and np.abs(executed).max() <= 1


def test_data_beyond_one_gives_its_own_range() -> None:
    buffers = make_minari_set(ID, UNBOUNDED, gain=3.0)
    largest = max(float(np.abs(buffer.actions).max()) for buffer in buffers)
    assert largest > 1
    task = resolve_config(f"minari:{ID}", preset="smoke").task
    assert (task.action_low, task.action_high) == ((-largest,), (largest,))
    assert np.isfinite(collect_executed(task)).all()


def test_a_glitch_that_gives_the_range_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the environment has bounds, they are the range, and the glitch is clipped."""

    def spoil(buffer: Any) -> None:
        if buffer.seed == 4:
            buffer.actions[1] = 1e6

    for environment, warned in ((UNBOUNDED, True), (PENDULUM, False)):
        caplog.clear()
        buffers = make_minari_set(f"vdttest/glitch{warned}/random-v0", environment, gain=1.0, change=spoil)
        row = sum(len(buffer.actions) for buffer in buffers[:4]) + 1
        make_snapshot(
            resolve_config(f"minari:vdttest/glitch{warned}/random-v0", preset="smoke"), tmp_path / str(warned)
        )
        said = [record.message for record in caplog.records if "a few values widen" in record.message]
        assert [f"0 reaches 1e+06 in step 1 of episode 4 (row {row} of all)" in one for one in said] == [True] * warned


@pytest.mark.parametrize(
    ("low", "high", "largest", "expected"),
    [
        ([-1.0, -1.0], [1.0, 1.0], 0.5, ([], [])),
        ([-np.inf, -0.5], [np.inf, 0.5], 0.9, ([-1.0, -0.5], [1.0, 0.5])),
        ([0.0, -LARGEST], [np.inf, LARGEST], 0.9, ([0.0, -1.0], [1.0, 1.0])),
        ([-np.inf, -3.0], [np.inf, 3.0], 2.0, None),
        ([-3.0, 1.0], [3.0, 1.0], 0.9, None),
    ],
)
def test_finite_bounds_are_kept_beside_infinite_ones(
    low: list[float], high: list[float], largest: float, expected: tuple[list[float], list[float]] | None
) -> None:
    make_minari_set(ID, UNBOUNDED, gain=0.1)
    path = get_root() / ID / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["action_space"] = json.dumps({"type": "Box", "shape": [2], "low": low, "high": high})
    path.write_text(json.dumps(metadata))
    assert open_sets([ID])[0].get_action_bounds(largest) == expected


@pytest.mark.parametrize("environment_id", [UNBOUNDED, HUGE])
def test_own_data_in_an_environment_without_bounds_is_refused_before_any_work(
    tmp_path: Path, environment_id: str
) -> None:
    random = np.random.default_rng(0)
    for number in range(3):
        rows = {"observations": (6, 2), "actions": (5, 1), "rewards": (5,)}
        arrays = {name: random.random(shape).astype(np.float32) for name, shape in rows.items()}
        np.savez(tmp_path / f"{number}.npz", **arrays, terminated=np.array(False))
    environment = f"task.environment_id={environment_id}"
    given = {"env": f"data:{tmp_path}", "preset": "smoke"}
    cells, _ = resolve_cells({**given, "set": environment})
    with pytest.raises(ConfigError, match=rf"actions of {environment_id} have no bounds") as caught:
        check_cells(cells)
    advised = "task.action_low=[-1] task.action_high=[1]"
    assert f'--set "{advised}"' in str(caught.value)
    accepted, _ = resolve_cells({**given, "set": f"{environment} {advised}"})
    check_cells(accepted)
    with pytest.raises(ConfigError, match="have no bounds"):
        check_cells([*accepted, *cells])

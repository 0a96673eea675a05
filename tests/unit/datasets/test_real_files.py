"""Files of the official format and recorded episodes, where they are at hand; see `find_real_file`."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from support.data import find_real_file
from vdt.datasets.card import format_card
from vdt.datasets.snapshot import make_snapshot
from vdt.environments import make_environment
from vdt.experiments.resolve import resolve_config

TOLERANCE = 1e-4  # the records are float32; a step of contact dynamics multiplies their rounding


@pytest.mark.parametrize(
    ("name", "episodes", "steps", "sizes"),
    [
        ("mini_kitchen_microwave_kettle_light_slider-v0", 19, 3680, (60, 9)),
        ("door-human-v1", 25, 6729, (39, 28)),
    ],
)
def test_official_format_files_and_their_cards(
    home: Path, name: str, episodes: int, steps: int, sizes: tuple[int, int]
) -> None:
    path = find_real_file(f"d4rl/{name}.hdf5")
    config = resolve_config(f"data:{path}", preset="smoke")
    snapshot = make_snapshot(config, home)
    card = snapshot.card
    assert (card["episodes"], card["steps"]) == (episodes, steps)
    assert (card["observation_size"], card["action_size"]) == sizes
    assert card["clipped_actions"] == 0, "the data's own range is [-1, 1]"
    assert (card["return_quantiles"]["min"], card["return_quantiles"]["max"]) == pytest.approx(
        (config.task.reference_return_min, config.task.reference_return_max)
    )
    text = format_card(card)
    print(text)
    assert f"{episodes} episodes, {steps:,} steps" in text
    assert "score 0 and 100 are the data's own worst and best episode return" in text


@pytest.mark.parametrize(
    ("env", "name", "compared", "share"),
    [
        ("halfcheetah-medium-v2", "halfcheetah", 2000, 1.0),
        ("walker2d-medium-v2", "walker2d", 216, 1.0),
        ("hopper-medium-v2", "hopper", 1644, 0.74),  # the others are steps on the ground: its contacts have changed
    ],
)
def test_recorded_episodes_are_what_the_simulator_does(env: str, name: str, compared: int, share: float) -> None:
    """Each step from its recorded observation.

    Hopper's and Walker2d's observations clip velocities at ±10; what was clipped is not known, and such steps are left out.
    """
    with h5py.File(find_real_file(f"episodes/{name}-v4-expert.hdf5")) as file:
        before, after = file["observations"][()].astype(np.float64), file["next_observations"][()]
        actions, rewards = file["actions"][()], file["rewards"][()]
    simulator = make_environment(resolve_config(env).task).unwrapped
    simulator.reset(seed=0)
    positions = simulator.model.nq - 1  # type: ignore[attr-defined]  # all but the distance covered
    clips = name != "halfcheetah"
    known = [k for k in range(len(before)) if not clips or (np.abs(before[k, positions:]) < 10).all()]
    errors = []
    for k in known:
        simulator.set_state(np.concatenate([[0.0], before[k, :positions]]), before[k, positions:])  # type: ignore
        observation, reward, *_ = simulator.step(actions[k])
        errors.append(max(np.abs(observation - after[k]).max(), abs(float(reward) - rewards[k])))
    assert len(known) == compared
    assert np.mean(np.array(errors) < TOLERANCE) >= share

"""Resolution of a cell's configuration: what is derived once all changes are known."""

from typing import Any

import pytest

from vdt.config.errors import ConfigError
from vdt.experiments.cells import resolve_cells
from vdt.experiments.resolve import resolve_config

ENV = "walker2d-medium-v2"


def resolve_without_environment(overrides: str = "", **words: Any) -> int:
    """Return the length of the fit of a cell without an environment, preset smoke."""
    given = {"source": "collected", "preset": "smoke", **words}
    config = resolve_config(ENV, overrides=f"task.environment_id=null {overrides}", **given)
    return config.evaluation.fitted_q_steps


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        ("", 60),  # 60 of the critic, 40 of the actor
        ("actor.gradient_steps=700", 700),
        ("critic.gradient_steps=9 actor.gradient_steps=7", 9),
        ("critic.gradient_steps=3e2", 300),
        ("critic.gradient_steps=90000", 10_000),
        ("critic.gradient_steps=90000 evaluation.fitted_q_steps=0", 0),
        ("critic.gradient_steps=90000 evaluation.fitted_q_steps=20000", 20_000),
    ],
)
def test_the_fit_is_as_long_as_the_training_that_is_asked_for(overrides: str, steps: int) -> None:
    assert resolve_without_environment(overrides) == steps


def test_the_fit_follows_patches_and_sweeps() -> None:
    patches = [("set", {"critic": {"gradient_steps": 5}}), ("patches.long", {"actor.gradient_steps": 800})]
    assert resolve_without_environment(patches=patches) == 800
    assert resolve_without_environment(patches=[*patches, ("x", {"evaluation": {"fitted_q_steps": 0}})]) == 0
    words = {"env": ENV, "source": "collected", "preset": "smoke", "set": "task.environment_id=null"}
    cells, _ = resolve_cells({**words, "sweep": "critic.gradient_steps=100,200"})
    assert [cell.config.evaluation.fitted_q_steps for cell in cells] == [100, 200]


def test_wrong_steps_are_refused_as_elsewhere() -> None:
    with pytest.raises(ConfigError, match="must be a whole number, not 'many'"):
        resolve_without_environment("critic.gradient_steps=many")


def test_cells_with_an_environment_have_no_fit() -> None:
    assert resolve_config(ENV, preset="smoke").evaluation.fitted_q_steps == 0

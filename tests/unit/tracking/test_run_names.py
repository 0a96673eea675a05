"""Names and colors of runs tell them apart."""

import dataclasses
import re
from typing import Any

import pytest

from support.builders import make_config
from vdt.config.layers import list_names
from vdt.tracking.run_names import choose_color, make_run_name, name_variant

CONFIG = make_config()


@pytest.mark.parametrize(
    ("patch", "changes", "shown"),
    [
        ("", {}, ""),
        ("weak", {}, "weak"),
        ("", {"actor.gradient_steps": 3000}, "gradient_steps=3000"),
        ("weak", {"data.seed": 5, "critic.n_step": 3}, "weak-n_step=3"),
        ("", {"data.seed": 5, "runtime.seed": 3}, "seed=3"),
        (
            "",
            {"critic.gradient_steps": 200, "actor.gradient_steps": 100, "critic.n_step": 3},
            "critic.gradient_steps=200,actor.gradient_steps=100,n_step=3",
        ),
        (
            "",
            {f"actor.{letter * 12}": 10_000 for letter in "abcd"},
            "aaaaaaaaaaaa=10000,bbbbbbbbbbbb=10000,cccccccccccc=10000,1 more",
        ),
    ],
)
def test_a_changed_setting_is_seen_in_name_and_color(patch: str, changes: dict[str, Any], shown: str) -> None:
    assert name_variant(patch, changes) == shown
    name = make_run_name(CONFIG, source="collected", patch=shown)
    assert name == "-".join(filter(None, ("vdt", shown, "s0-walker2d-medium-v2-collected")))
    assert (choose_color(CONFIG, shown) == choose_color(CONFIG)) == (not shown)


def test_runs_that_are_compared_have_colors_of_their_own() -> None:
    """Ten methods with two seeds each, and four patches of one."""
    configs = [CONFIG.with_seed(seed) for seed in (0, 1)]
    colors = [choose_color(dataclasses.replace(c, method=m), "") for m in list_names("methods") for c in configs]
    colors += [choose_color(configs[0], patch) for patch in ("strong", "weak", "no weights", "E=3")]
    assert len(set(colors)) == len(colors) == 24
    assert all(re.fullmatch("#[0-9a-f]{6}", color) for color in colors)
    red = dataclasses.replace(configs[0], method=list_names("methods")[0])
    assert choose_color(red) == "#aa1818", "hue 0, lightness 0.38, saturation 0.75"

"""Grids in study files and behind --sweep: their cells, their names, and what is refused before any work."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from vdt.config.errors import ConfigError
from vdt.experiments.cells import resolve_cells
from vdt.experiments.grid import LONGEST_NAME, expand_grid, name_sweep, parse_sweep, read_grid
from vdt.experiments.study import PATCH_NAME, load_study

ENV = "walker2d-medium-v2"
GRID = {"actor.q_coefficient": [0.1, 0.3], "actor.inverse_temperature": [0.3, 1, 3]}


def write_study(folder: Path, **content: Any) -> str:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"preset": "smoke", "envs": [ENV], **content}, sort_keys=False))
    return str(path)


def test_a_grid_is_every_combination_with_every_seed(tmp_path: Path) -> None:
    cells, study = resolve_cells({"study": write_study(tmp_path, grid=GRID), "seeds": "0-1"})
    assert study is not None
    found = [(c.config.actor.q_coefficient, c.config.actor.inverse_temperature, c.config.seed) for c in cells]
    assert found == [(q, eta, seed) for q in (0.1, 0.3) for eta in (0.3, 1.0, 3.0) for seed in (0, 1)]
    assert cells[0].patch == "q_coefficient-0.1-inverse_temperature-0.3"
    assert study.describe()["settings"][cells[-1].patch] == {
        "actor.q_coefficient": 0.3,
        "actor.inverse_temperature": 3,
    }


def test_nested_keys_are_dotted_keys(tmp_path: Path) -> None:
    nested = {"actor": {"q_coefficient": [0.1, 0.3], "inverse_temperature": [0.3, 1, 3]}}
    assert read_grid(nested, "x") == read_grid(GRID, "x")


def test_patches_and_grid_are_multiplied(tmp_path: Path) -> None:
    patches = {"short": {"policy": {"context_length": 2}}, "long": {"policy": {"context_length": 4}}}
    grid = {"actor.learning_rate": ["3e-4", 0.001]}
    cells, _ = resolve_cells({"study": write_study(tmp_path, patches=patches, grid=grid)})
    assert [cell.patch for cell in cells] == [
        f"{name}-learning_rate-{rate}" for name in ("short", "long") for rate in ("0.0003", "0.001")
    ]
    assert [(c.config.policy.context_length, c.config.actor.learning_rate) for c in cells[1:3]] == [
        (2, 0.001),
        (4, 0.0003),
    ]


def test_a_sweep_without_a_file_is_a_study() -> None:
    words = {"env": ENV, "sweep": "actor.q_coefficient=0.1,0.3 actor.inverse_temperature=0.3,1,3", "seeds": "0-4"}
    cells, study = resolve_cells(words)
    assert study is not None and study.share_training and len(cells) == 30
    assert study.name == "sweep-q_coefficient-inverse_temperature"
    alone, none = resolve_cells({"env": ENV})
    assert none is None and len(alone) == 1


def test_sweeps_of_other_keys_have_other_names() -> None:
    rates = ["actor.learning_rate", "critic.learning_rate"]
    long = ["actor.min_effective_sample_fraction", "actor.max_history_correlation"]
    grids = [
        *([rate] for rate in rates),
        rates,
        ["actor.q_coefficient"],
        [*long, "actor.q_coefficient"],
        [*long, "actor.inverse_temperature"],
    ]
    names = [name_sweep({key: (1, 2) for key in keys})["name"] for keys in grids]
    assert names[:2] == ["sweep-actor.learning_rate", "sweep-critic.learning_rate"]
    assert names[3] == "sweep-q_coefficient", "no other section has such a key"
    assert len(set(names)) == len(names) and all(len(name) <= LONGEST_NAME for name in names)


def test_a_sweep_replaces_the_grid_of_a_file(tmp_path: Path) -> None:
    given = write_study(tmp_path, grid=GRID)
    cells, study = resolve_cells({"study": given, "sweep": "critic.expectile=0.5,0.7"})
    assert study is not None and study.name == "mine"
    assert [cell.config.critic.expectile for cell in cells] == [0.5, 0.7]


def test_lists_are_values_in_brackets() -> None:
    grid = parse_sweep("task.candidate_returns=[3,2],[5] critic.activation=mish,relu")
    assert grid == {"task.candidate_returns": ([3, 2], [5]), "critic.activation": ("mish", "relu")}
    assert next(iter(expand_grid(grid))) == "candidate_returns-3_2-activation-mish"


@pytest.mark.parametrize(
    ("sweep", "values"),
    [
        ("init.policy=runs/A.pt,runs/a.pt", ("runs/A.pt", "runs/a.pt")),
        ("task.environment_id=null,none,a-b", (None, "none", "a-b")),
    ],
)
def test_different_values_may_have_the_same_name(sweep: str, values: tuple[Any, ...]) -> None:
    grid = parse_sweep(sweep)
    ((key, read),) = grid.items()
    assert read == values
    points = expand_grid({**grid, "actor.q_coefficient": (0.1, 0.3)})
    assert [point[key] for point in points.values()] == [value for value in values for _ in range(2)]


def test_names_are_names_of_patches_and_differ() -> None:
    sections = ("actor.learning_rate", "critic.learning_rate")
    long = {f"{key}": [0.1, 1e-5] for key in ("actor.min_effective_sample_fraction", "actor.inverse_temperature")}
    for grid in (dict.fromkeys(sections, (1e-3, 3e-4)), long, {**long, **dict.fromkeys(sections, (1, 2))}):
        points = expand_grid(read_grid({key: list(values) for key, values in grid.items()}, "x"))
        assert len(points) == 2 ** len(grid)
        assert all(len(name) <= LONGEST_NAME for name in points)
        assert all(PATCH_NAME.fullmatch(name[:40]) for name in points)
    coefficients = ("actor.next_observation_coefficient", "actor.min_effective_sample_fraction")
    assert list(expand_grid(dict.fromkeys(coefficients, (0.1,)))) == ["next_obse_coef-0.1-min_effe_samp_frac-0.1"]
    assert "actor.learning_rate-0.001-critic.learning_rate-0.0003" in expand_grid(dict.fromkeys(sections, (1e-3, 3e-4)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"grid": {"actor.q_coeficient": [1]}}, "grid: unknown key 'actor.q_coeficient'; did you mean 'actor.q_coe"),
        ({"grid": {"actor.q_coefficient": []}}, "grid: actor.q_coefficient needs a list of at least one value, not []"),
        (
            {"grid": {"actor.q_coefficient": 0.3}},
            "grid: actor.q_coefficient needs a list of at least one value, not 0.3",
        ),
        ({"grid": {"actor.q_coefficient": [1, "1.0"]}}, "grid: actor.q_coefficient has the value 1 twice"),
        (
            {"grid": {"task.candidate_returns": [[3, 2], [1], [3.0, 2]]}},
            "grid: task.candidate_returns has the value [3, 2] twice",
        ),
        ({"grid": {}}, "grid: no key with values"),
        ({"grid": {"seed": [1, 2]}}, "grid: seed is given by --seeds, not by a change of settings"),
        ({"grid": {"actor.q_coefficient": [0.1, -1]}}, "actor.q_coefficient must be at least 0.0, not -1"),
        (
            {"grid": {"actor.q_coefficient": list(range(101)), "actor.inverse_temperature": list(range(100))}},
            "grid: 101 x 100 are 10,100 points; at most 10,000 cells are accepted",
        ),
        (
            {"grid": {"actor.q_coefficient": list(range(100))}, "seeds": list(range(101))},
            "100 values of actor.q_coefficient x 101 seeds are 10,100 cells; at most 10,000 are accepted",
        ),
        (
            {"grid": GRID, "patches": {"a": {"actor": {"q_coefficient": 1}}}},
            "grid and patch a both give actor.q_coefficient",
        ),
    ],
)
def test_wrong_grids_are_refused(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_cells({"study": write_study(tmp_path, **content)})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("actor.q_coefficient", "'actor.q_coefficient' is not of the form section.key=value,value"),
        ("=1,2", "'=1,2' is not of the form"),
        ("lr=1,2", "--sweep: unknown key 'lr'; did you mean"),
        ("actor.q_coefficient=", "--sweep: actor.q_coefficient needs a list of at least one value"),
        ("actor.q_coefficient=1 actor.q_coefficient=2", "--sweep names actor.q_coefficient twice"),
        ("actor.q_coefficient='1", "cannot be split into words"),
        (" ", "--sweep: no key with values"),
    ],
)
def test_wrong_sweeps_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_sweep(text)
    assert message in str(caught.value)


def test_the_published_studies_have_no_grid() -> None:
    assert load_study("ablation").grid == {}

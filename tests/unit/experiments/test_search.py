"""Section `search` of a study file: what it says, and what is refused before any work."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from vdt.config.errors import ConfigError
from vdt.experiments.cells import resolve_cells, resolve_study
from vdt.experiments.search import Choices, Range, list_corners, read_search
from vdt.experiments.search_trials import check_search, find_search_folder, make_base
from vdt.experiments.study import STUDIES, expand, make_reported

ENV = "walker2d-medium-v2"
SPACE = {
    "actor.q_coefficient": {"low": 0.03, "high": 1, "log": True},
    "planner": {"candidates": {"low": 1, "high": 3}},
    "actor.inverse_temperature": [0.3, 1, 3],
}
WHOLE_EPISODES = {"evaluation": {"max_episode_steps": 0, "curve_points": 3}}


def write_search(folder: Path, *, study: dict[str, Any] | None = None, **section: Any) -> str:
    path = folder / "found-here.yaml"
    search = {"space": SPACE, "trials": 20, **section}
    content = {"preset": "smoke", "source": "collected", "envs": [ENV], "set": WHOLE_EPISODES, **(study or {})}
    path.write_text(yaml.safe_dump({**content, "search": search}, sort_keys=False))
    return str(path)


def test_the_space_has_the_types_of_its_keys() -> None:
    search = read_search({"space": SPACE, "trials": 5}, "x")
    assert search.space == {
        "actor.q_coefficient": Range(0.03, 1.0, log=True),
        "planner.candidates": Range(1, 3, step=1, whole=True),
        "actor.inverse_temperature": Choices((0.3, 1, 3)),
    }
    assert (search.seeds, search.report_seeds, search.sampler, search.pruner) == ((100, 101), (0, 1, 2), "tpe", "none")
    assert list_corners(search.space) == [
        {"actor.q_coefficient": 0.03, "planner.candidates": 1, "actor.inverse_temperature": 0.3},
        {"actor.q_coefficient": 1.0, "planner.candidates": 3, "actor.inverse_temperature": 1},
        {"actor.q_coefficient": 1.0, "planner.candidates": 3, "actor.inverse_temperature": 3},
    ]


def test_trials_and_winner_share_neither_seeds_nor_episodes_nor_data(tmp_path: Path) -> None:
    given = write_search(tmp_path, report={"seeds": [0, 1], "data_seed": 7})
    study = resolve_study({"study": given})
    cells = check_search(study)
    assert [cell.config.seed for cell in cells] == [100, 101]
    assert {(cell.config.evaluation.seed, cell.config.data.seed) for cell in cells} == {(1_000_000, 0)}
    reported = expand(make_reported(study, {"actor.q_coefficient": 0.5}))
    assert [cell.config.seed for cell in reported] == [0, 1]
    assert {(c.config.evaluation.seed, c.config.data.seed, c.config.actor.q_coefficient) for c in reported} == {
        (1000, 7, 0.5)
    }


def test_a_longer_search_is_the_same_search_and_any_other_change_is_another(tmp_path: Path) -> None:
    def find(words: dict[str, str] | None = None, **section: Any) -> Path:
        given = {"study": write_search(tmp_path, **section), **(words or {})}
        return find_search_folder(resolve_study(given), given.get("set", ""))

    first = find()
    assert find(trials=40) == find(beside=["other"]) == first
    assert find({"set": "checkpoint.keep=1 runtime.threads=1"}) == first
    finished = replace(
        resolve_study({"study": write_search(tmp_path)}), patches={"t000": {"actor.q_coefficient": 0.25}}
    )
    assert find_search_folder(finished) == first, "the report of a search finds its trials"
    others = [
        find(seeds=[100]),
        find(sampler="random"),
        find(pruner="median"),
        find(report={"seeds": [3]}),
        find({"set": "actor.batch_size=17"}),
        find({"method": "qt"}),
        find(space={"actor.q_coefficient": [0.1, 0.3]}),
    ]
    assert len({first, *others}) == len(others) + 1


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"space": {}}, "search: space: no key to search"),
        ({"space": {"actor.q_coeficient": [1]}}, "space: unknown key 'actor.q_coeficient'; did you mean 'actor.q_coe"),
        ({"space": {"evaluation.episodes": [1, 2]}}, "evaluation.episodes changes how a trial is measured"),
        ({"space": {"seed": [1, 2]}}, "seed is given by --seeds"),
        ({"space": {"actor.q_coefficient": 3}}, "actor.q_coefficient takes {low, high} with log: true or step"),
        ({"space": {"actor.q_coefficient": {"low": 1}}}, "actor.q_coefficient needs low and high"),
        ({"space": {"actor.q_coefficient": {"low": 1, "hihg": 2}}}, "takes {low, high} with log: true or step"),
        ({"space": {"actor.q_coefficient": {"low": 2, "high": 1}}}, "low must be below high, not 2.0 and 1.0"),
        ({"space": {"actor.q_coefficient": {"low": 0, "high": 1, "log": True}}}, "log needs low above 0 and no step"),
        ({"space": {"actor.q_coefficient": {"low": 0, "high": 1, "step": 2}}}, "step must be above 0 and at most"),
        ({"space": {"planner.candidates": {"low": 1.5, "high": 3}}}, "planner.candidates: low must be a whole number"),
        ({"space": {"critic.activation": {"low": 1, "high": 3}}}, "so no low and high; list its choices"),
        ({"space": {"actor.q_coefficient": {"choices": []}}}, "needs a list of at least one value"),
        ({"space": {"critic.discount": {"low": 0.9, "high": 1.1}}}, "critic.discount must be between 0.0 and 1.0"),
        ({"trials": 0}, "trials must be between 1 and 10,000, not 0"),
        ({"trials": "many"}, "trials must be a whole number, not 'many'"),
        ({"trial": 3}, "unknown key 'trial'; did you mean 'trials'"),
        ({"sampler": "tpee"}, "sampler must be one of tpe, random, cmaes, grid, not 'tpee'; did you mean 'tpe'"),
        ({"sampler": "grid"}, "sampler grid needs choices or a step for each key; actor.q_coefficient has neither"),
        ({"sampler": "cmaes", "space": {"actor.q_coefficient": {"low": 0, "high": 1}}}, "sampler cmaes needs two keys"),
        ({"pruner": "hyperband"}, "pruner must be one of none, median, halving"),
        ({"seeds": [100, 100]}, "seeds must be different whole numbers from 0"),
        ({"seeds": []}, "seeds must be different whole numbers from 0, at least one"),
        ({"seeds": [0, 5]}, "seed 0 is a tuning seed and a reported one"),
        ({"report": {"seeds": [101]}}, "seed 101 is a tuning seed and a reported one"),
        ({"report": {"seed": [1]}}, "report: unknown key 'seed'; did you mean 'seeds'"),
        ({"evaluation_seed": 2000}, "evaluation_seed 2000 is that of reported episodes, or less than 10,000 from it"),
        ({"score": "held_out"}, "score held_out needs held-out episodes: set data.held_out_fraction"),
        ({"score": "fitted_q"}, "score fitted_q needs a fit: set evaluation.fitted_q_steps"),
        ({"study": {"set": {"evaluation": {"max_episode_steps": 50}}}}, "cut short have no score"),
        (
            {"study": {"set": {"evaluation": {"max_episode_steps": 0}}}, "pruner": "median"},
            "set evaluation.curve_points",
        ),
        ({"study": {"seeds": [1]}}, "seeds does not go with search"),
        ({"study": {"grid": {"actor.q_coefficient": [1, 2]}}}, "grid does not go with search"),
        ({"study": {"methods": ["vdt", "dt"]}}, "a search has one method, not vdt, dt"),
        (
            {"study": {"envs": [ENV, "hopper-medium-v2"]}, "pruner": "median"},
            "compares scores of one env and one data seed; 2 are given",
        ),
        (
            {"pruner": "median", "space": {"actor.gradient_steps": [10, 20]}},
            "compares trials after as many steps: leave actor.gradient_steps out",
        ),
    ],
)
def test_wrong_searches_are_refused(tmp_path: Path, section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_search(resolve_study({"study": write_search(tmp_path, **section)}))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"trial": "0", "seeds": "0"}, "--seeds: 0 is a reported seed of this search, which only its winner is run on"),
        ({"trial": "0", "seeds": "7"}, "--seeds: 7 is none of the search's tuning seeds [100, 101]"),
        ({"seeds": "100"}, "names its tuning seeds and its reported ones"),
        ({"trial": "0"}, "has no trial 0 in"),
        ({"sweep": "actor.q_coefficient=1,2"}, "is a search, whose space says what is tried"),
        ({"method": "vdt,dt"}, "--method: a search has one method"),
        ({"reuse": "none"}, "--reuse none does not go with a search"),
        ({}, "none of the 0 trials of"),
    ],
)
def test_wrong_words_are_refused(tmp_path: Path, words: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_cells({"study": write_search(tmp_path), **words})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("given", "overrides", "message"),
    [
        ({}, "evaluation.seed=1000", "evaluation.seed is given by evaluation_seed, and by --set; leave it out there"),
        ({}, "actor.q_coefficient=1", "actor.q_coefficient is given by space, and by --set; leave it out there"),
        (
            {"evaluation": {"seed": 7}},
            "",
            "evaluation.seed is given by evaluation_seed, and by set; leave it out there",
        ),
        ({"actor": {"q_coefficient": 1}}, "", "actor.q_coefficient is given by space, and by set; leave it out there"),
    ],
)
def test_no_value_is_given_twice(tmp_path: Path, given: dict[str, Any], overrides: str, message: str) -> None:
    """One of the two would be lost, and all trials be the same."""
    study = resolve_study({"study": write_search(tmp_path, study={"set": {**WHOLE_EPISODES, **given}})})
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_search(study, overrides)


def test_data_seeds_of_trials_are_not_the_winners(tmp_path: Path) -> None:
    given = write_search(tmp_path, study={"data_seeds": [3, 4]}, report={"data_seed": 7})
    study = resolve_study({"study": given})
    assert [(c.config.data.seed, c.config.seed) for c in expand(make_base(study))] == [
        (data, seed) for data in (3, 4) for seed in (100, 101)
    ]
    assert {c.config.data.seed for c in expand(make_reported(study, {}))} == {7}
    both = resolve_study({"study": write_search(tmp_path, study={"data_seeds": [3, 4]})})
    assert {c.config.data.seed for c in expand(make_reported(both, {}))} == {3, 4}
    pruned = resolve_study({"study": write_search(tmp_path, study={"data_seeds": [3, 4]}, pruner="median")})
    with pytest.raises(ConfigError, match="compares scores of one env and one data seed; 2 are given"):
        check_search(pruned)


def test_a_trial_needs_a_search() -> None:
    with pytest.raises(ConfigError, match="--trial: this run is no search"):
        resolve_cells({"env": ENV, "trial": "0"})


@pytest.mark.parametrize("path", sorted(STUDIES.glob("search-*.yaml")), ids=lambda path: path.stem)
def test_the_searches_that_come_with_it(path: Path) -> None:
    study = resolve_study({"study": path.stem})
    assert study.search is not None and study.search.report_data_seed == 1
    assert [cell.config.seed for cell in check_search(study)] == list(study.seeds)
    for other in study.search.beside:
        assert resolve_study({"study": other}).search is not None

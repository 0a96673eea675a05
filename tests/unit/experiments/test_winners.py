"""The winner of a grid as a study file: it resolves to the winner's settings on seeds that were not used."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from support.builders import make_actor_critic, make_trajectory
from support.records import make_evaluation, make_record
from vdt.config.errors import ConfigError
from vdt.data.trajectory import TrajectoryDataset
from vdt.evaluation.records import CellRecord
from vdt.evaluation.trials import COMPLETE, Trial
from vdt.experiments.cells import compute_identities, resolve_cells
from vdt.experiments.found import add_winners, find_winner_file, make_winner_file
from vdt.experiments.resolve import resolve_config
from vdt.experiments.results_store import save_result
from vdt.experiments.study import Cell, Study, choose_reported_seeds, load_study

ENV = "walker2d-medium-v2"
SWEEP = {
    "env": ENV,
    "preset": "smoke",
    "source": "collected",
    "seeds": "1,3",
    "set": "evaluation.episodes=3 data.steps=1500",
    "sweep": "actor.q_coefficient=0.1,0.3 task.candidate_returns=[4000,2000],[3000]",
}


def make_winner(**changes: Any) -> Trial:
    settings = {"actor.q_coefficient": 0.3, "task.candidate_returns": (4000, 2000)}
    fields = {"score": 71.25, "scores_by_seed": {1: 70.0, 3: 72.5}, "patch": "best", "settings": settings, **changes}
    return Trial(number=2, state=COMPLETE, **fields)


def score(cells: Sequence[Cell]) -> list[CellRecord]:
    """Return a finished record of each cell, the later the better."""
    return [
        make_record(
            cell.config.seed,
            {"offline": {"single": make_evaluation([50 + 10 * number], (4000.0,))}},
            patch=cell.patch,
            config={**cell.config.flatten(), "planner.candidates": 1},
        )
        for number, cell in enumerate(cells)
    ]


def write_found(home: Path, study: Study, overrides: str) -> Path:
    """Write the winner's file, and return its path below the home folder."""
    file = find_winner_file(study.name)
    (home / file).parent.mkdir(parents=True)
    (home / file).write_text(
        make_winner_file(study.describe(overrides), make_winner(), 4, [ENV], "vdt", [make_record(1, {})])
    )
    return file


def test_the_file_resolves_to_the_winner_on_seeds_that_were_not_used(home: Path) -> None:
    tried, study = resolve_cells(SWEEP)
    assert study is not None
    file = write_found(home, study, SWEEP["set"])
    cells, found = resolve_cells({"study": str(file)})  # named below the home folder, from wherever
    assert found is not None and found.name == study.name
    assert [cell.config.seed for cell in cells] == [0, 2, 4]
    winner = next(
        cell.config
        for cell in tried
        if cell.config.actor.q_coefficient == 0.3 and len(cell.config.task.candidate_returns) == 2
    )
    assert [cell.config for cell in cells] == [winner.with_seed(seed) for seed in (0, 2, 4)]
    assert winner.evaluation.episodes == 3, "the command line's settings are among it"


def test_it_says_where_it_comes_from_and_that_its_score_is_biased(home: Path) -> None:
    study = resolve_cells(SWEEP)[1]
    assert study is not None
    text = (home / write_found(home, study, SWEEP["set"])).read_text()
    head = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    assert "sweep-q_coefficient-candidate_returns on 20" in head and "settings best, the best of 4" in head
    assert "Data: walker2d-medium-v2, collected, md5 0123abcd, smoke preset." in head
    # half of the distance of two numbers is their mean's standard error
    assert "Score on tuning seeds 1, 3: 71.25 ± 1.2." in head and "biased upward" in head
    assert "Seeds 0, 2, 4 and their evaluation episodes were not used" in head
    assert "/" not in head, "no place of this machine"


def test_a_grids_winner_is_written_once_all_cells_are_there_and_meets_other_episodes(home: Path) -> None:
    tried, study = resolve_cells(SWEEP)
    assert study is not None
    cells = score(tried)
    facts = study.describe(SWEEP["set"])
    file = home / find_winner_file(study.name)
    unfinished = add_winners(cells[:-1], {**facts, "missing": ["x"]}, "exact", "flow")
    assert unfinished["found"] == {} and not file.exists()
    found = add_winners(cells, facts, "exact", "python flow.py")
    (entry,) = found["found"].values()
    command = f"python flow.py run --study params/found/{file.name}"
    assert entry["command"] == f"VDT_HOME={home} {command}" and found["reported"] == []
    reported, _ = resolve_cells({"study": entry["file"]})
    winner = tried[-1].config
    assert {cell.config.evaluation.seed for cell in reported} == {winner.evaluation.seed + 10_000}
    assert {(c.config.actor.q_coefficient, c.config.task.candidate_returns) for c in reported} == {
        (winner.actor.q_coefficient, winner.task.candidate_returns)
    }
    plain = {**facts, "ranked": False}
    assert add_winners(cells, plain, "exact", "flow") is plain
    unfinished = add_winners(cells[:-1], {**facts, "missing": ["x"]}, "exact", "flow")
    assert unfinished["found"] == {}, "the file may be of other cells, and the winner is not known yet"


def test_a_winners_report_has_a_folder_of_its_own(home: Path) -> None:
    study = resolve_cells(SWEEP)[1]
    assert study is not None
    file = write_found(home, study, SWEEP["set"])
    winner = load_study(str(file))
    assert winner.name == study.name == "sweep-q_coefficient-candidate_returns"
    assert study.describe()["folder"] == f"study-{study.name}" and winner.describe()["folder"] == f"winner-{study.name}"


def test_a_winner_begins_from_the_policy_that_its_grid_began_from(home: Path, tmp_path: Path) -> None:
    policy = tmp_path / "a policy.pt"
    config = resolve_config(ENV, preset="smoke", source="collected", overrides="planner.returns=task")
    data = TrajectoryDataset.from_trajectories([make_trajectory(9, observation_size=17, action_size=6)])
    torch.save({"actor_critic": make_actor_critic(config, data).state_dict()}, policy)
    tried, study = resolve_cells({**SWEEP, "init_from": str(policy)})
    assert study is not None
    facts, cells = study.describe(SWEEP["set"]), score(tried)
    first = add_winners(cells, facts, "exact", "flow")
    (entry,) = first["found"].values()
    assert entry["command"] == f"VDT_HOME={home} flow run --study {entry['file']} --init-from '{policy}'"
    assert first["reported"] == []
    reported, _ = resolve_cells({"study": entry["file"], "init_from": str(policy)})
    assert reported[0].config.init.sha256
    for cell, identity in zip(reported, compute_identities(reported), strict=True):
        save_result(home, identity, make_record(cell.config.seed, {}, config=cell.config.flatten()).to_json())
    assert [cell.seed for cell in add_winners(cells, facts, "exact", "flow")["reported"]] == [0, 2, 4]
    policy.unlink()
    gone = add_winners(cells, facts, "exact", "flow")
    assert gone["reported"] == [] and gone["found"] == first["found"], "the report is written without"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, "grid and --set both give actor.q_coefficient; leave it out of one"),
        (
            {"set": "policy='{context_length: 3}'"},
            "--set and patch long both give policy.context_length; leave it out",
        ),
        ({"sweep": "actor.batch_size=8,9", "set": "actor.batch_size=7"}, "grid and --set both give actor.batch_size"),
        ({"study": ""}, "--sweep: the sweep and --set both give actor.q_coefficient; leave it out of one"),
    ],
)
def test_a_value_that_set_would_hide_is_refused(tmp_path: Path, words: dict[str, str], message: str) -> None:
    """The ranking would name values that never ran, and the winner's study would train others."""
    path = tmp_path / "mine.yaml"
    patches = {"short": {"policy": {"context_length": 2}}, "long": {"policy": {"context_length": 4}}}
    content = {"preset": "smoke", "envs": [ENV], "grid": {"actor.q_coefficient": [0.1, 0.3]}, "patches": patches}
    path.write_text(yaml.safe_dump(content))
    given = {"study": str(path), "set": "actor.q_coefficient=0.2", **words}
    if not given["study"]:
        given |= {"env": ENV, "sweep": "actor.q_coefficient=0.1,0.3"}
    with pytest.raises(ConfigError) as caught:
        resolve_cells(given)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_search_names_its_reported_seeds_and_data(home: Path, tmp_path: Path) -> None:
    content = {
        "envs": [ENV],
        "preset": "smoke",
        "source": "collected",
        "set": {"evaluation": {"max_episode_steps": 0, "curve_points": 1}},
        "search": {
            "space": {"actor.q_coefficient": [0.1, 0.3]},
            **{"trials": 2, "seeds": [1, 3], "report": {"seeds": [7], "data_seed": 5}},
        },
    }
    path = tmp_path / "my-search.yaml"
    path.write_text(yaml.safe_dump(content))
    facts = load_study(str(path)).describe()
    assert facts["ranked"] and facts["frozen"]["seeds"] == [7] and facts["frozen"]["set"]["data.seed"] == 5
    text = make_winner_file(facts, make_winner(settings={"actor.q_coefficient": 0.3}), 2, [ENV], "vdt")
    (home / "params").mkdir(parents=True)
    (home / "params" / "winner.yaml").write_text(text)
    ((cell,), _) = resolve_cells({"study": "params/winner.yaml"})
    assert (cell.config.seed, cell.config.data.seed, cell.config.actor.q_coefficient) == (7, 5, 0.3)


def test_patches_without_a_grid_have_no_winner(tmp_path: Path) -> None:
    path = tmp_path / "patches.yaml"
    path.write_text(yaml.safe_dump({"envs": [ENV], "patches": {"a": {}, "b": {"actor": {"q_coefficient": 0}}}}))
    facts = load_study(str(path)).describe()
    assert facts["ranked"] is False and "frozen" not in facts


def test_reported_seeds_are_the_first_that_are_free() -> None:
    assert choose_reported_seeds((10, 11)) == (0, 1, 2)
    assert choose_reported_seeds((0, 2, 3)) == (1, 4, 5)


def test_names_of_winners_are_names_of_studies(home: Path) -> None:
    assert find_winner_file("grid").as_posix() == "params/found/grid.yaml"
    names = [find_winner_file("sweep-q_coefficient", (env, "vdt")) for env in ("minari:mujoco/hopper/expert-v0", ENV)]
    assert len(set(names)) == 2
    for file in names:
        (home / file).parent.mkdir(parents=True, exist_ok=True)
        (home / file).write_text(yaml.safe_dump({"envs": [ENV]}))
        assert len(load_study(str(file)).name) <= 40
    with pytest.raises(ConfigError, match="there is no file params/found/other"):
        load_study("params/found/other.yaml")

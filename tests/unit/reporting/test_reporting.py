"""Statistics against arithmetic by hand; the written report against what went in."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from vdt.reporting.maze_figures import draw_mazes
from vdt.reporting.report import NOT_D4RL, to_strict_json, write_report
from vdt.reporting.results import (
    collect_results,
    compute_change,
    compute_changes,
    compute_config_differences,
    compute_estimate,
    compute_standard_error,
)

PNG = b"\x89PNG\r\n\x1a\n"


def make_evaluation(scores: list[float], targets: tuple[float, ...] = (5000.0,), horizon: int = 1) -> dict[str, Any]:
    shares = [0.25, 0.75] if len(targets) == 2 else [1.0]
    return {
        "label": "x",
        "candidate_returns": list(targets),
        "planning_horizon": horizon,
        "env_model": "learned" if horizon > 1 else "none",
        "episode_returns": [46.0 * score for score in scores],
        "episode_lengths": [100] * len(scores),
        "normalized_scores": scores,
        "normalized_score_mean": sum(scores) / len(scores),
        "normalized_score_standard_error": 0.0,
        "seconds": 0.5,
        "environment_steps": 100 * len(scores),
        "chosen_candidates": shares,
    }


def make_cell(
    seed: int, policies: dict[str, Any], *, method: str = "vdt", source: str = "collected", **config: Any
) -> Any:
    identity = {"env": "walker2d-medium-v2", "preset": "smoke", "method": method, "seed": seed}
    planner = {"planner.candidates": 2, "planner.planning_horizon": 3, "task.candidate_returns": (5000.0, 2500.0)}
    return {
        "config": {**identity, **planner, "actor.q_coefficient": 0.03, **config},
        "snapshot": {
            "env": identity["env"],
            "source": source,
            "reason": "No D4RL file and no network.",
            "path": "some/place/trajectories.hdf5",
            "md5": "0123abcd",
            "size": 10,
            "card": {"normalized_score_mean": 62.5},
        },
        "evaluation": {"policies": policies},
        "mlflow_run_id": f"run-{method}-{seed}",
        "seconds": {"pretrain_critic": 3.25, "train_actor": 60.0},
    }


def make_policies(offset: float) -> dict[str, Any]:
    return {
        "offline": {
            "single": make_evaluation([70.0 + offset, 74.0 + offset]),
            "candidates": make_evaluation([75.0 + offset, 77.0 + offset], (5000.0, 2500.0)),
            "lookahead": make_evaluation([71.0 + offset, 71.0 + offset], (5000.0, 2500.0), 3),
        },
        "online": {"single": make_evaluation([80.1 + offset, 90.3 + offset])},
    }


def test_standard_error_by_hand() -> None:
    # mean 4, squared deviations 4 + 0 + 4 = 8, sample variance 8 / 2 = 4, standard deviation 2, / sqrt(3)
    assert compute_standard_error([2.0, 4.0, 6.0]) == pytest.approx(2.0 / math.sqrt(3.0))
    assert compute_standard_error([2.0]) is None


def test_estimate_is_over_seeds_when_there_are_several() -> None:
    # seed means 2 and 6 (the second from four episodes): mean 4, deviations ±2, variance 8 / 1 = 8, / 2 seeds, root 2
    estimate = compute_estimate([[1.0, 3.0], [0.0, 12.0, 6.0, 6.0]])
    assert (estimate.mean, estimate.over, estimate.seeds, estimate.episodes) == (4.0, "seeds", 2, 6)
    assert estimate.standard_error == pytest.approx(2.0)


def test_estimate_is_over_episodes_for_one_seed() -> None:
    # mean 3, deviations ±1: variance 2 / 1 = 2, / 2 episodes, root 1
    estimate = compute_estimate([[2.0, 4.0]])
    assert (estimate.mean, estimate.over, estimate.seeds, estimate.episodes) == (3.0, "episodes", 1, 2)
    assert estimate.standard_error == pytest.approx(1.0)
    assert compute_estimate([[5.0]]).standard_error is None


@pytest.mark.parametrize("episodes", [[], [[1.0], []]])
def test_estimate_needs_episodes(episodes: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="every seed needs at least one episode"):
        compute_estimate(episodes)


def test_change_is_paired() -> None:
    # seeds 0 and 1 differ by 100, but look-ahead adds (5 + 3) / 2 = 4 to both: no spread between the changes
    results = collect_results([make_cell(0, make_policies(0.0)), make_cell(1, make_policies(100.0))])
    single, candidates = results[0], results[1]
    change = compute_change(single, candidates)
    assert change is not None
    assert (change.mean, change.standard_error, change.over) == (4.0, 0.0, "seeds")
    assert compute_change(single, collect_results([make_cell(7, make_policies(0.0))])[0]) is None


def test_changes_name_lookahead_and_online_tuning() -> None:
    changes = compute_changes(collect_results([make_cell(0, make_policies(0.0))]))
    # offline means: single 72, candidates 76, lookahead 71; online single 85.2
    assert [(c.effect, round(c.estimate.mean, 9)) for c in changes] == [
        ("more candidates", 4.0),
        ("longer look-ahead", -5.0),
        ("candidates and look-ahead", -1.0),
        ("online tuning", 13.2),
    ]


def test_seeds_merge_in_order_and_never_across_methods_or_data() -> None:
    cells = [
        make_cell(2, make_policies(0.0)),
        make_cell(1, make_policies(1.0)),
        make_cell(1, {"offline": make_policies(2.0)["offline"]}, method="dt"),
        make_cell(1, {"offline": make_policies(3.0)["offline"]}, source="d4rl"),
    ]
    results = collect_results(cells)
    assert [(r.method, r.source, r.policy, r.setting, r.seeds) for r in results] == [
        *(("vdt", "collected", "offline", s, (1, 2)) for s in ("single", "candidates", "lookahead")),
        ("vdt", "collected", "online", "single", (1, 2)),
        *(("dt", "collected", "offline", s, (1,)) for s in ("single", "candidates", "lookahead")),
        *(("vdt", "d4rl", "offline", s, (1,)) for s in ("single", "candidates", "lookahead")),
    ]
    assert results[0].scores == ((71.0, 75.0), (70.0, 74.0))
    # 0.5 s for 200 environment steps
    assert results[0].milliseconds_per_step == (2.5, 2.5)


def test_where_the_last_checkpoint_is_the_best_it_stands_for_both() -> None:
    first, second = make_policies(0.0), make_policies(1.0)
    first["online_best"] = {"single": make_evaluation([95.0, 97.0])}
    results = {
        r.policy: r for r in collect_results([make_cell(0, first), make_cell(1, second)]) if r.setting == "single"
    }
    assert results["online_best"].seeds == (0, 1)
    assert results["online_best"].scores == ((95.0, 97.0), results["online"].scores[1])
    assert results["online"].scores == ((80.1, 90.3), (81.1, 91.3))
    assert "online_best" not in {r.policy for r in collect_results([make_cell(1, second)])}


def test_the_same_cell_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="the same cell twice: env walker2d-medium-v2, method vdt"):
        collect_results([make_cell(0, make_policies(0.0)), make_cell(0, make_policies(0.0))])


def test_config_differences_are_between_methods_not_seeds() -> None:
    cells = [
        make_cell(0, {}, **{"critic.n_step": 5}),
        make_cell(1, {}, **{"critic.n_step": 5}),
        make_cell(0, {}, method="dt", **{"actor.q_coefficient": 0.0, "critic.n_step": 5}),
    ]
    assert compute_config_differences(cells) == {"actor.q_coefficient": {"vdt": [0.03], "dt": [0.0]}}


def test_report_says_what_the_data_is(tmp_path: Path) -> None:
    collected = write_report([make_cell(0, make_policies(0.0))], tmp_path / "collected").read_text()
    assert NOT_D4RL in collected
    assert "**collected** (not D4RL)" in collected
    assert "No D4RL file and no network." in collected
    original = write_report([make_cell(0, make_policies(0.0), source="d4rl")], tmp_path / "d4rl").read_text()
    assert NOT_D4RL not in original
    assert "not D4RL" not in original


def test_no_result_row_is_shown_without_its_data_source(tmp_path: Path) -> None:
    text = write_report([make_cell(seed, make_policies(0.0)) for seed in (0, 1)], tmp_path).read_text()
    rows = [line for line in text.splitlines() if line.startswith("| walker2d-medium-v2 ")]
    assert len(rows) == 4 + 4 + 2 * 4 + 1 + 2  # results, changes, results per cell, cost, cells
    assert all("**collected** (not D4RL)" in row for row in rows)


def test_report_table_golden(tmp_path: Path) -> None:
    text = write_report([make_cell(0, make_policies(0.0)), make_cell(1, make_policies(2.0))], tmp_path).read_text()
    # seed means 72 and 74: 73 ± 1; returns 46 * 73 = 3358
    assert (
        "| walker2d-medium-v2 | **collected** (not D4RL) | 62.5 | vdt | offline | single (m=1, E=1) | 73.0 ± 1.0 | 3358"
        " | 2 (0, 1) | 4 | 2.50 |"
    ) in text
    # one seed: episodes 70 and 74, deviations ±2, sqrt(8 / 1 / 2) = 2
    assert "| single (m=1, E=1) | 72.0 ± 2.0 *episodes* | 3312 | 1 (0) | 2 | 2.50 |" in text
    assert "| lookahead (m=2, E=3, learned) |" in text
    assert "`run-vdt-1` | 3.2 | 60.0 |" in text


def test_success_has_a_column_where_some_environment_says_it(tmp_path: Path) -> None:
    cells = []
    for seed, successes in ((0, [True, False]), (1, [True, True])):
        evaluation = {**make_evaluation([1.0, 3.0]), "episode_returns": [0.5, 1.75], "successes": successes}
        cells.append(make_cell(seed, {"offline": {"single": evaluation}}))
    text = write_report(cells, tmp_path).read_text()
    assert "| ms per step | success rate (Wilson's 95% over all episodes) |" in text
    assert "| 1.12 | 2 (0, 1) | 4 | 2.50 | 75% (30-95%) |" in text  # 3 of 4, both seeds together
    assert "| 1.12 | 1 (0) | 2 | 2.50 | 50% (9-91%) |" in text
    both = write_report([cells[0], make_cell(1, make_policies(0.0), method="dt")], tmp_path / "both").read_text()
    assert "| 2.50 | - |" in both
    assert "success" not in write_report([make_cell(0, make_policies(0.0))], tmp_path / "silent").read_text()


def test_json_holds_every_number_as_it_came(tmp_path: Path) -> None:
    returns = [0.1 + 0.2, 1.0 / 3.0, 1e-17]
    evaluation = {**make_evaluation([1.0, 2.0, 3.0]), "episode_returns": returns}
    write_report([make_cell(0, {"offline": {"single": evaluation}})], tmp_path)
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["cells"][0]["evaluation"]["policies"]["offline"]["single"]["episode_returns"] == returns
    assert document["results"][0]["returns"] == [returns]
    assert document["results"][0]["normalized_score"]["standard_error"] == compute_standard_error([1.0, 2.0, 3.0])
    assert document["not_finite"] == []
    assert "path" not in document["cells"][0]["snapshot"]


def test_json_is_strict_and_says_where_a_number_was_not_finite(tmp_path: Path) -> None:
    evaluation = {**make_evaluation([1.0, 2.0]), "normalized_score_standard_error": math.nan}
    text = write_report([make_cell(0, {"offline": {"single": evaluation}})], tmp_path).read_text()

    def refuse(word: str) -> None:
        raise AssertionError(word)

    document = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    place = "cells.0.evaluation.policies.offline.single.normalized_score_standard_error"
    assert document["not_finite"] == [place]
    assert place in text
    assert to_strict_json((1.0, {"a": -math.inf})) == ([1.0, {"a": None}], ["1.a"])


def test_figures_are_written_and_shown(tmp_path: Path) -> None:
    text = write_report([make_cell(0, make_policies(0.0)), make_cell(1, make_policies(2.0))], tmp_path).read_text()
    figures = sorted(tmp_path.glob("*.png"))
    assert [f.name for f in figures] == [
        "candidates-walker2d-medium-v2-collected.png",
        "scores-walker2d-medium-v2-collected.png",
    ]
    assert all(f.read_bytes().startswith(PNG) and f"({f.name})" in text for f in figures)


def test_a_report_needs_a_cell(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one cell"):
        write_report([], tmp_path)


def test_data_without_an_environment_is_reported_offline(tmp_path: Path) -> None:
    measured = {"episodes": 2, "steps": 30, "action_rmse": 0.25, "action_std": 0.5, "value_correlation": None}
    values = {"policy_value": 7.5, "data_value": 6.25, "monte_carlo_value": 6.0}
    reference = {"env": "data:folder/mine.hdf5", "task.reference": "the data's own worst and best episode return"}
    cell = make_cell(0, {}, source="path", **reference)
    cell["evaluation"]["held_out"] = {"offline": {**measured, **values}}
    text = write_report([cell], tmp_path).read_text()
    assert "- data:folder/mine.hdf5: no environment: online tuning and returns are not available" in text
    assert "| vdt | 0 | offline | 2 | 30 | 0.25 | 0.5 | 7.5 | 6.25 | 6 | - |" in text
    assert "0 and 100 are the data's own worst and best episode return" in text
    assert "## Results" not in text and not list(tmp_path.glob("*.png"))
    both = write_report([cell, make_cell(0, make_policies(0.0), source="minari")], tmp_path / "both").read_text()
    assert "for data:folder/mine.hdf5: the data's own" in both and "**minari** (not comparable with D4RL)" in both


def test_episodes_are_drawn_over_their_maze(tmp_path: Path) -> None:
    maze = {"walls": [[0.0, 0.0], [4.0, 0.0]], "size": 4.0, "goal": [0.0, 8.0], "radius": 0.5}
    trace = {"maze": maze, "paths": [[[0.0, 4.0], [0.0, 7.9]], [[4.0, 4.0]]]}
    walker = {**make_evaluation([70.0, 0.0]), "successes": [True, False], "trace": trace}
    cells = [make_cell(seed, {"offline": {"single": walker}, "online": {"single": walker}}) for seed in (0, 1)]
    (name, figure), *others = draw_mazes([*cells, make_cell(0, make_policies(0.0), method="dt")])
    assert (name, others) == ("maze-walker2d-medium-v2-collected.png", [])
    offline, _online = figure.axes  # of the first seed
    assert offline.get_title() == "vdt offline single, seed 0"
    wall, _, goal = offline.patches
    assert wall.get_bbox().bounds == (-2.0, -2.0, 4.0, 4.0) and tuple(goal.get_center()) == (0.0, 8.0)
    reached, _, stuck, _ = offline.lines
    assert reached.get_xydata().tolist() == trace["paths"][0] and reached.get_color() != stuck.get_color()
    path = write_report(cells, tmp_path)
    assert f"![{Path(name).stem}]({name})" in path.read_text() and (tmp_path / name).read_bytes().startswith(PNG)

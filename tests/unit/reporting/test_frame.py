"""Estimates, results and changes against arithmetic by hand."""

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

import pytest

from support.records import make_evaluation, make_record
from vdt.environments.scores import compute_standard_error
from vdt.evaluation.records import CellRecord, EvaluationReport
from vdt.reporting.frame import (
    Change,
    Result,
    collect_results,
    compute_changes,
    compute_config_differences,
    compute_estimate,
    fill_best,
    format_csv,
    make_frame,
)

Policies = dict[str, dict[str, EvaluationReport]]


def make_policies(offset: float) -> Policies:
    return {
        "offline": {
            "single": make_evaluation([70.0 + offset, 74.0 + offset]),
            "candidates": make_evaluation([75.0 + offset, 77.0 + offset], (5000.0, 2500.0)),
            "lookahead": make_evaluation([71.0 + offset, 71.0 + offset], (5000.0, 2500.0), 3),
        },
        "online": {"single": make_evaluation([80.1 + offset, 90.3 + offset])},
    }


def collect(records: Sequence[CellRecord]) -> list[Result]:
    return collect_results(fill_best(make_frame(records)))


def change(records: Sequence[CellRecord]) -> list[Change]:
    return compute_changes(fill_best(make_frame(records)))


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
    found = change([make_record(0, make_policies(0.0)), make_record(1, make_policies(100.0))])[0]
    assert (found.before.setting, found.after.setting) == ("single", "candidates")
    assert (found.estimate.mean, found.estimate.standard_error, found.estimate.over) == (4.0, 0.0, "seeds")


def test_there_is_no_change_without_a_common_seed() -> None:
    offline = make_policies(0.0)["offline"]
    one, other = ({"offline": {key: offline[key]}} for key in ("single", "candidates"))
    assert change([make_record(0, one), make_record(7, other)]) == []


def test_changes_name_lookahead_and_online_tuning() -> None:
    # offline means: single 72, candidates 76, lookahead 71; online single 85.2
    assert [(c.effect, round(c.estimate.mean, 9)) for c in change([make_record(0, make_policies(0.0))])] == [
        ("more candidates", 4.0),
        ("longer look-ahead", -5.0),
        ("candidates and look-ahead", -1.0),
        ("online tuning", 13.2),
    ]


def test_seeds_merge_in_order_and_never_across_methods_or_data() -> None:
    offline = ("offline",)
    records = [
        make_record(2, make_policies(0.0)),
        make_record(1, make_policies(1.0)),
        make_record(1, {key: make_policies(2.0)[key] for key in offline}, method="dt"),
        make_record(1, {key: make_policies(3.0)[key] for key in offline}, source="d4rl"),
    ]
    results = collect(records)
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
    records = [make_record(0, first), make_record(1, second)]
    results = {r.policy: r for r in collect(records) if r.setting == "single"}
    assert results["online_best"].seeds == (0, 1)
    assert results["online_best"].scores == ((95.0, 97.0), results["online"].scores[1])
    assert results["online"].scores == ((80.1, 90.3), (81.1, 91.3))
    assert "online_best" not in {r.policy for r in collect([make_record(1, second)])}
    assert set(make_frame(records[1:])["policy"]) == {"offline", "online"}, "what was measured stays as it is"


def test_the_same_cell_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="the same cell twice: env walker2d-medium-v2, method vdt"):
        make_frame([make_record(0, make_policies(0.0)), make_record(0, make_policies(0.0))])


def test_config_differences_are_between_methods_not_seeds() -> None:
    records = [
        make_record(0, {}, config={"critic.n_step": 5}),
        make_record(1, {}, config={"critic.n_step": 5}),
        make_record(0, {}, method="dt", config={"actor.q_coefficient": 0.0, "critic.n_step": 5}),
    ]
    assert compute_config_differences(records) == {"actor.q_coefficient": {"vdt": [0.03], "dt": [0.0]}}


def test_episodes_that_were_cut_short_have_no_score_and_no_change_of_it() -> None:
    cut: dict[str, Any] = {"cut_at": 50, "episode_returns": [30.0, 50.0]}
    records = [
        make_record(0, {"offline": {"single": make_evaluation([None, 7.0], **cut)}}),
        make_record(1, {"offline": make_policies(0.0)["offline"]}),
    ]
    single, candidates, _ = collect(records)
    assert single.score is None and single.run_scores == [], "not even of the episode that ended before the cut"
    assert single.scores == ((None, 7.0), (70.0, 74.0)) and single.cut_at == 50
    assert single.episode_return.mean == (40.0 + 46.0 * 72.0) / 2
    assert candidates.score is not None and candidates.score.mean == 76.0 and candidates.cut_at is None
    assert [c.effect for c in change(records)] == ["more candidates", "longer look-ahead", "candidates and look-ahead"]
    assert all(c.estimate.seeds == 1 for c in change(records)), "paired with the seed that has scores"
    whole_run_cut = {key: make_evaluation([None, None], **cut) for key in ("single", "candidates")}
    assert change([make_record(0, {"offline": whole_run_cut})]) == []


def test_csv_has_an_episode_a_line() -> None:
    successes = make_evaluation([1.5, None], cut_at=50, successes=[True, False])
    record = make_record(3, {"offline": {"single": successes}}, patch="weak")
    first, second = csv.DictReader(io.StringIO(format_csv(make_frame([record]))))
    expected = {"env": "walker2d-medium-v2", "source": "collected", "method": "vdt", "patch": "weak", "seed": "3"}
    assert expected.items() <= first.items()
    assert (first["episode"], first["score"], first["return"], first["success"]) == ("0", "1.5", "69.0", "True")
    assert first["cut_at"] == "", "that episode ended by itself"
    assert (second["episode"], second["score"], second["length"], second["cut_at"]) == ("1", "", "100", "50")

"""Ranking of settings, their importance and the agreement of offline scores: known answers, and SciPy's."""

import itertools
import math
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from support.records import make_evaluation, make_record
from vdt.evaluation.records import CellRecord, Evaluation, HeldOutReport, ValueEstimates
from vdt.evaluation.trials import COMPLETE, FAILED, PRUNED, RUNNING, Trial
from vdt.reporting import importance
from vdt.reporting.importance import ETA, FANOVA, compute_eta, compute_importances
from vdt.reporting.offline_ranks import compute_agreements, compute_kendall, compute_spearman
from vdt.reporting.ranking import (
    FITTED_Q,
    HELD_OUT,
    RETURN,
    Ranking,
    Setting,
    make_ranking,
    rank_grid,
    rank_trials,
    score_record,
    track_best,
)
from vdt.reporting.search_tables import tabulate_winner


def make_cell(
    patch: str,
    seed: int,
    score: float | None,
    *,
    error: float = 0.5,
    value: float | None = None,
    steps: int = 10_000,
    **more: Any,
) -> CellRecord:
    """Make a cell of two episodes around a score (none: without an environment), with held-out error and fitted-Q value.

    `steps` are those of the fit.
    """
    policies = (
        {} if score is None else {"offline": {"lookahead": make_evaluation([score - 1, score + 1], (5.0, 2.0), 3)}}
    )
    held_out = HeldOutReport(2, 9, error, 1.0, None, None, None, None, None, -error)
    values = {} if value is None else {"offline": ValueEstimates(4, 2 * value, value, value, steps, 1.0)}
    record = make_record(seed, {}, patch=patch, **more)
    return CellRecord(**{**vars(record), "evaluation": Evaluation(policies, {"offline": held_out}, {}, values)})


SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "a": {"actor.q_coefficient": 0.1, "critic.n_step": 5},
    "b": {"actor.q_coefficient": 0.3, "critic.n_step": 5},
    "c": {"actor.q_coefficient": 1.0, "critic.n_step": 5},
}


def test_order_means_and_interval_by_hand() -> None:
    scores = {"a": (50.0, 54.0), "b": (70.0, 66.0), "c": (60.0, 62.0)}
    cells = [
        make_cell(name, seed, score)
        for name, pair in scores.items()
        for seed, score in zip((10, 11), pair, strict=True)
    ]
    (ranking,) = rank_grid([*cells, make_cell("other", 10, 99.0)], SETTINGS)
    assert [(s.name, s.mean) for s in ranking.complete] == [("b", 68.0), ("c", 61.0), ("a", 52.0)]
    assert ranking.keys == ("actor.q_coefficient",), "n_step is the same for all"
    assert ranking.best.scores == {10: 70.0, 11: 66.0} and ranking.score == RETURN
    # squares around the means: 4 + 4, 4 + 4, 1 + 1 = 18, with 3 degrees of freedom: deviation sqrt(6)
    assert ranking.deviation == (pytest.approx(math.sqrt(6)), 3)
    assert ranking.compute_half_width(ranking.best) == pytest.approx(stats.t.ppf(0.975, 3) * math.sqrt(6 / 2))
    assert ranking.best.seconds == pytest.approx(2 * 63.25), "both cells' seconds"
    assert ranking.best.offline == {"action error": 0.5, "log-likelihood": -0.5}


def test_tasks_and_methods_are_ranked_apart() -> None:
    cells = [make_cell(name, 0, 50.0) for name in SETTINGS]
    cells += [make_cell(name, 0, 50.0, env="hopper-medium-v2") for name in SETTINGS]
    cells += [make_cell(name, 0, 50.0, method="dt") for name in SETTINGS]
    assert [ranking.task for ranking in rank_grid(cells, SETTINGS)] == [
        "walker2d-medium-v2, data collected, vdt",
        "hopper-medium-v2, data collected, vdt",
        "walker2d-medium-v2, data collected, dt",
    ]


def test_several_data_sets_of_a_task_are_repetitions() -> None:
    cells = [
        make_cell(name, 10, 50.0 + 2 * data + gain, config={"data.seed": data}, snapshot={"md5": f"m{data}"})
        for name, gain in (("a", 0.0), ("b", 5.0))
        for data in (1, 2)
    ]
    (ranking,) = rank_grid(cells, SETTINGS)
    assert ranking.best.name == "b" and ranking.best.scores == {"1/10": 57.0, "2/10": 59.0}


def test_what_a_data_set_adds_to_all_settings_is_no_noise() -> None:
    def make(noise: float) -> Ranking:
        tried = [
            Setting(
                f"s{k}",
                k,
                {"x": k},
                scores={f"{d}/{s}": 2.0 * k + 40 * d + noise * (-1) ** s for d in (1, 2) for s in (0, 1)},
            )
            for k in range(5)
        ]
        return make_ranking(("e",), "vdt", "collected", RETURN, tried)

    still, noisy = make(0.0), make(3.0)
    assert still.deviation == (pytest.approx(0.0), 5 * 3 - 1) and still.compute_half_width(still.best) == pytest.approx(
        0.0
    )
    assert still.shrink_best() == pytest.approx(still.best.mean)
    assert noisy.deviation is not None and noisy.deviation[0] == pytest.approx((20 * 9 / 14) ** 0.5)


def test_settings_need_not_have_the_same_data_sets() -> None:
    """A cell is missing, and each value of a sweep over data seeds has data of its own: neither is noise."""
    tried = [
        Setting("a", 0, {"x": 0}, scores={"1/0": 0.0, "1/1": 0.0}),
        Setting("b", 1, {"x": 1}, scores={"1/0": 100.0, "1/1": 100.0, "2/0": 100.0, "2/1": 100.0}),
    ]
    assert make_ranking(("e",), "vdt", "collected", RETURN, tried).deviation == (pytest.approx(0.0, abs=1e-9), 3)
    noise = (-1.0, 1.0)
    swept = [Setting(f"s{d}", d, {"x": d}, scores={f"{d}/{s}": 30.0 * d + noise[s] for s in (0, 1)}) for d in range(3)]
    assert make_ranking(("e",), "vdt", "collected", RETURN, swept).deviation == (pytest.approx(math.sqrt(2)), 3)


def leave_errors_out(cell: CellRecord) -> CellRecord:
    return replace(cell, evaluation=replace(cell.evaluation, held_out={}))


def test_without_an_environment_the_error_decides_else_the_fitted_value() -> None:
    values = {"a": 3.0, "b": 9.0, "c": 6.0}
    cells = [make_cell(name, 0, None, error=value, value=value) for name, value in values.items()]
    (ranking,) = rank_grid(cells, SETTINGS)
    assert (ranking.score, [s.name for s in ranking.complete]) == (HELD_OUT, ["a", "c", "b"])
    assert ranking.compute_half_width(ranking.best) is None, "one seed has no interval"
    (ranking,) = rank_grid([leave_errors_out(cell) for cell in cells], SETTINGS)
    assert (ranking.score, [s.name for s in ranking.complete]) == (FITTED_Q, ["b", "c", "a"])


def test_one_unfinished_fit_leaves_no_setting_to_its_fitted_value() -> None:
    """The fit is as long as a cell's training: its value would say how long a setting trains."""
    cells = [
        leave_errors_out(make_cell(name, 0, None, value=value, steps=steps))
        for name, value, steps in (("a", 9.0, 10_000), ("b", 1.0, 200), ("c", 5.0, 10_000))
    ]
    assert rank_grid(cells, SETTINGS) == []
    (ranking,) = rank_grid([cell for cell in cells if cell.patch != "b"], SETTINGS)
    assert (ranking.score, [s.name for s in ranking.complete]) == (FITTED_Q, ["a", "c"])


def test_the_score_is_that_of_the_last_policy() -> None:
    online = {
        "offline": {"lookahead": make_evaluation([40.0], (5.0, 2.0), 3)},
        "online": {"lookahead": make_evaluation([60.0], (5.0, 2.0), 3)},
    }
    record = make_record(0, online)
    assert score_record(record, RETURN) == 60.0
    (ranking,) = rank_grid([make_record(0, online, patch="a"), make_record(1, online, patch="b")], SETTINGS)
    assert ranking.best.offline_return == 40.0, "offline scores are compared with the offline policy's return"


def make_trial(number: int, state: str, score: float | None, reached: Mapping[int, float] | None = None) -> Trial:
    scores = {} if score is None else {100: score - 1, 101: score + 1}
    return Trial(number, {"critic.n_step": number}, state, score, scores, reached or {}, 10.0, f"t{number:03}")


def test_stopped_trials_stand_below_and_running_ones_nowhere() -> None:
    trials = [
        make_trial(0, COMPLETE, 50.0),
        make_trial(1, PRUNED, None, {100: 20.0, 200: 30.0}),
        make_trial(2, RUNNING, None, {100: 99.0}),
        make_trial(3, COMPLETE, 70.0),
        make_trial(4, FAILED, None),
        make_trial(5, COMPLETE, 70.0),
        make_trial(6, COMPLETE, 60.0),
    ]
    cells = [make_cell("t003", seed, 70.0, value=5.0) for seed in (100, 101)]
    ranking = rank_trials(cells, trials, RETURN)
    assert [s.number for s in ranking.complete] == [3, 5, 6, 0], "of equal ones the earlier"
    assert [s.number for s in ranking.others] == [1, 4]
    assert ranking.best.offline["fitted-Q value"] == 5.0
    assert ranking.best.seconds == pytest.approx(2 * 63.25), "both cells' own, not those from begin to end"
    assert [s.seconds for s in ranking.complete[1:]] == [10.0] * 3, "without cells there are no others"
    assert track_best(ranking.complete) == ([1, 4, 6, 7], [50.0, 70.0, 70.0, 70.0])


def make_noisy_ranking(spread: float, seed: int) -> tuple[Ranking, float]:
    """Return settings whose true scores spread around 50, two noisy seeds each, and the truth of the winner."""
    rng = random.Random(seed)
    truth = [50 + spread * rng.gauss(0, 1) for _ in range(20)]
    tried = [
        Setting(str(i), i, {"critic.n_step": i}, COMPLETE, {s: mean + 5 * rng.gauss(0, 1) for s in (0, 1)})
        for i, mean in enumerate(truth)
    ]
    ranking = make_ranking(("x",), "vdt", "d4rl", RETURN, tried)
    return ranking, truth[ranking.best.number]


def test_the_winner_is_biased_upward_and_shrinking_takes_that_away() -> None:
    raw, shrunk = [], []
    for seed, spread in itertools.product(range(60), (1.0, 4.0)):
        ranking, truth = make_noisy_ranking(spread, seed)
        estimate = ranking.shrink_best()
        assert estimate is not None
        raw.append(ranking.best.mean - truth)
        shrunk.append(estimate - truth)
    assert np.mean(raw) > 3.0, "the winner's curse"
    assert abs(np.mean(shrunk)) < 0.35 * np.mean(raw)


def make_planted(count: int = 40) -> Ranking:
    """Scores that depend on one key strongly, on another weakly, and not on the third."""
    rng = random.Random(1)
    tried = []
    for number in range(count):
        q, kind, steps = 10 ** rng.uniform(-2, 0), rng.choice(["mish", "relu"]), rng.randint(1, 10)
        score = 60 + 10 * math.log10(q) + 2 * (kind == "mish") + 0.1 * rng.gauss(0, 1)
        values = {"critic.n_step": steps, "critic.activation": kind, "actor.q_coefficient": q}
        tried.append(Setting(str(number), number, values, COMPLETE, {0: score}))
    return make_ranking(("x",), "vdt", "d4rl", RETURN, tried)


def test_importance_finds_the_planted_key() -> None:
    found = compute_importances(make_planted())
    assert found is not None and found.method == FANOVA
    assert next(iter(found.shares)) == "actor.q_coefficient" and found.shares["actor.q_coefficient"] > 0.7
    assert found.correlations["actor.q_coefficient"] > 0.9 and found.correlations["critic.activation"] is None
    assert sum(found.shares.values()) == pytest.approx(1.0, abs=0.01)


def test_without_optuna_importance_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importance, "find_spec", lambda name: None)
    tried = [
        Setting(f"{q}{n}", 4 * q + n, {"actor.q_coefficient": q, "critic.n_step": n}, COMPLETE, {0: 10.0 * q + n})
        for q, n in itertools.product((1, 2), (1, 2, 3))
    ]
    found = compute_importances(make_ranking(("x",), "vdt", "d4rl", RETURN, tried))
    # between q: 6 * 5^2 = 150; between n: 2 * (1 + 0 + 1) = 4; in all 154
    assert found is not None and found.method == ETA
    assert found.shares == {"actor.q_coefficient": pytest.approx(150 / 154), "critic.n_step": pytest.approx(4 / 154)}


def test_eta_squared_is_that_of_scipys_analysis_of_variance() -> None:
    rng = np.random.default_rng(0)
    groups = [rng.normal(mean, 1, size) for mean, size in ((0, 5), (1, 7), (3, 4))]
    values = [name for name, group in zip("abc", groups, strict=True) for _ in group]
    f = stats.f_oneway(*groups).statistic
    assert compute_eta(values, np.concatenate(groups)) == pytest.approx(2 * f / (2 * f + 16 - 3))


def test_too_few_settings_have_no_importance() -> None:
    assert compute_importances(make_planted(3)) is None


def test_rank_correlations_are_scipys_in_each_row() -> None:
    rng = np.random.default_rng(3)
    one, other = rng.integers(0, 6, (40, 12)).astype(float), rng.integers(0, 6, (40, 12)).astype(float)  # with ties
    spearman, kendall = compute_spearman(one, other), compute_kendall(one, other)
    for row in range(40):
        assert spearman[row] == pytest.approx(stats.spearmanr(one[row], other[row]).statistic)
        assert kendall[row] == pytest.approx(stats.kendalltau(one[row], other[row]).statistic)
    many = np.arange(3000.0)[None]
    assert compute_kendall(many, many)[0] == pytest.approx(1.0), "memory grows with the settings, not with their square"
    assert compute_spearman(np.ones((1, 5)), one[:1, :5])[0] == compute_kendall(np.ones((1, 5)), one[:1, :5])[0] == 0.0


def test_agreement_turns_the_sign_of_errors_and_names_what_would_be_chosen() -> None:
    returns = [50.0, 60.0, 70.0, 80.0, 90.0, 95.0]
    errors = [0.9, 0.8, 0.7, 0.6, 0.4, 0.5]  # the two best swapped
    guesses = [1.0, 9.0, 3.0, 2.0, 5.0, 4.0]
    tried = [
        Setting(str(i), i, {"critic.n_step": i}, COMPLETE, {0: r}, {"action error": e, "fitted-Q value": g}, r)
        for i, (r, e, g) in enumerate(zip(returns, errors, guesses, strict=True))
    ]
    error, guess = compute_agreements(make_ranking(("x",), "vdt", "d4rl", RETURN, tried))
    assert error.spearman.value == pytest.approx(stats.spearmanr([-e for e in errors], returns).statistic)
    assert guess.kendall.value == pytest.approx(stats.kendalltau(guesses, returns).statistic)
    assert (error.score, error.chosen, error.best, error.mean) == (
        "action error",
        90.0,
        95.0,
        pytest.approx(74.1667, rel=1e-4),
    )
    assert guess.chosen == 60.0 and guess.settings == 6
    for agreement in (error, guess):
        assert -1 <= agreement.spearman.low <= agreement.spearman.value <= agreement.spearman.high <= 1
    assert guess.spearman.high - guess.spearman.low > error.spearman.high - error.spearman.low


def test_a_winners_error_is_over_seeds_not_over_envs() -> None:
    """Each seed scores 80 on one env and 20 on the other, so that all seeds have one mean."""
    envs = ("walker2d-medium-v2", "hopper-medium-v2")
    tried = [Setting("a", 0, {"x": 1}, scores={0: 50.0}), Setting("b", 1, {"x": 2}, scores={0: 40.0})]
    cells = [
        make_cell("", seed, score, env=env)
        for env, score in zip(envs, (80.0, 20.0), strict=True)
        for seed in (10, 11, 12)
    ]
    table = tabulate_winner(make_ranking(envs, "vdt", "collected", RETURN, tried), cells, {})
    assert ("**score on reported seeds 10, 11, 12**", "50.0 ± 0.0") in table.rows

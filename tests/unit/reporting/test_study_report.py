"""A study's report: methods over envs by hand, published numbers beside ours, figures of what explains the scores."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.records import make_evaluation, make_record
from vdt.config.layers import load_tasks
from vdt.evaluation.records import (
    Calibration,
    CellRecord,
    Diagnostics,
    EvaluationReport,
    ParameterCounts,
    RequestedReturn,
    WeightHistogram,
)
from vdt.reporting.aggregates import collect_headlines, compute_aggregates, compute_improvements, find_headline
from vdt.reporting.figures import compute_mean_curve
from vdt.reporting.frame import collect_results, fill_best, make_frame
from vdt.reporting.published import list_published, load_published
from vdt.reporting.report import write_report
from vdt.reporting.tables import describe_difference
from vdt.tracking.curves import POINTS, thin

PNG = b"\x89PNG\r\n\x1a\n"
CRITIC = {"critic.gradient_steps": 20_000, "critic.n_step": 1, "critic.discount": 0.99}
CRITIC |= {"critic.target_update_rate": 0.005, "actor.inverse_temperature": 1, "actor.q_coefficient": 0}
WALKER, HOPPER = "walker2d-medium-v2", "hopper-medium-v2"


def make_setting(scores: list[float], candidates: int = 1) -> EvaluationReport:
    shares = [1.0 / candidates] * candidates
    return make_evaluation(scores, [5000.0, 4000.0][:candidates], episode_returns=scores, chosen_candidates=shares)


def make_planner(candidates: int, horizon: int, returns: int = 3) -> dict[str, Any]:
    settings = {"planner.candidates": candidates, "planner.planning_horizon": horizon}
    return {**settings, "task.candidate_returns": [5000.0, 4000.0, 2500.0][:returns]}


def make_diagnostics() -> Diagnostics:
    return Diagnostics(
        ParameterCounts(policy=1200, critic=300),
        500,
        [RequestedReturn(5000.0, [100.0, 300.0]), RequestedReturn(4000.0, [50.0])],
        Calibration([1.0, 2.0], [1.5, 2.5], steps=4, bias=-0.5, correlation=0.25),
        WeightHistogram([0.1, 1.0, 10.0], [0.25, 0.75], 4.0),
    )


def make_cell(env: str, seed: int, offline: float, *, method: str = "vdt", **more: Any) -> CellRecord:
    """A cell whose offline policy scores `offline` with candidates and one less without, and 10 more after tuning."""
    policies = {
        name: {"single": make_setting([score - 1.0] * 2), "candidates": make_setting([score - 2.0, score + 2.0], 2)}
        for name, score in (("offline", offline), ("online", offline + 10.0), ("online_best", offline + 20.0))
    }
    return make_record(
        seed,
        policies,
        env=env,
        method=method,
        config={"preset": "laptop", **make_planner(2, 1), **CRITIC, "task.environment_id": "Walker2d-v4"},
        snapshot={"md5": env, "card": {}},
        diagnostics={"offline": make_diagnostics()},
        mlflow_run_id=f"{env}-{method}-{seed}",
        seconds={"pretrain_critic": 2.0, "train_actor": 4.0 + seed},
        memory={"train_actor": {"machine": 700.0 + 100 * seed}, "evaluate": {"machine": 600.0}},
        shared_from={"pretrain_critic": "another" if seed else "", "train_actor": ""},
        **more,
    )


CELLS = [
    *(make_cell(WALKER, seed, score) for seed, score in enumerate((10.0, 20.0))),
    *(make_cell(HOPPER, seed, score) for seed, score in enumerate((50.0, 90.0))),
    *(make_cell(WALKER, seed, score, method="dt") for seed, score in enumerate((15.0, 5.0))),
    *(make_cell(HOPPER, seed, score, method="dt") for seed, score in enumerate((50.0, 40.0))),
]
STUDY = {
    "name": "mine",
    "title": "My title",
    "note": "My note.",
    "published": "offline",
    "keys": [],
    "missing": ["x-s3"],
}


def test_methods_over_envs_by_hand() -> None:
    headlines = collect_headlines(CELLS, collect_results(fill_best(make_frame(CELLS))))
    vdt, dt = (a for a in compute_aggregates(headlines) if a.policy == "offline")
    # seed by seed over both envs (10 + 50) / 2 = 30 and (20 + 90) / 2 = 55: mean 42.5, standard error 25 / 2
    assert (vdt.method, vdt.tasks, vdt.runs) == ("vdt", 2, 4)
    assert vdt.mean is not None and (vdt.mean.mean, vdt.mean.standard_error) == (42.5, pytest.approx(12.5))
    # of the four runs 10, 20, 50, 90 the lowest and the highest are left out
    assert vdt.iqm.value == 35.0 and vdt.iqm.low < 35.0 < vdt.iqm.high
    # dt: 5, 15, 40, 50
    assert dt.iqm.value == 27.5
    (share,) = (i for i in compute_improvements(headlines) if i.policy == "offline")
    # walker2d: of (10,15) (10,5) (20,15) (20,5) three are won; hopper: (50,50) a tie, (50,40) (90,50) (90,40) won
    assert (share.method, share.baseline) == ("vdt", "dt")
    assert share.probability.value == (3 / 4 + 3.5 / 4) / 2


def test_only_envs_that_all_methods_have_are_averaged() -> None:
    cells = [cell for cell in CELLS if (cell.env, cell.method) != (HOPPER, "dt")]
    aggregates = compute_aggregates(collect_headlines(cells, collect_results(make_frame(cells))))
    assert {(a.method, a.tasks, a.runs) for a in aggregates} == {("vdt", 1, 2), ("dt", 1, 2)}


def test_headline_is_the_setting_that_a_method_acts_with() -> None:
    assert find_headline(make_planner(1, 3)) == "single"
    assert find_headline(make_planner(2, 1)) == "candidates"
    assert find_headline(make_planner(2, 3)) == "lookahead"
    assert find_headline(make_planner(3, 1, returns=1)) == "single", "the task has but one return to choose from"
    data = {"planner.returns": "data", "planner.return_quantiles": [0.9, 0.5]}
    assert find_headline({**make_planner(3, 1, returns=1), **data}) == "candidates", "the data has two"
    assert make_cell(WALKER, 0, 1.0, patch="weak").name == "vdt + weak"


def test_published_numbers_stand_beside_ours_with_what_differs(tmp_path: Path) -> None:
    text = write_report(CELLS, tmp_path, study=STUDY).text
    assert text.startswith(
        "# Value-Guided Decision Transformer: My title\n\nOver 2 data sets, **vdt** scores highest of 2"
    )
    assert text.index("\nMy note.\n") < text.index("\n## "), "below the answer, above all sections"
    assert "**Not finished yet, and not in this report:** x-s3" in text
    # seeds 10 and 20: 15 ± 5; online 10 more, best 20 more; the poster has 81.6 ± 1.7
    row = next(line for line in text.splitlines() if line.startswith(f"| {WALKER} | vdt | 15.0 ± 5.0 | 25.0 ± 5.0 |"))
    # bias -0.5 of a return of (1.5 + 2.5) / 2; the settings are those of 20,000 one-step updates
    assert '| 35.0 ± 5.0 | -0.5 (-25 %) | 37 % | <span style="color:grey">81.6 ± 1.7</span> |' in row
    first = text.split("## ")[1]
    assert first.startswith("Beside published numbers") and "critic: bias" in first and "critic: gap left" in first
    plain = write_report(CELLS, tmp_path / "plain", study={**STUDY, "published": ""}).text
    over_all = next(line for line in plain.split("## ")[1].splitlines() if line.startswith("| vdt | offline |"))
    assert "| 42.5 ± 12.5 | 35.0 [" in over_all and over_all.endswith("| -25 % | 37 % |")
    assert (
        "**other data**: **collected** (not D4RL); physics: Walker2d-v4 on the present MuJoCo; budget: laptop" in first
    )
    assert "VDT poster, Table 1" in text
    same = describe_difference(make_cell(WALKER, 0, 1.0, source="d4rl"))
    assert same == "D4RL's data; physics: Walker2d-v4 on the present MuJoCo; budget: laptop"
    document = json.loads((tmp_path / "report.json").read_text())
    assert [a["iqm"]["value"] for a in document["aggregates"]][:2] == [35.0, 27.5]


def test_cost_and_diagnostics_by_hand(tmp_path: Path) -> None:
    text = write_report(CELLS, tmp_path, study={**STUDY, "published": "cost"}).text
    # peaks of the two seeds 700 and 800; train_actor 4 and 5 s; the second seed's critic is shared
    assert "All rows: data **collected** (not D4RL); preset laptop." in text
    assert f"| {WALKER} | vdt | 1,200 | 300 | 750 | 2.0* | 4.5 |" in text
    assert "memory, MB: iql 2128, odt 3968, vdt 4024" in text and "## Beside published numbers" not in text
    others = [make_cell("hopper-random-v2", 0, 1.0)]
    text = write_report(others, tmp_path / "others", study={**STUDY, "published": "ablation"}).text
    assert "VDT poster, Table 3" in text and "weighting 90.3" not in text, "a table of other envs is no cost"
    assert "data **collected** (not D4RL); method vdt; seed 0; policy offline." in text
    assert "| 5000 → 200, 4000 → 50 | -0.5 | 0.25 |" in text
    # the critic's calibration stands beside the scores, too
    assert "| offline | candidates (m=2, E=1) | 1.0 ± 2.0 *episodes* | 1.00 | -0.5 (-25 %) | 37 % | 2.50 |" in text


def test_figures(tmp_path: Path) -> None:
    curve = [(step, float(step)) for step in range(1, 50)]
    levels = {f"online/buffer_return{level}": curve for level in ("", "_low", "_middle", "_high")}
    curves = {cell.mlflow_run_id: {"critic/q_loss": curve, **levels} for cell in CELLS}
    curves[CELLS[1].mlflow_run_id] = {"critic/q_loss": curve[-1:]}  # shares its critic
    text = write_report(CELLS, tmp_path, study=STUDY, curves=curves).path.read_text()
    kinds = ("scores", "changes", "candidates", "curves", "buffer", "requested", "calibration", "weights")
    expected = {f"{kind}-{env}-collected.png" for kind in kinds for env in (WALKER, HOPPER)} | {"profiles.png"}
    assert {path.name for path in tmp_path.glob("*.png")} == expected
    assert all((tmp_path / name).read_bytes().startswith(PNG) and f"({name})" in text for name in expected)


def test_mean_curve_by_hand() -> None:
    # both reach steps 10 to 20; there the curves are the step itself and 0, so the mean is half the step
    steps, means, errors = compute_mean_curve([[(0, 0.0), (20, 20.0)], [(10, 0.0), (30, 0.0)]])
    assert (steps[0], steps[-1]) == (10.0, 20.0)
    assert means == pytest.approx([step / 2 for step in steps])
    assert errors == pytest.approx([step / 2 for step in steps]), "two values x and 0: x / sqrt(2) / sqrt(2)"
    assert compute_mean_curve([[(1, 3.0), (2, 3.0)]])[2] == [0.0] * len(steps)


@pytest.mark.parametrize("count", [1, POINTS, POINTS + 1, 399, 1000])
def test_thinned_curves_keep_their_end(count: int) -> None:
    curve = [(step, 0.0) for step in range(count)]
    kept = thin(curve)
    assert len(kept) == min(count, POINTS) and kept[-1] == curve[-1] and len(set(kept)) == len(kept)


def test_published_tables() -> None:
    assert list_published() == ["ablation", "context", "cost", "offline", "online"]
    offline, online = load_published("offline"), load_published("online")
    assert offline.format(offline.find(WALKER, "vdt", "")) == "81.6 ± 1.7"
    assert offline.find(WALKER, "dt", "") == 74.0 and offline.find(WALKER, "vdt", "weak") is None
    assert online.format(online.find("walker2d-medium-expert-v2", "vdt", "")) == "110.4 → 112.7"
    assert online.get_score(online.find("walker2d-medium-expert-v2", "vdt", "")) == 112.7
    assert load_published("ablation").find("hopper-medium-v2", "vdt", "all") == 98.3
    assert load_published("context").find(WALKER, "vdt", "k20") == 81.6
    gym = [name for name, facts in load_tasks().items() if facts["task.family"] == "gym"]
    assert len(gym) == 9 and all(name in offline.rows and name in online.rows for name in gym)


def test_vdt_averages_of_the_poster_follow_from_its_rows() -> None:
    """The poster prints 84.1 for the nine gym sets, 57.6 for Adroit, 94.38 after tuning: what was copied adds up."""
    offline, online = load_published("offline").rows, load_published("online").rows
    gym = [row["vdt"][0] for env, row in offline.items() if env.endswith("-v2")]
    adroit = [row["vdt"][0] for env, row in offline.items() if env.startswith(("pen", "hammer", "door"))]
    tuned = [row["vdt"][1] for row in online.values()]
    assert (len(gym), len(adroit), len(tuned)) == (9, 6, 12)
    assert sum(gym) / 9 == pytest.approx(84.1, abs=0.06) and sum(adroit) / 6 == pytest.approx(57.6, abs=0.06)
    assert sum(tuned) / 12 == pytest.approx(94.38, abs=0.06)


def make_unfinished() -> list[CellRecord]:
    """Of vdt two seeds are missing on one data set, of dt none; they act with one candidate."""
    scores = {
        (WALKER, "vdt"): [11.0, 101.0, 101.0],
        (HOPPER, "vdt"): [11.0],
        (WALKER, "dt"): [51.0] * 3,
        (HOPPER, "dt"): [51.0] * 3,
    }
    alone = make_planner(1, 1)
    return [
        replace(cell, config={**cell.config, **alone})
        for (env, method), runs in scores.items()
        for seed, score in enumerate(runs)
        for cell in [make_cell(env, seed, score, method=method)]
    ]


def test_the_order_of_an_unfinished_study_counts_each_data_set_the_same(tmp_path: Path) -> None:
    report = write_report(make_unfinished(), tmp_path, study={**STUDY, "published": ""})
    answer = report.text.splitlines()[2]
    # 10 more after tuning; of vdt 20, 110, 110 and 20 as three runs, without one at either end: (3 * 20 + 110) / 4
    assert "**dt** scores highest of 2 methods after online tuning: interquartile mean **60.0**" in answer
    assert ", before vdt with 42.5 [" in answer and "(1 to 3 seeds)" in answer
    assert "each data set counting the same" in report.text


def test_a_mean_leaves_no_run_out(tmp_path: Path) -> None:
    cells = make_unfinished()
    vdt, dt = (a for a in compute_aggregates(collect_headlines(cells, collect_results(make_frame(cells))))[:2])
    # walker2d 70, hopper 10; seed 0 alone, which both have, would give 10
    assert (vdt.method, vdt.mean.mean, vdt.mean.standard_error) == ("vdt", 40.0, None)
    assert (dt.method, dt.mean.mean, dt.mean.standard_error) == ("dt", 50.0, 0.0)
    text = write_report(cells, tmp_path, study={**STUDY, "published": ""}).text
    assert "| vdt | offline | 4 | 40.0 |" in text and "| dt | offline | 6 | 50.0 ± 0.0 |" in text
    assert "A mean without ± is that of the data sets' means: they have different seeds, or one." in text
    complete = write_report(CELLS, tmp_path / "complete", study={**STUDY, "published": ""}).text
    assert "A mean without ±" not in complete

"""The written report against what went in."""

import base64
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.cards import find_wide_tables, read_tables
from support.records import make_evaluation, make_record
from unit.reporting.test_frame import make_policies
from vdt.environments.scores import compute_standard_error
from vdt.evaluation.records import Calibration, Diagnostics, HeldOutReport, Maze, ParameterCounts, Trace
from vdt.reporting.aggregates import collect_headlines, compute_aggregates
from vdt.reporting.document import Table
from vdt.reporting.frame import collect_results, make_frame
from vdt.reporting.maze_figures import draw_mazes
from vdt.reporting.report import NOT_D4RL, to_strict_json, write_report
from vdt.reporting.tables import tabulate_aggregates, tabulate_cost

PNG = b"\x89PNG\r\n\x1a\n"
COLLECTED = "data **collected** (not D4RL)"


def test_report_says_what_the_data_is(tmp_path: Path) -> None:
    collected = write_report([make_record(0, make_policies(0.0))], tmp_path / "collected").path.read_text()
    assert NOT_D4RL in collected
    assert "**collected** (not D4RL)" in collected
    assert "No D4RL file and no network." in collected
    original = write_report([make_record(0, make_policies(0.0), source="d4rl")], tmp_path / "d4rl").path.read_text()
    assert NOT_D4RL not in original
    assert "not D4RL" not in original


def test_no_result_row_is_shown_without_its_data_source(tmp_path: Path) -> None:
    one = [make_record(seed, make_policies(0.0)) for seed in (0, 1)]
    sections = write_report(one, tmp_path / "one").text.split("\n## ")[1:]
    titles = [section.splitlines()[0] for section in sections]
    assert titles == [
        *("Results", "Look-ahead and online tuning", "Cost", "Results per cell", "Cells", "Seconds of each step")
    ]
    assert all(f"All rows: env walker2d-medium-v2; {COLLECTED}" in section for section in sections), "said once"
    both = write_report([*one, make_record(0, make_policies(0.0), source="d4rl")], tmp_path / "both").text
    rows = [line for line in both.splitlines() if line.startswith("| ") and not line.startswith(("| data", "| env"))]
    # answer, results, changes, cost, results per cell, cells, seconds: each row where sources differ
    assert len(rows) == 2 + 2 * 4 + 2 * 4 + 2 + 3 * 4 + 3 + 3
    assert all(row.startswith(("| **collected** (not D4RL) |", "| D4RL |")) for row in rows)


def test_report_table_golden(tmp_path: Path) -> None:
    text = write_report([make_record(0, make_policies(0.0)), make_record(1, make_policies(2.0))], tmp_path).text
    assert (
        f"All rows: env walker2d-medium-v2; {COLLECTED}; data's mean score 62.5; method vdt; seeds 2 (0, 1); episodes 4."
        "\n\n| policy | look-ahead | normalized_score | episode return | ms per step |"
    ) in text
    # seed means 72 and 74: 73 ± 1; returns 46 * 73 = 3358
    assert "| offline | single (m=1, E=1) | 73.0 ± 1.0 | 3358 | 2.50 |" in text
    # one seed: episodes 70 and 74, deviations ±2, sqrt(8 / 1 / 2) = 2
    assert "| single (m=1, E=1) | 72.0 ± 2.0 *episodes* | 3312 | 1 (0) | 2.50 |" in text
    assert "| lookahead (m=2, E=3, learned) |" in text
    assert "| 1 | `run-vdt-1` |" in text
    assert "| 1 | 3.2 | 60.0 |" in text


def test_what_all_rows_agree_on_is_said_once_and_empty_columns_are_left_out() -> None:
    header = ("env", "method", "look-ahead", "score", "GPU, MB")
    lines = list(Table("T", header, [("e", "a|b", "x", 1, "-"), ("e", "c", "x", 1, "-")], "Note.").render())
    assert lines == [
        *("## T", "", "Note.", "", "All rows: env e; look-ahead x.", ""),
        *("| method | score |", "|---|---|", "| a\\|b | 1 |", "| c | 1 |", ""),
    ], "a score stays, even where all are alike"
    assert list(Table("T", header, []).render()) == []


def test_tables_of_a_run_fit_a_page(tmp_path: Path) -> None:
    record = make_record(0, make_policies(0.0), mlflow_run_id="a" * 32, snapshot={"md5": "b" * 32})
    record = replace(
        record, seconds=dict.fromkeys(("fetch_dataset", "pretrain_critic", "train_actor", "seed_buffer"), 1.0)
    )
    others = [
        make_record(
            seed, make_policies(0.0), env=env, method=method, mlflow_run_id="c" * 32, snapshot={"md5": "d" * 32}
        )
        for env in ("halfcheetah-medium-replay-v2", "hopper-medium-expert-v2")
        for method in ("vdt", "td3bc")
        for seed in (0, 1)
    ]
    for name, records in (("one", [record]), ("study", others)):
        text = write_report(records, tmp_path / name).text
        assert len(read_tables(text)) >= 5 and find_wide_tables(text) == []


def test_success_has_a_column_where_some_environment_says_it(tmp_path: Path) -> None:
    records = []
    for seed, successes in ((0, [True, False]), (1, [True, True])):
        evaluation = make_evaluation([1.0, 3.0], episode_returns=[0.5, 1.75], successes=successes)
        records.append(make_record(seed, {"offline": {"single": evaluation}}))
    text = write_report(records, tmp_path).text
    assert "| ms per step | success rate (± over seeds, or Wilson's 95%) |" in text
    assert "seeds 2 (0, 1); episodes 4." in text
    assert "| 1.12 | 2.50 | 75% ± 25 |" in text  # of 50% and 100%
    assert "| 1.12 | 1 (0) | 2.50 | 50% (9-91%) |" in text
    both = write_report([records[0], make_record(1, make_policies(0.0), method="dt")], tmp_path / "both").text
    assert "| 2.50 | - |" in both
    assert "success" not in write_report([make_record(0, make_policies(0.0))], tmp_path / "silent").text


def test_a_report_says_what_made_it(tmp_path: Path) -> None:
    text = write_report([make_record(0, make_policies(0.0))], tmp_path, origin="2026-01-02, by `run --env a`").text
    assert "\n\nMade on 2026-01-02, by `run --env a`.\n\n" in text


def test_a_report_names_the_environment_of_own_data(tmp_path: Path) -> None:
    config = {"task.environment_id": "Pendulum-v1"}
    own = make_record(0, make_policies(0.0), env="data:logs", source="path", config=config)
    assert "\n- data:logs: environment Pendulum-v1\n" in write_report([own], tmp_path).text


def test_json_holds_every_number_as_it_came(tmp_path: Path) -> None:
    returns = [0.1 + 0.2, 1.0 / 3.0, 1e-17]
    evaluation = make_evaluation([1.0, 2.0, 3.0], episode_returns=returns)
    write_report([make_record(0, {"offline": {"single": evaluation}})], tmp_path)
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["cells"][0]["evaluation"]["policies"]["offline"]["single"]["episode_returns"] == returns
    assert document["results"][0]["returns"] == [returns]
    assert document["results"][0]["normalized_score"]["standard_error"] == compute_standard_error([1.0, 2.0, 3.0])
    assert document["not_finite"] == []
    assert "path" not in document["cells"][0]["snapshot"]


def test_json_is_strict_and_says_where_a_number_was_not_finite(tmp_path: Path) -> None:
    evaluation = make_evaluation([1.0, 2.0], normalized_score_standard_error=math.nan)
    text = write_report([make_record(0, {"offline": {"single": evaluation}})], tmp_path).text

    def refuse(word: str) -> None:
        raise AssertionError(word)

    document = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    place = "cells.0.evaluation.policies.offline.single.normalized_score_standard_error"
    assert document["not_finite"] == [place]
    assert place in text
    assert to_strict_json((1.0, {"a": -math.inf})) == ([1.0, {"a": None}], ["1.a"])


def test_episodes_that_were_cut_short_have_no_score_anywhere(tmp_path: Path) -> None:
    cut: dict[str, Any] = {"cut_at": 50, "episode_returns": [-300.0, -200.0]}
    settings = {key: make_evaluation([None, None], **cut) for key in ("single", "candidates", "lookahead")}
    report = write_report([make_record(0, {"offline": settings, "online": settings})], tmp_path)
    assert "**Episodes were cut at 50 steps: their returns, shown as they are," in report.text
    assert "| offline | single (m=1, E=1) | cut at 50 steps | -250 | 2.50 |" in report.text
    assert "## Look-ahead and online tuning" not in report.text
    document, metrics = (json.loads((tmp_path / name).read_text()) for name in ("report.json", "metrics.json"))
    assert {result["normalized_score"] for result in document["results"]} == {None} and document["changes"] == []
    assert metrics == {"walker2d-medium-v2": {"vdt": {"offline_return": -250.0, "online_return": -250.0}}}
    lines = (tmp_path / "results.csv").read_text().splitlines()
    column = lines[0].split(",").index("score")
    assert len(lines) == 1 + 6 * 2 and {line.split(",")[column] for line in lines[1:]} == {""}
    assert next(figure.name for figure in report.figures) == "scores-walker2d-medium-v2-collected.png"


def test_where_some_cells_of_an_env_were_cut_none_has_a_score(tmp_path: Path) -> None:
    cut = {"lookahead": make_evaluation([None, 1.0], episode_returns=[30.0, 50.0], cut_at=50)}
    whole = {key: {"lookahead": make_evaluation([1.0, 2.0])} for key in ("offline", "online")}
    records = [make_record(0, whole), make_record(0, {"offline": cut}, method="dt")]
    report = write_report(records, tmp_path)
    first, *_, caveat = [line for line in report.text.splitlines() if line and line[0] != "#"][:3]
    assert first == (
        "On **walker2d-medium-v2**, 2 methods have run, and they have returns but no scores, as episodes were cut at 50 "
        "steps (`evaluation.max_episode_steps`): none is compared."
    )
    assert caveat.startswith("**Episodes of 1 of 2 cells were cut at 50 steps: ")
    assert "The other cells of the same env have none either" in caveat
    assert "| vdt | return 69.00 | return 69.00 |" in report.text and "| dt | return 40.00 | " in report.text
    assert "| vdt | offline | none: others were cut at 50 steps | 69.00 |" in report.text
    assert "| dt | offline | cut at 50 steps | 40.00 |" in report.text
    assert "+0.0" not in report.text and "## Look-ahead and online tuning" not in report.text
    document = json.loads((tmp_path / "report.json").read_text())
    assert {result["normalized_score"] for result in document["results"]} == {None} and document["changes"] == []
    assert (tmp_path / "results.csv").read_text().count(",1.0,") >= 2, "measurements stay"


def test_figures_are_written_and_shown(tmp_path: Path) -> None:
    report = write_report([make_record(0, make_policies(0.0)), make_record(1, make_policies(2.0))], tmp_path)
    text = report.path.read_text()
    assert [f.name for f in sorted(report.figures)] == [
        "candidates-walker2d-medium-v2-collected.png",
        "changes-walker2d-medium-v2-collected.png",
        "scores-walker2d-medium-v2-collected.png",
    ]
    assert all(f.read_bytes().startswith(PNG) and f"({f.name})" in text for f in report.figures)
    assert sorted(tmp_path.glob("*.png")) == sorted(report.figures)
    page = report.page.read_text()
    assert all(base64.b64encode(f.read_bytes()).decode() in page for f in report.figures), (
        "a card finds no files beside it"
    )
    assert page.count("<img ") == page.count('src="data:image/png;base64,') == len(report.figures)


def test_a_caption_names_what_is_drawn(tmp_path: Path) -> None:
    dashed = "Dashed: the data's mean."
    assert dashed in write_report([make_record(0, make_policies(0.0))], tmp_path / "whole").text
    unknown = {"card": {}}
    cut = {"lookahead": make_evaluation([None], cut_at=50)}
    for name, record in (
        ("without", make_record(0, make_policies(0.0), snapshot=unknown)),
        ("cut", make_record(0, {"offline": cut})),
    ):
        text = write_report([record], tmp_path / name).text
        assert "*Figure 1. Scores on" in text and dashed not in text


def test_the_share_of_a_mean_bias_has_its_sign(tmp_path: Path) -> None:
    """Biases of -4 and 2 have the mean -1; of returns of 10 and 1 their shares are -0.4 and 2, whose mean is 0.8."""
    records = []
    for seed, (bias, earned) in enumerate(((-4.0, 10.0), (2.0, 1.0))):
        calibration = Calibration([1.0], [earned], steps=4, bias=bias, correlation=None)
        found = {"offline": Diagnostics(ParameterCounts(1, 1), 0, None, calibration)}
        records.append(make_record(seed, {"offline": make_policies(0.0)["offline"]}, diagnostics=found))
    assert "| -1 (-18 %), between -4 (-40 %) and 2 (+200 %) |" in write_report(records, tmp_path).text


def test_a_mean_over_envs_is_shown_beside_the_critics_of_these_envs() -> None:
    """vdt has been run on an env that dt has not."""
    records = []
    for method, env, bias in (("vdt", "a", 0.1), ("vdt", "b", 90.0), ("dt", "a", 0.1)):
        calibration = Calibration([10.0], [10.0], steps=4, bias=bias, correlation=None)
        found = {"offline": Diagnostics(ParameterCounts(1, 1), 0, None, calibration)}
        policies = {"offline": make_policies(0.0)["offline"]}
        records.append(make_record(0, policies, method=method, env=env, diagnostics=found))
    aggregates = compute_aggregates(collect_headlines(records, collect_results(make_frame(records))))
    first = tabulate_aggregates(aggregates, records).rows[0]
    assert first[0] == "vdt" and first[2] == 1 and "+1 %" in str(first[6]) and "900" not in str(first[6])


def test_a_critic_that_is_not_trained_costs_nothing() -> None:
    parameters = {"offline": Diagnostics(ParameterCounts(policy=100, critic=200), 0)}
    records = [
        make_record(
            0, make_policies(0.0), method=method, config={"critic.gradient_steps": steps}, diagnostics=parameters
        )
        for method, steps in (("vdt", 20_000), ("dt", 0))
    ]
    table = tabulate_cost(records, None)
    place = {
        name: table.header.index(name) for name in ("policy parameters", "critic parameters", "pretrain_critic, s")
    }
    found = {str(row[2]): {name: row[index] for name, index in place.items()} for row in table.rows}
    assert found["vdt"] == {"policy parameters": "100", "critic parameters": "200", "pretrain_critic, s": "3.2"}
    assert found["dt"] == {"policy parameters": "100", "critic parameters": "-", "pretrain_critic, s": "-"}


def test_biases_that_cancel_are_seen_to(tmp_path: Path) -> None:
    records = []
    for seed, bias in enumerate((-5.5, 8.5)):
        calibration = Calibration([1.0, 2.0], [1.5, 2.5], steps=4, bias=bias, correlation=None)
        found = {"offline": Diagnostics(ParameterCounts(1, 1), 0, None, calibration)}
        records.append(make_record(seed, {"offline": make_policies(0.0)["offline"]}, diagnostics=found))
    text = write_report(records, tmp_path).text
    assert "| 1.5 (+75 %), between -5.5 (-275 %) and 8.5 (+425 %) |" in text
    alone = write_report(records[:1], tmp_path / "one").text
    assert "-5.5 (-275 %)" in alone and "between" not in alone


def test_a_report_needs_a_cell(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one cell"):
        write_report([], tmp_path)


def test_data_without_an_environment_is_reported_offline(tmp_path: Path) -> None:
    held_out = HeldOutReport(2, 30, 0.25, 0.5, 7.5, 6.25, 6.0, None)
    config = {"task.reference": "the data's own worst and best episode return"}
    mine = "data:folder/mine.hdf5"
    record = make_record(0, {}, env=mine, source="path", config=config, held_out={"offline": held_out})
    text = write_report([record], tmp_path).path.read_text()
    assert f"- {mine}: no environment: online tuning and returns are not available" in text
    assert (
        f"All rows: env {mine}; data **own file** (not D4RL); method vdt; seed 0; policy offline; episodes 2; steps 30."
        in text
    )
    assert "| 0.25 | 0.5 | 7.5 | 6.25 | 6 |" in text
    assert "0 and 100 are the data's own worst and best episode return" in text
    assert "## Results" not in text
    assert [path.stem.partition("-")[0] for path in tmp_path.glob("*.png")] == ["held_out"], "a figure of its own"
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics == {mine: {"vdt": {"offline_action_error": 0.25}}}
    both = write_report([record, make_record(0, make_policies(0.0), source="minari")], tmp_path / "both").text
    assert f"for {mine}: the data's own" in both and "**minari** (not comparable with D4RL)" in both


def test_episodes_are_drawn_over_their_maze(tmp_path: Path) -> None:
    maze = Maze(walls=[[0.0, 0.0], [4.0, 0.0]], size=4.0, goal=[0.0, 8.0], radius=0.5)
    trace = Trace(maze, [[[0.0, 4.0], [0.0, 7.9]], [[4.0, 4.0]]])
    walker = make_evaluation([70.0, 0.0], successes=[True, False], trace=trace)
    records = [make_record(seed, {"offline": {"single": walker}, "online": {"single": walker}}) for seed in (0, 1)]
    (env, name, figure), *others = draw_mazes([*records, make_record(0, make_policies(0.0), method="dt")])
    assert (env, name, others) == ("walker2d-medium-v2", "maze-walker2d-medium-v2-collected.png", [])
    offline, _online = figure.axes  # of the first seed
    assert offline.get_title() == "vdt offline single, seed 0"
    wall, _, goal = offline.patches
    assert wall.get_bbox().bounds == (-2.0, -2.0, 4.0, 4.0) and tuple(goal.get_center()) == (0.0, 8.0)
    reached, _, stuck, _ = offline.lines
    assert reached.get_xydata().tolist() == trace.paths[0] and reached.get_color() != stuck.get_color()
    path = write_report(records, tmp_path).path
    assert f"![Evaluated episodes in their maze on walker2d-medium-v2]({name})\n*Figure 2. Eval" in path.read_text()
    assert (tmp_path / name).read_bytes().startswith(PNG)
    patches = [make_record(0, {"offline": {"single": walker}}, patch=patch) for patch in ("no-q", "no-weights")]
    ((*_, figure),) = draw_mazes(patches)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["vdt + no-q offline single, seed 0", "vdt + no-weights offline single, seed 0"]


@pytest.mark.parametrize("guided", [(True, False), (False, True)])
def test_seeds_may_differ_in_whether_their_critic_guides(tmp_path: Path, guided: tuple[bool, bool]) -> None:
    """A critic that may not guide leaves one return to follow; the other seeds choose among all."""
    one, two = make_evaluation([50.0, 60.0]), make_evaluation([50.0, 60.0], (5000.0, 2500.0))
    records = [
        make_record(seed, {"offline": {"single": one, "candidates": two if guides else one}})
        for seed, guides in enumerate(guided)
    ]
    report = write_report(records, tmp_path)
    together = report.text.partition("Results per cell")[0]
    assert "candidates (m=2, E=1)" in together and "candidates (m=1, E=1)" not in together
    assert any(path.name.startswith("candidates-") for path in report.figures)


def test_data_sets_of_an_env_are_told_apart_in_every_table(tmp_path: Path) -> None:
    records = [
        make_record(0, make_policies(gain), config={"data.seed": seed}, snapshot={"md5": f"m{seed}"})
        for seed, gain in ((5, 0.0), (6, 2.0))
    ]
    report = write_report(records, tmp_path)
    sections = [part for part in report.text.split("\n## ")[1:] if "| env" in part or "| data" in part]
    assert len(sections) >= 4
    for section in sections:
        assert "seed 5 |" in section and "seed 6 |" in section, section
    lines = (tmp_path / "results.csv").read_text().splitlines()
    column = lines[0].split(",").index("data_seed")
    assert {line.split(",")[column] for line in lines[1:]} == {"5", "6"}

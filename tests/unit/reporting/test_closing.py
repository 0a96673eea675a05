"""The last screen of a run."""

from support.records import make_evaluation, make_record
from vdt.reporting.closing import MOST_LINES, summarise_places, summarise_scores


def test_scores_stand_beside_the_mean_of_the_data() -> None:
    policies = {"offline": {"lookahead": make_evaluation([50.0, 70.0])}}
    lines = summarise_scores([make_record(seed, policies) for seed in (0, 1)]).splitlines()
    assert lines[0].split("  ")[0] == "env" and lines[0].endswith("seeds")
    assert [line.split() for line in lines[1:]] == [
        ["walker2d-medium-v2", "62.5", "vdt", "offline", "60.0", "±", "0.0", "2"]
    ]


def test_many_scores_are_cut() -> None:
    policies = {"offline": {"lookahead": make_evaluation([50.0])}}
    lines = summarise_scores(
        [make_record(0, policies, env=f"env-{number}-v0") for number in range(MOST_LINES + 5)]
    ).splitlines()
    assert len(lines) == MOST_LINES + 2 and lines[-1].endswith("more in the report")


def test_places_are_named_once() -> None:
    text = summarise_places({"policy": ["a.pt", "b.pt"], "report": ["r.md"], "runs": ["", ""]})
    assert text == "policy  a.pt\n        b.pt\nreport  r.md"

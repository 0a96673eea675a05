"""`benchmarks/draw_curves.py`: curves of the published policies, each policy a line."""

import sys
from pathlib import Path

import pytest
from matplotlib import pyplot as plt

from benchmarks.draw_curves import draw, main, select_rows

ROW = {"env": "walker2d-medium-v2", "method": "odt", "preset": "fair", "patch": "", "data.seed": "5", "acts": "single"}
ROW |= {"policy": "offline", "actor.gradient_steps": "2000", "curve": "1000:40 2000:60"}


def test_rows_are_the_usual_budget_of_the_preset_with_a_curve() -> None:
    others = [
        {"preset": "laptop"},
        {"patch": "x"},
        {"curve": ""},
        {"policy": "online"},
        {"actor.gradient_steps": "5000"},
    ]
    others += [{"acts": "candidates"}]
    qt = {**ROW, "method": "qt", "actor.gradient_steps": "10000"}
    rows = [ROW, {**ROW, "data.seed": "6"}, qt, *({**ROW, **other} for other in others)]
    assert select_rows(rows, "fair") == rows[:3]


def test_a_line_for_each_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(plt.Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    draw([ROW, {**ROW, "data.seed": "10", "curve": "1000:10 2000:20"}, {**ROW, "method": "qt"}], tmp_path / "x.png")
    first, second = drawn[0].axes
    assert [list(line.get_ydata()) for line in first.lines if len(line.get_xdata())] == [[40.0, 60.0], [10.0, 20.0]]
    assert [list(line.get_xdata()) for line in second.lines] == [[1.0, 2.0]]
    assert (first.get_ylabel(), second.get_ylabel()) == ("odt", "qt")
    plt.close(drawn[0])


def test_a_table_without_curves_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "t.csv"
    table.write_text(",".join(ROW) + "\n" + ",".join(ROW.values()) + "\n")
    for seeds, message in (("5", ""), ("6", "no offline policy of preset fair and these data seeds has a curve")):
        monkeypatch.setattr(sys, "argv", ["", str(table), "--output", str(tmp_path / "x.png"), "--data-seeds", seeds])
        if message:
            with pytest.raises(SystemExit, match=message):
                main()
        else:
            main()
            assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"

"""Reports as pages, opened in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.browser import DESKTOP, NARROW, Browser, find_faults, find_foreign, open_browser
from support.records import make_record
from unit.reporting.test_study_report import CELLS, STUDY
from vdt.evaluation.records import Calibration, HeldOutReport, ValueEstimates
from vdt.reporting.report import write_report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.mark.parametrize("width", [DESKTOP, NARROW])
def test_a_report_fits_any_screen_and_asks_nobody(browser: Browser, width: int, tmp_path: Path) -> None:
    curve = [(step, float(step)) for step in range(1, 50)]
    curves = {cell.mlflow_run_id: {"critic/q_loss": curve, "actor/behavior_loss": curve} for cell in CELLS}
    report = write_report(CELLS, tmp_path, study=STUDY, curves=curves)
    for figure in report.figures:
        figure.unlink()  # the page has them inside
    page = browser.open(report.page.as_uri(), width)
    assert find_faults(page) == [] and find_foreign(page) == []
    assert len(page["images"]) == len(report.figures) > 10 and len(page["tables"]) > 8
    assert page["text"].index("scores highest of 2 methods") < page["text"].index("Beside published numbers")


def test_own_data_is_told_what_can_be_known_without_an_environment(browser: Browser, tmp_path: Path) -> None:
    calibration = Calibration([1.0, 2.0], [1.5, 2.5], steps=4, bias=-0.5, correlation=0.25)
    held_out = HeldOutReport(2, 30, 0.25, 0.5, 7.5, 6.25, 6.0, 0.25, calibration=calibration)
    record = make_record(0, {}, env="data:mine.hdf5", source="path", held_out={"offline": held_out})
    values = {"offline": ValueEstimates(4, 7.0, 8.5, 7.75, 10_000, 1.0, 6.5)}
    object.__setattr__(record.evaluation, "values", values)
    curve = [(step, 1.0 / step) for step in range(1, 50)]
    report = write_report([record], tmp_path, curves={"run-vdt-0": {"critic/q_loss": curve}})
    page = browser.open(report.page.as_uri(), NARROW)
    assert find_faults(page) == []
    words = " ".join(page["text"].split())
    said = "data:mine.hdf5 has no environment: vdt misses held-out actions by 0.25, a constant by 0.5; its value is "
    assert (
        f"{said}estimated at 8.5, the data earned 6.5. Such values are guesses from the data, no measured ret" in words
    )
    assert {path.name.partition("-")[0] for path in report.figures} == {
        *("curves", "held_out", "held_out_calibration", "values")
    }
    assert (
        "No measured returns: where the data has no action like the policy's they are guesses, often too high." in words
    )


def test_markup_in_names_is_shown_and_not_obeyed(browser: Browser, tmp_path: Path) -> None:
    note = '<script>document.title = "obeyed"</script> <img src="http://127.0.0.1:9/x.png">'
    report = write_report(CELLS[:1], tmp_path, study={**STUDY, "title": "<b>bold</b>", "note": note, "published": ""})
    page = browser.open(report.page.as_uri())
    assert "<b>bold</b>" in page["text"] and note in page["text"] and browser.driver.title != "obeyed"
    assert [url for url in page["requests"] if not url.startswith(("data:", "file:"))] == []

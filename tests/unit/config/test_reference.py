"""The reference of all knobs is up to date, complete, and of one mind with the schema."""

from vdt.config.layers import PARAMS
from vdt.config.reference import RANGE, SOURCE, find_knobs, format_reference, list_knobs, read_comments
from vdt.config.schema import KEYS
from vdt.system.home import ROOT


def test_the_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "reference" / "config.md").read_text(encoding="utf-8")
    assert page == format_reference(), "run `python -m vdt.config.reference`"


def test_every_knob_has_a_meaning_and_a_source() -> None:
    for knob in list_knobs():
        assert len(knob.meaning.split()) > 1, knob.name
        assert knob.source or knob.name.startswith("task.") or not knob.default, f"{knob.name}: whose value is it?"


def test_comments_give_the_ranges_of_the_schema() -> None:
    comments = read_comments((PARAMS / "vdt.yaml").read_text(encoding="utf-8"))
    stated = {name: RANGE.search(SOURCE.sub("", comment)) for name, comment in comments.items()}
    for name, key in KEYS.items():
        match = stated.get(name)
        if match is None:
            assert key.low is None or name not in comments, f"{name}: [low, high] is missing"
        else:
            high = None if match["high"] == "inf)" else float(match["high"].rstrip("]"))
            assert (float(match["low"]), high) == (key.low, key.high), name


def test_what_changes_acting_and_speed_is_found() -> None:
    acting, speed = ({knob.name for knob in find_knobs(word)} for word in ("acting", "speed"))
    assert {key for key in KEYS if key.startswith("planner.")} | {"runtime.device", "runtime.acceleration"} <= acting
    assert {key for key in KEYS if key.startswith("runtime.")} | {"planner.forget_steps"} <= speed


def test_knobs_are_found_by_meaning_if_by_no_name() -> None:
    assert [knob.name for knob in find_knobs("sliding window")] == ["planner.forget_steps"]

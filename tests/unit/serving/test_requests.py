"""Rows of a request become histories; what no client should send gets one sentence."""

import json
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from vdt.agent.histories import EpisodeHistory
from vdt.serving.requests import RequestError, decode, read_histories

SEEN = [[0.0, 1.0]]


def test_rows_become_histories() -> None:
    later = {"observations": SEEN * 2, "actions": [[0.5]], "rewards": [1.0], "target_return": 3.0, "skipped_steps": 0}
    first = {"observations": SEEN, "actions": None, "target_return": None}
    assert read_histories([later, first]) == [EpisodeHistory(**later), EpisodeHistory(SEEN)]


def test_whole_numbers_may_have_become_floats() -> None:
    """A column of whole numbers and gaps has that type in pandas."""
    (history,) = read_histories([{"observations": SEEN, "skipped_steps": 2.0}])
    assert history.skipped_steps == 2 and isinstance(history.skipped_steps, int)


def test_skipped_steps_of_some_rows_alone_are_0_for_the_others() -> None:
    rows = [{"observations": SEEN, "skipped_steps": 2}, {"observations": SEEN}]
    histories = read_histories(pd.DataFrame(rows).to_dict("records"))
    assert [history.skipped_steps for history in histories] == [2, 0]
    with pytest.raises(RequestError, match="target_return of episode 1 is not a number"):
        read_histories(pd.DataFrame([{"observations": SEEN, "target_return": 3}, rows[1]]).to_dict("records"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "1 to 1000 episodes, not 0"),
        ([{"observations": SEEN}] * 1001, "1 to 1000 episodes, not 1001"),
        ([{"observations": SEEN}, {"actions": []}], "observations of episode 1 are missing"),
        ([{"observations": None}], "observations of episode 0 are missing"),
        (
            [{"observations": SEEN, "target": 1.0}],
            "'target' is no column of a request; accepted are observations, actions",
        ),
        ([{0: SEEN}], "'0' is no column of a request"),
        ([{"observations": SEEN, "target_return": float("nan")}], "target_return of episode 0 is not a number"),
    ],
    ids=str,
)
def test_requests_without_an_answer_are_refused(rows: list[Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read_histories(rows)


def test_target_returns_are_counted_over_all_episodes() -> None:
    row = {"observations": SEEN, "target_return": [1.0] * 5000}
    assert len(read_histories([row, row, {"observations": SEEN, "target_return": 1.0}])) == 3
    with pytest.raises(RequestError, match="at most 10000 target returns to choose among, not 10001"):
        read_histories([row, row, {"observations": SEEN, "target_return": [1.0]}])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "no JSON: Expecting value"),
        (b"\xff\xfe\x00", "not in UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"inputs": [{"observations": [[NaN]]}]}', "NaN is no number of JSON"),
        (b'{"inputs": [{"observations": [[-Infinity]]}]}', "-Infinity is no number of JSON"),
        (b"[]", "one JSON object with one of the names dataframe_records, dataframe_split, inputs"),
        (b"{}", "one JSON object with one of the names"),
        (b'{"instances": []}', "one JSON object with one of the names"),
        (b'{"inputs": [], "dataframe_records": []}', "one JSON object with one of the names"),
        (b'{"inputs": [], "params": {}}', "and nothing else"),
        (b'{"dataframe_records": []}', "a request holds 1 to 1000 episodes, not 0"),
        (b'{"inputs": []}', "a request holds 1 to 1000 episodes, not 0"),
        (b'{"dataframe_records": [1]}', "episode 0 must be an object with the names observations, actions, rewards, "),
        (b'{"dataframe_records": {"observations": [[1]]}}', "dataframe_records must be a list of episodes, not an obj"),
        (b'{"inputs": 3}', "inputs must be a list of episodes, not the number 3"),
        (
            b'{"dataframe_split": []}',
            "dataframe_split must be an object with columns, a list of names, and data, a lis",
        ),
        (b'{"dataframe_split": {"columns": ["observations"], "data": 1}}', "dataframe_split must be an object with co"),
        (
            b'{"dataframe_split": {"columns": ["observations"], "data": [[[[1]], 2]]}}',
            "row 0 of dataframe_split must have 1 ent",
        ),
        (
            b'{"dataframe_split": {"columns": ["rewards", "rewards"], "data": []}}',
            "'rewards' stands twice in the colum",
        ),
        (b'{"inputs": [{"observations": []}, {"target_returns": 1}]}', "'target_returns' is no column of a request"),
        (b'{"inputs": {"skiped_steps": 1}}', "'skiped_steps' is no column of a request"),
        (b'{"dataframe_split": {"columns": ["observations", "target"], "data": []}}', "'target' is no column of a"),
        (b'{"dataframe_split": {"columns": ["observations", ["a"]], "data": []}}', "is no column of a request"),
        (b'{"dataframe_split": {"columns": {"target": 0}, "data": []}}', "'target' is no column of a request"),
        (
            b'{"dataframe_split": {"columns": ["observations"], "index": [0, 1, 2], "data": [[[[1]]]]}}',
            "index of dataframe_split must be a list with an entry for each row of its data",
        ),
        (
            b'{"dataframe_split": {"columns": ["observations"], "index": {"a": 0, "b": 1}, "data": [[[[1]]]]}}',
            "index of dataframe_split must be a list with an entry for each row of its data",
        ),
        (
            b'{"dataframe_split": {"columns": ["observations"], "data": [' + b"[[[1]]]," * 1000 + b"[[[1]]]]}}",
            "a request holds 1 to 1000 episodes, not 1001",
        ),
        (
            b'{"inputs": [' + b'{"observations": [[1]]},' * 1000 + b'{"observations": [[1]]}]}',
            "a request holds 1 to 1000 episodes, not 1001",
        ),
        (
            b'{"inputs": [{"observations": [[' + b"1" * 5000 + b"]]}]}",
            "a number of the request has more than 4300 digi",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bodies_that_are_no_request_are_refused(body: bytes, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        decode(body)


TWO_STEPS = {"observations": SEEN * 2, "actions": [[0.5]], "rewards": [1.0]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"observations": [0, 0, 0]},
            "observations of episode 1 must be a list of rows of numbers, such as [[0.1, 0.2]]; row 0 is the number 0",
        ),
        (
            {"observations": 3},
            "observations of episode 1 must be a list of rows of numbers, such as [[0.1, 0.2]], not ",
        ),
        ({"observations": "abc"}, "such as [[0.1, 0.2]], not a text"),
        ({"observations": None}, "observations of episode 1 are missing"),
        (
            {"observations": [[0, True], [0, 1]]},
            "observations of episode 1: number 1 of row 0 is true; accepted are num",
        ),
        (
            {"observations": [[0, 1], [0, None]]},
            "observations of episode 1: number 1 of row 1 is null; accepted are num",
        ),
        (
            {"observations": [[0, 1], [0, [1]]]},
            "observations of episode 1: number 1 of row 1 is a list; accepted are n",
        ),
        (
            {"observations": [[0, 1], [0]]},
            "observations of episode 1: rows 0 and 1 have 2 and 1 numbers; accepted are rows of",
        ),
        (
            {"observations": [[0, 1], [0, 1e300]]},
            "observations of episode 1: number 1 of row 1 is 1e+300; accepted are ",
        ),
        (
            {"observations": [[0, 1], [0, 10**400]]},
            "number 1 of row 1 is a whole number of more digits than a float holds; accepted are num",
        ),
        (
            {"actions": [0.5]},
            "actions of episode 1 must be a list of rows of numbers, such as [[0.1, 0.2]]; row 0 is the",
        ),
        ({"actions": [["a"]]}, "actions of episode 1: number 0 of row 0 is a text; accepted are numbers"),
        ({"rewards": 1.0}, "rewards of episode 1 must be a list of numbers, such as [0.1, 0.2], not the number 1"),
        ({"rewards": [[1.0]]}, "rewards of episode 1: number 0 is a list; accepted are numbers"),
        ({"rewards": [False]}, "rewards of episode 1: number 0 is false; accepted are numbers"),
        (
            {"actions": ...},
            "actions of episode 1 are left out, and those of episode 0 are not; give an empty list, or le",
        ),
        (
            {"rewards": ...},
            "rewards of episode 1 are left out, and those of episode 0 are not; give an empty list, or le",
        ),
        (
            {"target_return": 1.0},
            "target_return of episode 1 is given, and that of episode 0 is not; give all episodes of",
        ),
    ],
    ids=str,
)
def test_numbers_in_a_wrong_shape_are_named_by_episode(change: dict[str, Any], message: str) -> None:
    wrong = {name: value for name, value in {**TWO_STEPS, **change}.items() if value is not ...}
    columns, records = list(TWO_STEPS), [TWO_STEPS, wrong]
    bodies: list[Any] = [{"dataframe_records": records}, {"inputs": records}]
    if list(wrong) == columns:  # a table has all its columns in each row
        table = {"columns": columns, "data": [[record[name] for name in columns] for record in records]}
        bodies.append({"dataframe_split": table})
    for body in bodies:
        with pytest.raises(RequestError, match=re.escape(message)):
            decode(json.dumps(body).encode())


def test_a_table_in_memory_is_checked_by_the_same_rules() -> None:
    """As MLflow hands it on: lists, or arrays."""
    for row in ({"observations": [[True, 1.0]]}, {"observations": np.array([[True, False]])}):
        with pytest.raises(RequestError, match="observations of episode 0: number 0 of row 0 is true"):
            read_histories([row])
    with pytest.raises(RequestError, match="observations of episode 0 must be a list of rows of numbers"):
        read_histories([{"observations": np.zeros(3)}])
    arrays = {"observations": np.zeros((2, 3), np.float32), "actions": [np.zeros(2)], "rewards": np.ones(1, np.int64)}
    (history,) = read_histories([arrays])
    assert history.observations is arrays["observations"] and history.rewards is arrays["rewards"]


def test_a_body_is_read_as_it_is() -> None:
    assert decode(b'{"inputs": [{"observations": [[1, 2.5]]}]}') == {"inputs": [{"observations": [[1, 2.5]]}]}
    assert decode(b'{"inputs": {"observations": [[1, 2.5]], "rewards": null}}'), "one episode needs no list"
    assert decode(b'{"dataframe_records": [{"observations": [[1]]}, {"observations": [[2]], "skipped_steps": 0}]}')
    assert decode(b'{"dataframe_split": {"columns": ["observations"], "data": [[[[1]]]]}}')
    assert decode(b'{"dataframe_split": {"columns": ["observations"], "index": [7], "data": [[[[1]]]]}}')

"""Requests to a served policy: the columns of a table, one row for each episode, as the histories that a policy reads.

`docs/serving.md` describes them for clients.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from vdt.agent.histories import EpisodeHistory
from vdt.data.numbers import LARGEST_FLOAT

REQUIRED = "observations"
OPTIONAL = ("actions", "rewards", "target_return", "skipped_steps")
COLUMNS = (REQUIRED, *OPTIONAL)
FORMS = ("dataframe_records", "dataframe_split", "inputs")  # of MLflow's; its "instances" are turned around on the way
LARGEST = float(LARGEST_FLOAT)
MOST_EPISODES = 1000  # in one request
MOST_RETURNS = 10_000  # to choose among, of all its episodes: each costs as much memory as an episode


class RequestError(ValueError):
    """Request that a policy cannot answer; its message is one sentence for the client."""


def decode(body: bytes) -> dict[str, Any]:
    """Read the JSON of a request strictly: numbers that JSON does not know, and names that no column has, are refused.

    Raises:
        RequestError: if it is no such request.
    """
    decoded = _read_json(body)
    forms = [name for name in FORMS if isinstance(decoded, dict) and name in decoded]
    if len(forms) != 1 or len(decoded) != 1:
        raise RequestError(f"a request is one JSON object with one of the names {', '.join(FORMS)}, and nothing else")
    _check_names(_list_names(forms[0], decoded[forms[0]]))
    _check_rows(forms[0], decoded[forms[0]])
    _check_episodes(_list_episodes(forms[0], decoded[forms[0]]))
    return dict(decoded)


def _read_json(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except RequestError:
        raise
    except RecursionError:
        raise RequestError("the lists of the request are nested too deeply") from None
    except UnicodeDecodeError:
        raise RequestError("the request is not in UTF-8") from None
    except json.JSONDecodeError as error:
        raise RequestError(f"the request is no JSON: {error}") from None
    except ValueError:
        raise RequestError(f"a number of the request has more than {sys.get_int_max_str_digits()} digits") from None


def _refuse_constant(name: str) -> None:
    raise RequestError(f"{name} is no number of JSON, and no policy can use it")


def _list_names(form: str, given: Any) -> Iterator[Any]:
    """Yield all names of columns, whatever they are; MLflow refuses what has no such names."""
    if form == "dataframe_split":
        columns = given.get("columns") if isinstance(given, dict) else None
        yield from columns if isinstance(columns, list | dict) else []
        return
    for row in given if isinstance(given, list) else [given]:
        yield from row if isinstance(row, dict) else []


def _check_rows(form: str, given: Any) -> None:
    """Count the episodes of a table before pandas builds it; pandas repeats a row to the length of an index."""
    if form == "dataframe_split" and isinstance(given, dict):
        rows, index = given.get("data"), given.get("index")
        if index is not None and not (isinstance(index, list) and isinstance(rows, list) and len(index) == len(rows)):
            raise RequestError("index of dataframe_split must be a list with an entry for each row of its data")
        given = rows
    if isinstance(given, list) and len(given) > MOST_EPISODES:
        raise _make_count_error(len(given))


def _list_episodes(form: str, given: Any) -> list[Any]:
    """Return the episodes of a request, as MLflow makes a table of them."""
    if form == "dataframe_split":
        return _list_table(given)
    if form == "inputs" and isinstance(given, dict):
        return [given]
    if not isinstance(given, list):
        raise RequestError(f"{form} must be a list of episodes, not {_describe(given)}")
    return given


def _list_table(given: Any) -> list[dict[str, Any]]:
    columns, rows = (given.get(name) if isinstance(given, dict) else None for name in ("columns", "data"))
    if not isinstance(columns, list) or not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise RequestError("dataframe_split must be an object with columns, a list of names, and data, a list of rows")
    for number, name in enumerate(columns):
        if name in columns[:number]:
            raise RequestError(f"{name!r} stands twice in the columns of dataframe_split")
    for number, row in enumerate(rows):
        if len(row) != len(columns):
            raise RequestError(f"row {number} of dataframe_split must have {len(columns)} entries, not {len(row)}")
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _check_episodes(episodes: Sequence[Any]) -> None:
    """Check by this module's rules what MLflow would refuse in words about its own types of columns."""
    if not episodes:
        raise _make_count_error(0)
    for i, episode in enumerate(episodes):
        if not isinstance(episode, dict):
            raise RequestError(
                f"episode {i} must be an object with the names {', '.join(COLUMNS)}, not {_describe(episode)}"
            )
        _check_numbers(episode, f"of episode {i}")
    for name in ("actions", "rewards"):
        given = [name in episode for episode in episodes]
        if any(given) and not all(given):
            raise RequestError(
                f"{name} of episode {given.index(False)} are left out, and those of episode {given.index(True)} are not; "
                "give an empty list, or leave them out in all episodes of a request"
            )
    given = [episode.get("target_return") is not None for episode in episodes]
    if any(given) and not all(given):
        raise RequestError(
            f"target_return of episode {given.index(True)} is given, and that of episode {given.index(False)} is not; give "
            "all episodes of a request one, or none"
        )


def _check_numbers(row: Mapping[str, Any], place: str) -> None:
    """Refuse observations, actions and rewards that are no numbers in lists of the right depth."""
    if row.get(REQUIRED) is None:
        raise RequestError(f"{REQUIRED} {place} are missing")
    for name in (REQUIRED, "actions"):
        if row.get(name) is not None:
            _check_lists(row[name], f"{name} {place}")
    if row.get("rewards") is not None:
        _check_list(row["rewards"], f"rewards {place}", "")


def _check_lists(values: Any, what: str) -> None:
    """Refuse what are no rows of numbers, all of one length."""
    wanted = f"{what} must be a list of rows of numbers, such as [[0.1, 0.2]]"
    if not _is_list(values):
        raise RequestError(f"{wanted}, not {_describe(values)}")
    for number, row in enumerate(values):
        if not _is_list(row):
            raise RequestError(f"{wanted}; row {number} is {_describe(row)}")
        if len(row) != len(values[0]):
            lengths = f"rows 0 and {number} have {len(values[0])} and {len(row)} numbers"
            raise RequestError(f"{what}: {lengths}; accepted are rows of one length")
        _check_list(row, what, f" of row {number}")


def _check_list(values: Any, what: str, where: str) -> None:
    """Refuse a list with anything but numbers within float32; true and false are none."""
    if not _is_list(values):
        raise RequestError(f"{what} must be a list of numbers, such as [0.1, 0.2], not {_describe(values)}")
    if isinstance(values, np.ndarray) and values.dtype.kind != "b":
        return  # the policy checks arrays as a whole
    kinds = set(map(type, values))
    if kinds <= {int, float} and max(map(abs, values), default=0) <= LARGEST:
        return  # as nearly all are, and there may be millions
    odd = {kind for kind in kinds if kind in (bool, np.bool_) or not issubclass(kind, Real | np.ndarray)}
    for number, value in enumerate(values):
        if type(value) in odd:
            raise RequestError(f"{what}: number {number}{where} is {_describe(value)}; accepted are numbers")
        if isinstance(value, int | float) and not abs(value) <= LARGEST:
            raise RequestError(
                f"{what}: number {number}{where} is {_format(value)}; accepted are numbers within float32, up to {LARGEST:.4g}"
            )


def _is_list(values: Any) -> bool:
    return isinstance(values, list | tuple) or (isinstance(values, np.ndarray) and values.ndim > 0)


def _describe(value: Any) -> str:
    """Return what stands where something else is accepted, in words of JSON."""
    if value is None or isinstance(value, bool | np.bool_):
        return {"None": "null", "True": "true", "False": "false"}[str(value)]
    if isinstance(value, Real):
        return f"the number {_format(value)}"
    return "a text" if isinstance(value, str) else "an object" if isinstance(value, dict) else "a list"


def _format(value: Any) -> str:
    try:
        return f"{float(value):g}"
    except OverflowError:
        return "a whole number of more digits than a float holds"  # as JSON may have


def _make_count_error(count: int) -> RequestError:
    return RequestError(f"a request holds 1 to {MOST_EPISODES} episodes, not {count}")


def _check_names(names: Iterable[Any]) -> None:
    for name in names:
        if name not in COLUMNS:
            raise RequestError(f"{str(name)[:50]!r} is no column of a request; accepted are {', '.join(COLUMNS)}")


def read_histories(rows: Sequence[Mapping[str, Any]]) -> list[EpisodeHistory]:
    """Read the rows of a request.

    Args:
        rows: a mapping for each episode, with the names of `COLUMNS`. What is absent or None has its default.

    Raises:
        RequestError: if there is no episode or there are too many episodes or target returns, a name is unknown,
            observations are missing, or what should be numbers is something else.
    """
    if not 0 < len(rows) <= MOST_EPISODES:
        raise _make_count_error(len(rows))
    lists = [row["target_return"] for row in rows if isinstance(row.get("target_return"), list)]
    if (returns := sum(map(len, lists))) > MOST_RETURNS:
        raise RequestError(f"a request holds at most {MOST_RETURNS} target returns to choose among, not {returns}")
    return [_read_history(row, f"of episode {i}") for i, row in enumerate(rows)]


def _read_history(row: Mapping[str, Any], place: str) -> EpisodeHistory:
    _check_names(row)
    given = {name: value for name, value in row.items() if value is not None}
    _check_numbers(given, place)
    skipped = given.get("skipped_steps", 0)
    if isinstance(skipped, float) and (skipped.is_integer() or math.isnan(skipped)):  # a column with gaps, in pandas
        given["skipped_steps"] = 0 if math.isnan(skipped) else int(skipped)
    target = given.get("target_return")
    if isinstance(target, float) and math.isnan(target):
        raise RequestError(
            f"target_return {place} is not a number; leave the column out, or give all episodes of a request one"
        )
    return EpisodeHistory(**given)


def expect_one_return(histories: Sequence[EpisodeHistory]) -> None:
    """Check that no episode has several target returns to choose among; for a model without look-ahead.

    Raises:
        RequestError: naming the first that has.
    """
    for i, history in enumerate(histories):
        if (count := np.asarray(history.target_return).size) > 1:
            raise RequestError(
                f"target_return of episode {i} holds {count} returns to choose among, and this model acts without look-ahead; "
                "accepted is one number, or vdt serve --lookahead"
            )

"""Requests to a served policy: the columns of a table, one row for each episode, as the histories that a policy reads.

`docs/serving.md` describes them for clients.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from vdt.agent.histories import EpisodeHistory

REQUIRED = "observations"
OPTIONAL = ("actions", "rewards", "target_return", "skipped_steps")
COLUMNS = (REQUIRED, *OPTIONAL)
FORMS = ("dataframe_records", "dataframe_split", "inputs")  # of MLflow's; its "instances" are turned around on the way
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
        RequestError: if there is no episode or there are too many episodes or target returns, a name is unknown, or
            observations are missing.
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
    if REQUIRED not in given:
        raise RequestError(f"observations {place} are missing")
    skipped = given.get("skipped_steps", 0)
    if isinstance(skipped, float) and (skipped.is_integer() or math.isnan(skipped)):  # a column with gaps, in pandas
        given["skipped_steps"] = 0 if math.isnan(skipped) else int(skipped)
    target = given.get("target_return")
    if isinstance(target, float) and math.isnan(target):
        raise RequestError(
            f"target_return {place} is not a number; leave the column out, or give all episodes of a request one"
        )
    return EpisodeHistory(**given)

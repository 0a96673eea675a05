"""Requests to a served policy: the columns of a table, one row for each episode, as the histories that a policy reads.

`docs/serving.md` describes them for clients.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from vdt.agent.histories import EpisodeHistory

REQUIRED = "observations"
OPTIONAL = ("actions", "rewards", "target_return", "skipped_steps")
COLUMNS = (REQUIRED, *OPTIONAL)
FORMS = ("dataframe_records", "dataframe_split", "inputs")  # of MLflow's; its "instances" are turned around on the way
MOST_EPISODES = 1000  # in one request


class RequestError(ValueError):
    """Request that a policy cannot answer; its message is one sentence for the client."""


def decode(body: bytes) -> dict[str, Any]:
    """Read the JSON of a request strictly: numbers that JSON does not know, and names that no column has, are refused.

    Raises:
        RequestError: if it is no such request.
    """
    try:
        decoded = json.loads(body, parse_constant=_refuse_constant)
    except RecursionError:
        raise RequestError("the lists of the request are nested too deeply") from None
    except UnicodeDecodeError:
        raise RequestError("the request is not in UTF-8") from None
    except json.JSONDecodeError as error:
        raise RequestError(f"the request is no JSON: {error}") from None
    forms = [name for name in FORMS if isinstance(decoded, dict) and name in decoded]
    if len(forms) != 1 or len(decoded) != 1:
        raise RequestError(f"a request is one JSON object with one of the names {', '.join(FORMS)}, and nothing else")
    rows = decoded[forms[0]] if forms[0] != "dataframe_split" else []
    for row in rows if isinstance(rows, list) else [rows]:
        if isinstance(row, dict):
            _check_names(row)
    return dict(decoded)


def _refuse_constant(name: str) -> None:
    raise RequestError(f"{name} is no number of JSON, and no policy can use it")


def _check_names(row: Mapping[str, Any]) -> None:
    unknown = [str(name) for name in row if name not in COLUMNS]
    if unknown:
        raise RequestError(f"{unknown[0][:50]!r} is no column of a request; accepted are {', '.join(COLUMNS)}")


def read_histories(rows: Sequence[Mapping[str, Any]]) -> list[EpisodeHistory]:
    """Read the rows of a request.

    Args:
        rows: a mapping for each episode, with the names of `COLUMNS`. What is absent or None has its default.

    Raises:
        RequestError: if there is no episode or there are too many, a name is unknown, or observations are missing.
    """
    if not 0 < len(rows) <= MOST_EPISODES:
        raise RequestError(f"a request holds 1 to {MOST_EPISODES} episodes, not {len(rows)}")
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

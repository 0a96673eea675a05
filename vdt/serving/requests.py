"""Requests to a served policy: the columns of a table, one row for each episode, as the histories that a policy reads.

`docs/serving.md` describes them for clients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vdt.agent.histories import EpisodeHistory

REQUIRED = "observations"
OPTIONAL = ("actions", "rewards", "target_return", "skipped_steps")
COLUMNS = (REQUIRED, *OPTIONAL)
MOST_EPISODES = 1000  # in one request


class RequestError(ValueError):
    """Request that a policy cannot answer; its message is one sentence for the client."""


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
    unknown = [str(name) for name in row if name not in COLUMNS]
    if unknown:
        raise RequestError(f"{unknown[0][:50]!r} is no column of a request; accepted are {', '.join(COLUMNS)}")
    given = {name: value for name, value in row.items() if value is not None}
    if REQUIRED not in given:
        raise RequestError(f"observations {place} are missing")
    skipped = given.get("skipped_steps", 0)
    if isinstance(skipped, float) and skipped.is_integer():  # pandas makes whole numbers of a column with gaps so
        given["skipped_steps"] = int(skipped)
    target = given.get("target_return")
    if isinstance(target, float) and math.isnan(target):
        raise RequestError(
            f"target_return {place} is not a number; leave the column out, or give all episodes of a request one"
        )
    return EpisodeHistory(**given)

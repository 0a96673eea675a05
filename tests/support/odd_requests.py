"""Bodies of requests that no policy can answer, each wrong in one way, with content types that go with them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

JSON = "application/json"


def make_record(rng: random.Random, size: int, actions: int, steps: int) -> dict[str, Any]:
    """Make the history of an episode that fits."""

    def draw(count: int) -> list[float]:
        return [rng.gauss(0, 1) for _ in range(count)]

    return {
        "observations": [draw(size) for _ in range(steps + 1)],
        "actions": [[rng.uniform(-1, 1) for _ in range(actions)] for _ in range(steps)],
        "rewards": draw(steps),
        "target_return": 5.0,
        "skipped_steps": 0,
    }


def _spoil(record: dict[str, Any], rng: random.Random) -> None:
    """Make one thing of a record wrong, in place."""
    bad = rng.choice([float("nan"), float("inf"), 1e300, 10**400, "1.0", None, [1.0], {"a": 1}, [[[]]]])
    seen, taken, rewards = record["observations"], record["actions"], record["rewards"]
    step = rng.randrange(len(taken))
    choices = {
        "number of an observation": lambda: seen[step].__setitem__(0, bad),
        "number of an action": lambda: taken[step].__setitem__(0, bad),
        "reward": lambda: rewards.__setitem__(step, bad),
        "observation too short": lambda: seen[step].pop(),
        "all observations too long": lambda: [row.append(0.0) for row in seen],
        "all actions too long": lambda: [row.append(0.0) for row in taken],
        "observation missing": lambda: seen.pop(),
        "action missing": lambda: taken.pop(),
        "reward missing": lambda: rewards.pop(),
        "reward too many": lambda: rewards.append(0.0),
        "observations not there": lambda: record.pop("observations"),
        "observations empty": lambda: record.update(observations=[]),
        "observations no list": lambda: record.update(observations=rng.choice([None, 3, "abc", {}, True])),
        "actions no list": lambda: record.update(actions=rng.choice([3, "abc", {}, False])),
        "rewards no list": lambda: record.update(rewards=rng.choice([3, "abc", {}, True])),
        "unknown name": lambda: record.update(observation=seen),
        "target": lambda: record.update(target_return=rng.choice([float("nan"), float("inf"), "a", {}, []])),
        "skipped": lambda: record.update(skipped_steps=rng.choice([-1, 0.5, "1", 1, 10**30, [], -2])),
        "too many numbers": lambda: record.update(observations=[[0.0] * 20_000]),
    }
    choices[rng.choice(sorted(choices))]()


def _make_whole(rng: random.Random, record: dict[str, Any]) -> tuple[bytes, str]:
    """Make a body that is wrong as a whole."""
    text = json.dumps({"dataframe_records": [record]})
    wrong: list[tuple[Any, str]] = [
        (b"", JSON),
        (b"\xff\xfe\x00", JSON),
        (text[: rng.randrange(1, len(text))], JSON),
        ("[" * 100_000, JSON),
        (rng.choice(["[]", "3", "null", "{}", '"a"', "NaN", "{]"]), JSON),
        (json.dumps({rng.choice(["data", "inputs ", "episodes"]): [record]}), JSON),
        (json.dumps({"inputs": [record], "dataframe_records": [record]}), JSON),
        (json.dumps({"dataframe_records": rng.choice([[], None, 3, {}, [1], [[]], [[1, 2]], "a"])}), JSON),
        (json.dumps({"inputs": rng.choice([[], None, 3, {}, "a", [1]])}), JSON),
        (json.dumps({"instances": rng.choice([[record], [], 3])}), JSON),
        (json.dumps({"dataframe_split": rng.choice([{}, [], {"columns": ["a"], "data": [[1]]}, {"data": 1}])}), JSON),
        (text, rng.choice(["text/plain", "text/csv", "application/x-parquet", "application/json; charset=latin1"])),
        ("a,b\n1,2\n", "text/csv"),
        (json.dumps({"dataframe_records": [record] * 1001}), JSON),
    ]
    body, content_type = rng.choice(wrong)
    return (body if isinstance(body, bytes) else body.encode()), content_type


def make_odd_requests(count: int, size: int, actions: int, seed: int = 0) -> Iterator[tuple[bytes, str]]:
    """Make `count` bodies with their content types, for a policy of these sizes."""
    rng = random.Random(seed)
    for number in range(count):
        record = make_record(rng, size, actions, rng.randint(1, 6))
        if number % 3 == 0:
            yield _make_whole(rng, record)
            continue
        others = [make_record(rng, size, actions, rng.randint(1, 6)) for _ in range(rng.randrange(3))]
        _spoil(record, rng)
        records = [*others, record]
        rng.shuffle(records)
        yield json.dumps({rng.choice(["dataframe_records", "inputs"]): records}).encode(), JSON

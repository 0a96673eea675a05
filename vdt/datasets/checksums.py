"""Checksums of the built-in recipes' data, to notice a machine on which they produce other data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vdt.config.layers import PARAMS

CHECKSUMS = PARAMS / "behavior" / "checksums.json"  # written by benchmarks/collected_data.py


def read_checksums() -> dict[str, dict[str, Any]]:
    """Return by snapshot key: env, md5 of the file, episodes, steps, mean score, and the versions that made it."""
    found: dict[str, dict[str, Any]] = json.loads(CHECKSUMS.read_text())
    return found


def compare_checksum(key: str, md5: str, recipe: Mapping[str, Any]) -> str | None:
    """Return a sentence if this recipe is recorded with another md5; none if it is equal, or not recorded.

    Args:
        key: folder name of the snapshot, see `make_collected_key`.
        md5: of its file.
        recipe: the card's, with the versions of the packages that made the file.
    """
    expected = read_checksums().get(key)
    if expected is None or expected["md5"] == md5:
        return None
    versions = {name: recipe.get(name) for name in expected["versions"]}
    cause = (
        "with the same versions, so this machine computes otherwise"
        if versions == expected["versions"]
        else f"with {_list(expected['versions'])}; here {_list(versions)}"
    )
    return (
        f"the data has md5 {md5}, but this recipe gave {expected['md5']} where it was recorded, {cause}: "
        f"compare scores on it with those of the same md5 only"
    )


def describe_missing_checksum(key: str, recipe: Mapping[str, Any]) -> str | None:
    """Return a sentence if nothing is on record for this recipe, so that its data is compared with nothing; else none.

    Args:
        key: folder name of the snapshot, see `make_collected_key`.
        recipe: the card's.
    """
    if key in read_checksums():
        return None
    return f"no md5 is recorded for this recipe ({recipe['steps']:,} steps, seed {recipe['seed']}); not compared"


def _list(versions: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())

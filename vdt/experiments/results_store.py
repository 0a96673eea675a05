"""Results of finished cells, kept by what they are a function of, so that no study trains a cell twice.

A cell's identity is its resolved configuration (without what only the machine cares about), its data, and the code that
computes. `HOME/.vdt/results/<identity>.json` holds everything a report needs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from vdt.config.schema import Config
from vdt.system.files import write_text

ROOT = Path(__file__).resolve().parents[1]
# Settings that are no part of an identity.
APART = ("checkpoint.", "runtime.device", "runtime.threads", "data.source")
# What shows, keeps or names results without computing them: a change here leaves finished cells valid.
SHOWING = frozenset(["reporting", "tracking", "experiments"])
DIGITS = 16


@cache
def compute_code_digest() -> str:
    """Digest of the modules of vdt/ that results depend on."""
    digest = hashlib.sha256()
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT)
        if name.parts[0] not in SHOWING:
            digest.update(f"{name}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:DIGITS]


def compute_identity(config: Config, data_key: str) -> str:
    """What a cell's result is a function of, apart from the code, as a digest.

    Args:
        config: resolved.
        data_key: names the data's content (`vdt.datasets.choose.DataChoice.key`).
    """
    settings = {key: value for key, value in config.flatten().items() if not key.startswith(APART)}
    return digest_of({"config": settings, "data": data_key})


def digest_of(content: Mapping[str, Any]) -> str:
    """Digest of plain values, whatever their order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:DIGITS]


def _get_path(home: Path, identity: str, code: str) -> Path:
    return home / ".vdt" / "results" / f"{identity}-{code}.json"


def save_result(home: Path, identity: str, result: Mapping[str, Any]) -> Path:
    """Keep a finished cell's result; a later one of the same identity and code takes its place."""
    code = compute_code_digest()
    text = json.dumps({**result, "identity": identity, "code": code}, indent=1)
    return write_text(_get_path(home, identity, code), text + "\n")


def find_result(home: Path, identity: str, *, any_code: bool = False) -> dict[str, Any] | None:
    """A finished cell's result.

    Args:
        home: the home folder.
        identity: of `compute_identity`.
        any_code: whether one that other code computed will do; the newest is taken.
    """
    path = _get_path(home, identity, compute_code_digest())
    if not path.is_file() and any_code:
        others = path.parent.glob(f"{identity}-*.json")
        path = max(others, key=lambda other: other.stat().st_mtime, default=path)
    return dict(json.loads(path.read_text())) if path.is_file() else None

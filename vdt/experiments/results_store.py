"""Results of finished cells, stored by identity, so that no study trains a cell twice.

A cell's identity is its resolved configuration (without settings of the machine alone) and its data. A digest stands
for the code that computes and the versions of its packages. `HOME/.vdt/results/<identity>-<digest>.json` holds all data
of a report.

Every run stores its finished cells. Studies and reports read them back; a run without a study trains anew. The code's
digest is of bytes, so an edited comment counts, too.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from vdt.config.schema import KEY_DEFAULTS, Config
from vdt.system.files import atomic_write, write_text
from vdt.system.machine import NUMERICAL

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]
# Settings that are no part of an identity.
IGNORED_KEYS = ("checkpoint.", "runtime.device", "runtime.threads", "data.source", "data.residence", "init.policy")
# Modules that show, store, name or serve results without computing them: a change here leaves finished cells valid.
SHOWING = frozenset(
    [
        *("reporting", "tracking", "experiments", "cli", "serving", "config/reference.py", "agent/export.py"),
        *("agent/tensor_policy.py", "datasets/export.py", "environments/drawing.py", "evaluation/video.py"),
        *("system/renderer.py", "system/slurm.py"),
    ]
)
COMPUTING = frozenset(["experiments/sharing.py"])  # counted all the same: it decides which training a cell takes
DIGEST_DIGITS = 16
LOCAL_RUN = re.compile(r"\blocal-[0-9a-f]{32}\b")  # id of a run until it is in the tracking store


@cache
def compute_code_digest() -> str:
    """Compute the digest of the modules of vdt/ that results depend on, and of the versions of `NUMERICAL` packages.

    Builds of one version count as one: what they compute differs as two devices do.
    """
    versions = {name: importlib.metadata.version(name).partition("+")[0] for name in NUMERICAL}
    digest = hashlib.sha256(json.dumps(versions).encode())
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT)
        if name.as_posix() in COMPUTING or not {name.parts[0], name.as_posix()} & SHOWING:
            digest.update(f"{name}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:DIGEST_DIGITS]


def began_with_this_code(cell: Mapping[str, Any]) -> bool:
    """Return whether the code is the one with which a cell's run began (`OpenedCell`); runs of release 0.2 do not say."""
    return cell.get("code") in (None, "", compute_code_digest())


def compute_identity(config: Config, data_key: str) -> str:
    """Compute the digest of all that a cell's result is a function of, apart from the code.

    A key that holds its schema's default does not count: the default means what was done before the key existed, so
    that results from before are still found.

    Args:
        config: resolved.
        data_key: names the data's content (`vdt.datasets.choose.DataChoice.key`).
    """
    settings = {key: value for key, value in config.flatten().items() if not key.startswith(IGNORED_KEYS)}
    told = {key: value for key, value in settings.items() if key not in KEY_DEFAULTS or value != KEY_DEFAULTS[key]}
    return digest_of({"config": told, "data": data_key})


def digest_of(content: Mapping[str, Any]) -> str:
    """Compute the digest of plain values, whatever their order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:DIGEST_DIGITS]


def _get_path(home: Path, identity: str, code: str) -> Path:
    return home / ".vdt" / "results" / f"{identity}-{code}.json"


def save_result(home: Path, identity: str, result: Mapping[str, Any]) -> Path:
    """Store a finished cell's result; a later one of the same identity and code replaces it."""
    code = compute_code_digest()
    text = json.dumps({**result, "identity": identity, "code": code}, indent=1)
    return write_text(_get_path(home, identity, code), text + "\n")


def find_result(home: Path, identity: str, *, any_code: bool = False) -> dict[str, Any] | None:
    """Return a finished cell's result; a file that is damaged is named and counts as none, so that the cell is run again.

    Args:
        home: the home folder.
        identity: of `compute_identity`.
        any_code: whether a result of other code is accepted; the newest is taken.
    """
    path = _get_path(home, identity, compute_code_digest())
    if not path.is_file() and any_code:
        others = path.parent.glob(f"{identity}-*.json")
        path = max(others, key=lambda other: other.stat().st_mtime, default=path)
    return _read_result(path) if path.is_file() else None


def _read_result(path: Path) -> dict[str, Any] | None:
    """Return the result in a file; none, with a warning, if it holds none."""
    try:
        result = json.loads(path.read_text())
        trouble = "" if isinstance(result, dict) else f"it holds a {type(result).__name__}, not a mapping"
    except ValueError as error:  # no JSON, or no text
        trouble = str(error)
    if trouble:
        logger.warning(f"{path} is damaged ({trouble}), so its cell is run again")
        return None
    return dict(result)


def list_identities(home: Path) -> set[str]:
    """Return the identities of all cells with a result, of any code."""
    return {path.stem.rpartition("-")[0] for path in (home / ".vdt" / "results").glob("*.json")}


def name_delivered_runs(home: Path, find_ids: Callable[[], Mapping[str, str]]) -> int:
    """Replace local ids of runs in kept results, and beside the policies, by MLflow's; return how many files changed.

    A file keeps its time, by which `find_result` takes the newest.

    Args:
        home: the home folder.
        find_ids: returns MLflow's ids by local ones; called only where a file holds one.
    """
    folder = home / ".vdt"
    places = ("results/*.json", "checkpoints/*/*/*/*/*.json", "shared/*/*.json")
    files = (path for place in places for path in folder.glob(place))
    late = [path for path in files if LOCAL_RUN.search(path.read_text())]
    known, changed = find_ids() if late else {}, 0
    for path in late:
        text, times = path.read_text(), path.stat()
        named = LOCAL_RUN.sub(lambda match: known.get(match[0], match[0]), text)
        if named != text:
            with atomic_write(path) as file:
                file.write(named.encode())
                file.flush()  # what is written after the next line would change the time
                os.utime(file.fileno(), ns=(times.st_atime_ns, times.st_mtime_ns))
            changed += 1
    return changed


def find_unfinished(home: Path, identities: Sequence[str]) -> Path:
    """Return the folder that is there while a flow of only these cells is unfinished, by their identities."""
    return home / ".vdt" / "unfinished" / f"{digest_of({'cells': list(identities)})}-{compute_code_digest()}"

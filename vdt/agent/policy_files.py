"""Files that an evaluation leaves beside checkpoints, so that a run's policies and their scores are found again.

Both are JSON, whole or absent. `evaluate/<cell>/policies.json` names the policies of a cell, wherever they were trained.
A checkpoint's `.json` has its scores, and goes with the file when it is copied.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vdt.checkpoint.names import BEST, DONE, CheckpointError
from vdt.config.layers import config_from_mapping
from vdt.config.schema import Config
from vdt.system.files import compute_file_digest, write_text

logger = logging.getLogger(__name__)

INDEX = "policies.json"
ORIGINS = "ORIGINS"  # file in the folder of a resumed run: the ids of the runs that it continues, nearest first
MAX_BYTES = 2**20
NAMES = ("online", "offline", "online_best")  # of a cell's policies; without a choice the first that is there is taken
TRAINING_STEPS = {"train_actor": "offline", "tune_online": "online"}  # -> name of what the step's last checkpoint holds

Scores = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class PolicyFile:
    """Checkpoint of a policy, and what is known of it beside the file.

    Attributes:
        path: of the checkpoint.
        name: one of `NAMES`, empty where only the file says it.
        sha256: of the content, empty where it was not recorded.
        scores: look-ahead setting or "held_out" -> measurement -> value.
        mlflow_run_id: of the cell, empty where it is not known.
        data: name, source, label and md5 of the data, where the file may lack them.
        config: of the cell, which may differ from the file's in what comes after the training; none where only the
            file says it.
    """

    path: Path
    name: str = ""
    sha256: str = ""
    scores: Scores = field(default_factory=dict)
    mlflow_run_id: str = ""
    data: Mapping[str, str] = field(default_factory=dict)
    config: Config | None = None


def write_scores(policy: PolicyFile) -> Path:
    """Write what is known of a policy beside its checkpoint."""
    known = {
        "policy": policy.name,
        "sha256": policy.sha256,
        "mlflow_run_id": policy.mlflow_run_id,
        "scores": policy.scores,
    }
    return _write(policy.path.with_suffix(".json"), known)


def read_scores(path: Path) -> PolicyFile:
    """Return a checkpoint with what is known of it; a file beside it that does not belong to it is named and passed over."""
    beside, found = path.with_suffix(".json"), PolicyFile(path)
    if path.suffix == ".json" or not beside.is_file():
        return found
    try:
        known = _read(beside)
        if known["sha256"] != compute_file_digest(path, "sha256"):
            raise ValueError("it is of another checkpoint")
        return _fill(found, known)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        logger.warning(
            f"{beside} says nothing of {path.name} ({' '.join(str(error).split())}); its scores are not known"
        )
        return found


def write_index(folder: Path, policies: Mapping[str, PolicyFile], config: Config, home: Path) -> Path:
    """Write the policies of a cell into the folder of the step that evaluated them."""
    described = {
        name: {
            "path": str(policy.path),
            "below_home": str(policy.path.relative_to(home)) if policy.path.is_relative_to(home) else "",
            "sha256": policy.sha256,
            "mlflow_run_id": policy.mlflow_run_id,
            "scores": policy.scores,
        }
        for name, policy in policies.items()
    }
    return _write(folder / INDEX, {"config": config.to_mapping(), "policies": described})


def list_policies(run: Path, home: Path) -> dict[str, dict[str, PolicyFile]]:
    """Return the policies of a flow's run: cell -> name -> file.

    A cell that was not evaluated yet, or by release 0.2.0, has those of its finished steps in the run's own folder.

    Args:
        run: folder of the run's checkpoints.
        home: the home folder, which may have been moved since.

    Raises:
        CheckpointError: if an index, or the mark of a best checkpoint, is damaged.
    """
    cells: dict[str, dict[str, PolicyFile]] = {}
    for step, name in TRAINING_STEPS.items():
        for folder in sorted(run.glob(f"{step}/*/")):
            last, best = find_last(folder), _find_best(folder)
            if last is not None:
                cells.setdefault(folder.name, {})[name] = PolicyFile(last, name)
                if best not in (None, last):
                    cells[folder.name][f"{name}_best"] = PolicyFile(best, f"{name}_best")
    for index in sorted(run.glob(f"evaluate/*/{INDEX}")):
        cells[index.parent.name] = _read_index(index, home)
    return cells


def write_origins(run: Path, origins: Iterable[str]) -> None:
    """Write into the folder of a resumed run which ones it continues, nearest first; they are asked for once a run."""
    if not (run / ORIGINS).is_file() and (found := list(origins)):
        write_text(run / ORIGINS, "".join(f"{origin}\n" for origin in found))


def find_continued(run: Path) -> list[Path]:
    """Return the folders of the runs that continued one, the newest first."""
    noted = run.parent.glob(f"*/{ORIGINS}")
    found = (path.parent for path in noted if run.name in path.read_text(encoding="utf-8").split())
    return sorted(found, reverse=True)


def list_continued_policies(run: Path, home: Path) -> dict[str, dict[str, PolicyFile]]:
    """Return as `list_policies`, with the policies of later runs for the cells that this run left unfinished."""
    cells = list_policies(run, home)
    for later in find_continued(run):
        for key, policies in list_policies(later, home).items():
            if _is_evaluated(policies) and not _is_evaluated(cells.get(key, {})):
                logger.info(f"{key}: run {run.name} was continued by run {later.name}, whose policies are taken")
                cells[key] = policies
    return cells


def _is_evaluated(policies: Mapping[str, PolicyFile]) -> bool:
    """Return whether a cell's policies were entered by its evaluation, which records their digests."""
    return any(policy.sha256 for policy in policies.values())


def find_last(folder: Path) -> Path | None:
    """Return the last checkpoint of a finished step's folder; none where the step did not finish."""
    marker = folder / DONE
    return _find_named(folder, marker.read_text(encoding="utf-8").strip()) if marker.is_file() else None


def _find_best(folder: Path) -> Path | None:
    marker = folder / BEST
    if not marker.is_file():
        return None
    try:
        return _find_named(folder, str(_read(marker)["name"]))
    except (OSError, ValueError, LookupError, RecursionError) as error:
        raise CheckpointError(f"{marker} is damaged: {' '.join(str(error).split())}") from None


def _find_named(folder: Path, name: str) -> Path | None:
    path = folder / Path(name).name
    return path if path.is_file() else None


def _read_index(index: Path, home: Path) -> dict[str, PolicyFile]:
    try:
        content = _read(index)
        config, policies = config_from_mapping(content["config"]), {}
        for name, known in content["policies"].items():
            places = [Path(known["path"]), *([home / known["below_home"]] if known["below_home"] else [])]
            path = next((place for place in places if place.is_file()), places[0])
            policies[str(name)] = replace(_fill(PolicyFile(path), {"policy": name, **known}), config=config)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index} is damaged: {' '.join(str(error).split())}") from None
    return policies


def _fill(policy: PolicyFile, known: Mapping[str, Any]) -> PolicyFile:
    """Return a policy with the recorded values, having checked their kinds."""
    scores = {
        str(setting): {str(key): float(value) for key, value in measured.items()}
        for setting, measured in known["scores"].items()
    }
    name, sha256, run_id = (str(known[key]) for key in ("policy", "sha256", "mlflow_run_id"))
    return replace(policy, name=name, sha256=sha256, mlflow_run_id=run_id, scores=scores)


def _read(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES} bytes")
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("it holds no mapping")
    return content


def _write(path: Path, content: Mapping[str, Any]) -> Path:
    return write_text(path, json.dumps(content, indent=1) + "\n")

"""What is known of a trained policy: from its checkpoint, and from the place that it was found at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vdt.agent.policy_files import PolicyFile
from vdt.checkpoint.names import CheckpointError
from vdt.checkpoint.store import State
from vdt.system.files import compute_file_digest


def describe_policy(found: PolicyFile, state: State) -> dict[str, Any]:
    """Return the metadata of a policy that its networks do not tell; what is not known is empty.

    Args:
        found: its file.
        state: the content of that file.

    Returns:
        policy: "offline", "online" or "online_best".
        data: name, source, label and md5 of the data that it was trained on.
        scores: look-ahead setting ("single", "candidates", "lookahead") or "held_out" -> measurement -> value.
        environment_steps: steps of real interaction.
        versions: of the libraries that it was trained with, by name.
        sha256: of the checkpoint.
        mlflow_run_id: of the run that it was trained in.

    Raises:
        CheckpointError: if the file is not the one that was recorded.
    """
    sha256 = compute_file_digest(found.path, "sha256")
    if found.sha256 not in ("", sha256):
        raise CheckpointError(f"{found.path} has changed: its sha256 is {sha256}, not {found.sha256}, as recorded")
    steps = state.get("environment_steps")
    return {
        "policy": found.name or ("offline" if steps is None else "online"),
        "data": _read_texts(state.get("data")) or dict(found.data),
        "scores": {setting: dict(measured) for setting, measured in found.scores.items()},
        "environment_steps": steps if isinstance(steps, int) else 0,
        "versions": _read_texts(state.get("versions")),
        "sha256": sha256,
        "mlflow_run_id": found.mlflow_run_id,
    }


def _read_texts(held: Any) -> dict[str, str]:
    """Return the texts of a mapping by name; anything else in it is not ours."""
    if not isinstance(held, Mapping):
        return {}
    return {str(key): value for key, value in held.items() if isinstance(value, str)}

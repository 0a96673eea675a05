"""Checkpoints of runs, as training and evaluation leave them, with equal networks that cost no training."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import vdt
from support.builders import make_lively_actor_critic, make_store
from support.records import make_evaluation, make_record
from vdt.config.schema import Config
from vdt.experiments.policies import keep_policies
from vdt.system.files import compute_file_digest

RUN = "1795888450714840"
KEY = "walker2d-medium-v2-vdt-s0"
DATA = {"name": "walker2d-medium-v2-path", "source": "path", "label": "own file (not D4RL)", "md5": "0123abcd"}
LIVELY = make_lively_actor_critic()  # the same weights for all: only numbers of steps tell the policies apart


def save(folder: Path, step: int, *, online: bool = False, done: bool = True, score: float | None = None) -> Path:
    """Save a checkpoint as the training steps do; `step` becomes the policy's gradient steps."""
    LIVELY.gradient_steps = step
    state = {"actor_critic": LIVELY.state_dict(), "step": step, **({"environment_steps": 7 * step} if online else {})}
    store = make_store(folder, facts={"data": DATA})
    return (store.finish if done else store.save)(step, state, score)


def make_run(home: Path, *, key: str = KEY, run: str = RUN, best: bool = True) -> dict[str, Path]:
    """Make the checkpoints of a run of one cell."""
    steps = home / ".vdt" / "checkpoints" / "VDTFlow" / run
    made = {"offline": save(steps / "train_actor" / key, 10)}
    if best:
        made["online_best"] = save(steps / "tune_online" / key, 11, online=True, done=False, score=2.0)
    made["online"] = save(steps / "tune_online" / key, 12, online=True, score=1.0)
    return made


def enter(
    home: Path, files: Mapping[str, Path], *, config: Config | None = None, shared_from: str = "", run: str = RUN
) -> Path:
    """Enter policies as the evaluation step does."""
    agents = {name: {"path": str(path), "sha256": compute_file_digest(path, "sha256")} for name, path in files.items()}
    reports = {name: {"single": make_evaluation([number, number + 2.0])} for number, name in enumerate(files)}
    record = make_record(0, reports, mlflow_run_id="f" * 32)
    branch = SimpleNamespace(agents=agents, actor_shared_from=shared_from)
    folder = home / ".vdt" / "checkpoints" / "VDTFlow" / run / "evaluate" / KEY
    return keep_policies(branch, record, config or LIVELY.config, folder, home)


def load(where: Any, **choice: Any) -> tuple[str, int]:
    known = vdt.load_policy(where, **choice).metadata
    return known["policy"], known["gradient_steps"]

"""One critic for all cells of a study that would train the same one.

It lies below `HOME/.vdt/shared/`, in a folder named by all that it is a function of. The first cell that needs it trains
it there under a lock; the others wait, then take it. If the cell that trains is killed, the lock ends with it, and the
next one goes on from its last checkpoint. Cells on machines that share no folder find nothing there and train their own.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from vdt.cell_results import compute_code_digest, digest_of
from vdt.config import Config
from vdt.data.trajectory import TrajectoryDataset
from vdt.files import hold_lock, write_text
from vdt.tracking import Tracker
from vdt.training.checkpoint import DONE, CheckpointError, CheckpointStore, load_state
from vdt.training.offline import pretrain_critic

OWNER = "OWNER"  # file: the MLflow run that trains, or trained
SHARED_FROM = "critic_shared_from"  # tag: the MLflow run whose critic this one has
CONTINUED_FROM = "critic_continued_from"  # tag: the MLflow run that had worked on the critic before, unfinished


def compute_critic_key(config: Config, md5: str) -> str:
    """Digest of all that `pretrain_critic` depends on: data, rewards, the critic's settings, seed and code."""
    task = config.task
    data = {key: value for key, value in dataclasses.asdict(config.data).items() if key not in ("source", "steps")}
    return digest_of(
        {
            "md5": md5,
            "sizes": [task.observation_size, task.action_size],
            "reward": [task.reward_scaling, task.reward_shift],
            "data": data,
            "critic": dataclasses.asdict(config.critic),
            "seed": config.seed,
            "runtime": [config.runtime.device, config.runtime.precision],
            "code": compute_code_digest(),
        }
    )


def share_critic(
    config: Config, dataset: TrajectoryDataset, md5: str, home: Path, run_id: str, tracker: Tracker
) -> tuple[Path, str]:
    """Take the critic that another cell has trained, or train it for this cell and the others.

    Args:
        config: of this cell.
        dataset: to train on.
        md5: of its snapshot.
        home: the home folder.
        run_id: this cell's MLflow run.
        tracker: of that run; it is told, in a tag, if the critic is another's.

    Returns:
        The critic's final checkpoint, and the MLflow run that it was taken from, or an empty string.
    """
    key = compute_critic_key(config, md5)
    folder, settings = home / ".vdt" / "shared" / f"critic-{key}", config.checkpoint
    with hold_lock(
        home / ".vdt" / "locks" / f"critic-{key}.lock", f"the critic that {config.env} s{config.seed} shares"
    ):
        owner = (folder / OWNER).read_text().strip() if (folder / OWNER).is_file() else ""
        finished = _find_finished(folder)
        if finished and owner != run_id:
            state = load_state(finished)
            print(f"critic: taken from MLflow run {owner}, the same data, settings and seed ({finished})", flush=True)
            tracker.put({"kind": "tags", "tags": {SHARED_FROM: owner}})
            tracker.log(state["step"], state["metrics"])
            return finished, owner
        if owner and owner != run_id and any(folder.glob("*.pt")):
            print(f"critic: MLflow run {owner} has left it unfinished; going on from there", flush=True)
            tracker.put({"kind": "tags", "tags": {CONTINUED_FROM: owner}})
        write_text(folder / OWNER, f"{run_id}\n")
        if finished:
            return finished, ""
        store = CheckpointStore(
            folder,
            interval_seconds=settings.interval_seconds,
            interval_steps=settings.interval_steps,
            keep=settings.keep,
        )
        return pretrain_critic(config, dataset, tracker, store), ""


def _find_finished(folder: Path) -> Path | None:
    """The final checkpoint, if training came to its end and the file is sound."""
    marker = folder / DONE
    if not marker.is_file():
        return None
    path = folder / marker.read_text().strip()
    try:
        load_state(path)
    except CheckpointError as error:
        print(f"warning: {error}; this critic is trained again from the checkpoint before it", flush=True)
        marker.unlink()
        return None
    return path

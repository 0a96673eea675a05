"""Shared training: cells of a study with the same critic, or the same actor on it, train it once.

It lies below `HOME/.vdt/shared/`, in a folder named by the digest of all its inputs. The first cell that needs it
trains there under a lock; the others wait, then take its result. If the training cell is killed, its lock is released,
and the next one continues from its last checkpoint. Cells on machines that share no folder find nothing there and train
their own.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from vdt.checkpoint.names import DONE, CheckpointError
from vdt.checkpoint.store import CheckpointStore, load_state
from vdt.config.guidance import must_test_critic, tries_second_critic
from vdt.config.schema import Config
from vdt.data.trajectory import TrajectoryDataset
from vdt.experiments.results_store import compute_code_digest, digest_of
from vdt.system.files import write_text
from vdt.system.locks import hold_lock
from vdt.tracking import CONTINUED_FROM, SHARED_FROM, CopyingTracker, Tags, Tracker, read_copy
from vdt.training.critic_pretraining import pretrain_critic
from vdt.training.offline import train_actor
from vdt.training.score_curve import Watch

logger = logging.getLogger(__name__)

OWNER = "OWNER"  # file: the MLflow run that trains, or trained
CURVES = "curves.jsonl"  # file: the curves of the training, for the runs that take its result
SCORE = "actor/score"  # metric of `ScoreCurve`
# Settings that no actor depends on: those of later steps, and those of the machine alone. The planner's context
# matters where a critic follows the policy, which then acts upon it.
AFTER_THE_ACTOR = (
    *("planner.candidates", "planner.planning_horizon", "planner.env_model", "planner.select", "planner.select_steps"),
    *("online.", "init.policy"),  # where a policy lies: its digest counts
    *("checkpoint.", "runtime.threads", "data.source", "data.residence", "data.steps"),
)
ASKED_BY_THE_CURVE = ("planner.returns", "planner.return_quantiles", "planner.forget_steps")
AFTER_THE_CURVE = tuple(
    f"evaluation.{n}" for n in ("episodes", "lookahead_horizon", "requested_episodes", "fitted_q_steps")
)


def compute_critic_key(config: Config, md5: str) -> str:
    """Compute the digest of all that `pretrain_critic` depends on: data, rewards, critic settings, seed and code."""
    task, runtime = config.task, config.runtime
    apart = ("source", "steps", "residence", "window_start")  # the latter is the policy's
    data = {key: value for key, value in dataclasses.asdict(config.data).items() if key not in apart}
    return digest_of(
        {
            "md5": md5,
            "sizes": [task.observation_size, task.action_size],
            "reward": [task.reward_scaling, task.reward_shift],
            "horizon": task.horizon if config.data.beyond_horizon == "drop" else None,
            "data": data,
            "critic": dataclasses.asdict(config.critic),
            "limit": config.actor.max_history_correlation if tries_second_critic(config) else None,
            "init": config.init.sha256,
            "seed": config.seed,
            "runtime": [runtime.device, runtime.compile, runtime.acceleration],  # the precision is the policy's
            "code": compute_code_digest(),
        }
    )


def compute_actor_key(config: Config, md5: str) -> str:
    """Compute the digest of all that `train_actor` depends on: data, critic, seed, code and settings but later steps'.

    Where a score curve is drawn meanwhile, its points, the return that it asks for and the history that it acts upon count
    as well: a cell that takes the actor takes the curve.
    """
    drawn = config.evaluation.curve_points > 0 and config.has_environment
    acting = () if drawn or config.critic.bootstrap == "policy" else ("planner.context_length",)
    asked = () if drawn else ASKED_BY_THE_CURVE
    later = (*AFTER_THE_ACTOR, *acting, *asked, *(AFTER_THE_CURVE if drawn else ("evaluation.",)))
    settings = {key: value for key, value in config.flatten().items() if not key.startswith(later)}
    # Whether the critic is tested, and which one guides, depends on `planner.candidates` too where nothing else asks it.
    critic = {"key": compute_critic_key(config, md5), "tested": must_test_critic(config)}
    return digest_of({"md5": md5, "settings": settings, "critic": critic, "code": compute_code_digest()})


@dataclasses.dataclass(frozen=True)
class Sharing:
    """Facts by which the cells of a study find each other's trainings.

    Attributes:
        home: the home folder that they share.
        run_id: this cell's MLflow run.
        md5: of its data set.
    """

    home: Path
    run_id: str
    md5: str


def share_critic(
    config: Config,
    dataset: TrajectoryDataset,
    tracker: Tracker,
    checkpoints: CheckpointStore,
    sharing: Sharing | None,
    initial: Path | None = None,
) -> tuple[Path, str]:
    """Pretrain a cell's critic, for it alone or for all that would train the same.

    Args:
        config: of the cell.
        dataset: to train on.
        tracker: of the cell's MLflow run.
        checkpoints: of this step, for a cell that trains alone.
        sharing: none for a cell that trains alone.
        initial: file of the policy that the training begins from, if there is one.

    Returns:
        The final checkpoint, and the MLflow run that it was taken from, or an empty string.
    """

    def train(store: CheckpointStore, tracker: Tracker) -> Path:
        return pretrain_critic(config, dataset, tracker, store, initial)

    if sharing is None or config.critic.gradient_steps == 0 or config.trains_together:
        return train(checkpoints, tracker), ""
    key = compute_critic_key(config, sharing.md5)
    return share_training("critic", key, config, sharing, tracker, checkpoints, train)


def share_actor(
    config: Config,
    dataset: TrajectoryDataset,
    critic: Path,
    tracker: Tracker,
    checkpoints: CheckpointStore,
    sharing: Sharing | None,
    watch: Watch | None = None,
    initial: Path | None = None,
) -> tuple[Path, str]:
    """Train a cell's actor on a critic's checkpoint, for it alone or for all that would train the same.

    Arguments and results are those of `share_critic`; `watch` is called with each score that is measured on the way, or
    that another cell measured. What it stops is left unfinished, for another cell to go on with.

    Raises:
        TrainingStopped: if the watcher ends the training.
    """

    def train(store: CheckpointStore, tracker: Tracker) -> Path:
        return train_actor(config, dataset, critic, tracker, store, watch, initial)

    def replay(curves: Mapping[int, Mapping[str, float]]) -> None:
        for step, metrics in curves.items():
            if watch and SCORE in metrics:
                watch(step, metrics[SCORE])

    if sharing is None:
        return train(checkpoints, tracker), ""
    key = compute_actor_key(config, sharing.md5)
    return share_training("actor", key, config, sharing, tracker, checkpoints, train, replay)


def share_training(
    part: str,
    key: str,
    config: Config,
    sharing: Sharing,
    tracker: Tracker,
    checkpoints: CheckpointStore,
    train: Callable[[CheckpointStore, Tracker], Path],
    replay: Callable[[Mapping[int, Mapping[str, float]]], None] = lambda _: None,
) -> tuple[Path, str]:
    """Take the training of another cell, or train for this cell and the others.

    Args:
        part: the trained part, "critic" or "actor".
        key: of `compute_critic_key` or `compute_actor_key`.
        config: of this cell.
        sharing: of this cell.
        tracker: of its MLflow run; a tag marks the result of another cell, whose curves are copied from beside it.
        checkpoints: of this step, whose settings and facts hold for the shared ones too.
        train: trains with the given checkpoints and tracker, and returns the final one.
        replay: called with the metrics by step that another cell has measured.

    Returns:
        The final checkpoint, and the MLflow run that it was taken from, or an empty string.
    """
    home, run_id = sharing.home, sharing.run_id
    folder = home / ".vdt" / "shared" / f"{part}-{key}"
    lock = home / ".vdt" / "locks" / f"{part}-{key}.lock"
    with hold_lock(lock, f"the {part} that {config.env} s{config.seed} shares"):
        owner = (folder / OWNER).read_text().strip() if (folder / OWNER).is_file() else ""
        finished = _find_finished(folder, part)
        if not finished or owner == run_id:
            if owner and owner != run_id and any(folder.glob("*.pt")):
                logger.info(f"{part}: MLflow run {owner} has left it unfinished; going on from there")
                tracker.put(Tags(tags={CONTINUED_FROM.format(part): owner}))
                curves = read_copy(folder / CURVES)
                _log_all(tracker, curves)
                replay(curves)
            write_text(folder / OWNER, f"{run_id}\n")
            if finished:
                return finished, ""
            return train(checkpoints.move_to(folder), CopyingTracker(tracker, part, folder / CURVES)), ""
    state = load_state(finished)  # it is final: no other cell need wait while this is read
    logger.info(f"{part}: taken from MLflow run {owner}, the same data, settings and seed ({finished})")
    tracker.put(Tags(tags={SHARED_FROM.format(part): owner}))
    curves, last = read_copy(folder / CURVES), state["step"]
    _log_all(tracker, {**curves, last: {**curves.get(last, {}), **state["metrics"]}})
    replay(curves)
    return finished, owner


def _log_all(tracker: Tracker, curves: Mapping[int, Mapping[str, float]]) -> None:
    for step, metrics in curves.items():
        tracker.log(step, metrics)


def _find_finished(folder: Path, part: str) -> Path | None:
    """Return the final checkpoint, if training was completed and the file is intact."""
    marker = folder / DONE
    if not marker.is_file():
        return None
    path = folder / marker.read_text().strip()
    try:
        load_state(path)
    except CheckpointError as error:
        logger.warning(f"{error}; this {part} is trained again from the checkpoint before it")
        marker.unlink()
        return None
    return path

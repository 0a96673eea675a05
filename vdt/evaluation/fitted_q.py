"""Value of a policy without an environment: fitted-Q evaluation on the training data (Le et al., ICML 2019).

A fresh twin Q is fitted to r + discount * Q'(s', pi(s')) over the data's one-step transitions; Q' follows it slowly. The
judge is the same for all settings: its network, discount and draws do not depend on what is judged.

The policy answers to the data's histories, with the returns-to-go that it would be asked for after the rewards in them.
So its actions are computed once, and the fit is plain critic updates. Two things are left out: histories that only the
policy itself would make, and imagined steps of a look-ahead (M6). Candidate returns are chosen by the cell's critic (M5),
at each step anew whatever `planner.select` says.
Where the data has no action like the policy's, Q is a guess, and often too high a one.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vdt.acceleration.convert import make_critic_update
from vdt.agent.actor_critic import ActorCritic, make_critic, make_store
from vdt.agent.agent import PlannerSettings
from vdt.config.convergence import FIT_DISCOUNT, FIT_RATE
from vdt.config.schema import Config
from vdt.critic.critic import Critic
from vdt.critic.losses import compute_q_loss, compute_q_targets
from vdt.data.sampling import Sampler, find_bootstrap_rows
from vdt.data.trajectory import TrajectoryDataset
from vdt.data.trajectory_store import TrajectoryStore
from vdt.evaluation.loading import load_actor_critic
from vdt.evaluation.records import ValueEstimates
from vdt.evaluation.windows import iterate_windows
from vdt.system.progress import Progress
from vdt.tracking import Tracker

logger = logging.getLogger(__name__)

MOST_STEPS = 50_000  # of the training data that the judge sees, in whole episodes: each needs the policy's action
JUDGE: dict[str, Any] = {  # settings of the judge's critic, whatever the cell's are
    "hidden_size": 128,
    "hidden_layers": 2,
    "activation": "relu",
    "learning_rate": 1e-3,
    "batch_size": 256,
    "discount": FIT_DISCOUNT,
    "n_step": 1,
    "target_update_rate": FIT_RATE,
    "members": 2,
    "layer_norm": False,
}


def estimate_values(
    config: Config,
    agents: Mapping[str, Path],
    dataset: TrajectoryDataset,
    held_out: TrajectoryDataset | None,
    tracker: Tracker,
) -> dict[str, ValueEstimates]:
    """Compute the value of the offline agent, if `evaluation.fitted_q_steps` asks for it.

    Args:
        config: of the cell.
        agents: name -> checkpoint. Agents that were tuned online have left the data, so only "offline" is valued.
        dataset: the training data.
        held_out: further episodes, if there are any.
        tracker: takes `eval/offline_value_…`.
    """
    if config.evaluation.fitted_q_steps == 0 or "offline" not in agents:
        return {}
    actor_critic, _ = load_actor_critic(agents["offline"], config)
    estimates = estimate_value(actor_critic, dataset, held_out, "offline")
    numbers = {"critic": estimates.critic, "fitted_q": estimates.fitted_q}
    shown = {f"eval/offline_value_{key}": value for key, value in numbers.items() if value is not None}
    tracker.log(actor_critic.gradient_steps, shown)
    return {"offline": estimates}


def estimate_value(
    actor_critic: ActorCritic, dataset: TrajectoryDataset, held_out: TrajectoryDataset | None, label: str
) -> ValueEstimates:
    """Compute the estimated value of the acting policy at the first observations of the episodes.

    Args:
        actor_critic: policy and critic; its configuration's `evaluation.fitted_q_steps` is the length of the fit.
        dataset: the training data; the judge is fitted to at most `MOST_STEPS` of it.
        held_out: further episodes, whose first observations are valued too.
        label: of the log's lines.
    """
    started, config, scale = time.monotonic(), actor_critic.config, actor_critic.reward_scale
    judged = make_judge_config(config)
    actor_critic.policy.eval()
    some = take_episodes(dataset, MOST_STEPS, config.data.seed)
    parts = [some] if held_out is None else [some, held_out]
    valued = (
        parts if held_out is None else [some, held_out.keep_first(1)]
    )  # of held-out episodes the rest is not asked for
    buffers = [make_store(judged, actor_critic.normalizer, scale, episodes) for episodes in valued]
    actions = [compute_policy_actions(actor_critic, buffer) for buffer in buffers]
    starts, chosen = (torch.cat(column) for column in zip(*map(_take_first, buffers, actions), strict=True))
    halfway, final = fit_q(judged, buffers[0], actions[0], starts, chosen, label)
    with torch.no_grad():
        own = float(actor_critic.critic.compute_min_q(starts, chosen).double().mean())
    estimates = ValueEstimates(
        episodes=len(starts),
        critic=own / scale if config.has_trained_critic else None,
        fitted_q=final / scale,
        fitted_q_halfway=halfway / scale,
        fitted_q_steps=config.evaluation.fitted_q_steps,
        seconds=time.monotonic() - started,
        data=compute_data_value(parts, judged.critic.discount, config.task.reward_shift),
    )
    logger.info(
        f"evaluate {label}: fitted-Q value {estimates.fitted_q:.4g} (halfway {estimates.fitted_q_halfway:.4g}) of "
        f"{estimates.episodes} first observations  {estimates.seconds:.0f} s"
    )
    return estimates


def compute_data_value(parts: Iterable[TrajectoryDataset], discount: float, reward_shift: float = 0.0) -> float:
    """Compute the mean over all episodes of their discounted return, in environment units.

    Each reward is shifted as the critics' rewards are (`task.reward_shift`), so that values and return are comparable.
    What a cut-off episode would have earned after its end is missing.
    """
    values = [
        np.dot(t.rewards.astype(np.float64) + reward_shift, discount ** np.arange(len(t)))
        for part in parts
        for t in part
    ]
    return float(np.mean(values))


def _take_first(buffer: TrajectoryStore, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first observation of each episode and the policy's action there, (E, S) and (E, A)."""
    rows, _ = buffer.index()
    return buffer.take(rows, buffer.column.observation), actions[rows]


def take_episodes(dataset: TrajectoryDataset, steps: int, seed: int) -> TrajectoryDataset:
    """Return whole episodes with up to `steps` steps, drawn by `seed`, at least one; all if there are no more."""
    if dataset.steps <= steps:
        return dataset
    order = np.random.default_rng(seed).permutation(len(dataset))
    count = max(1, int(np.searchsorted(np.cumsum(dataset.lengths[order]), steps, side="right")))
    return dataset.choose(np.sort(order[:count]))


def make_judge_config(config: Config) -> Config:
    """Return a configuration whose critic is the judge: the same for all settings of a task."""
    return dataclasses.replace(config, critic=dataclasses.replace(config.critic, **JUDGE))


@torch.no_grad()
def compute_policy_actions(actor_critic: ActorCritic, buffer: TrajectoryStore) -> Tensor:
    """Compute the acting policy's action at every observation held, (rows, A): one for each row of the matrix."""
    length, (starts, _) = actor_critic.acting_context, buffer.index()
    settings = PlannerSettings.from_config(actor_critic.config, actor_critic.return_percentiles).restrict(actor_critic)
    wanted = torch.tensor(settings.candidate_returns, device=starts.device) / actor_critic.config.task.return_scale
    total = buffer.take(starts, buffer.column.return_to_go)
    actions = torch.zeros(len(buffer.matrix), buffer.action_size, device=buffer.device)
    for windows in iterate_windows(buffer, length, final=True):
        taken = buffer.gather_windows(windows.rows[:, 0], length)
        missing = wanted[:, None] - total[windows.episodes]  # (M, B): what is asked for beyond what the data earned
        chosen = _choose(actor_critic, buffer, taken, windows.timesteps, missing)
        actions[windows.rows[windows.answered]] = chosen[windows.answered]
    return actions


def _choose(
    actor_critic: ActorCritic, buffer: TrajectoryStore, windows: Tensor, timesteps: Tensor, missing: Tensor
) -> Tensor:
    """Return the action of the candidate return with the highest min target Q, (B, K, A).

    Args:
        actor_critic: policy and critic.
        buffer: names the columns of `windows`.
        windows: rows of the buffer, (B, K, columns).
        timesteps: (B, K).
        missing: added to the data's returns-to-go for each of M candidates, (M, B).
    """
    column = buffer.column
    observations, taken = windows[..., column.observation], windows[..., column.action]
    offered = torch.stack(
        [
            actor_critic.policy(
                observations, taken, windows[..., column.return_to_go] + add[:, None], timesteps
            ).actions
            for add in missing
        ]
    )  # (M, B, K, A)
    if len(offered) == 1:
        return offered[0]
    scores = actor_critic.critic.compute_min_q(observations.expand(len(offered), -1, -1, -1), offered)
    best = scores.argmax(0, keepdim=True)[..., None].expand(-1, -1, -1, offered.shape[-1])
    return offered.gather(0, best)[0]


def fit_q(
    config: Config, buffer: TrajectoryStore, actions: Tensor, starts: Tensor, chosen: Tensor, label: str
) -> tuple[float, float]:
    """Fit Q of a policy to one-step transitions; return its mean at given places, halfway and at the end.

    PyTorch's own random stream is left as it was.

    Args:
        config: of `make_judge_config`; `seed` and `evaluation.fitted_q_steps` with it.
        buffer: the transitions, with targets of `config.critic`.
        actions: the policy's at each row of the buffer, (rows, A).
        starts: observations that are valued, (N, S).
        chosen: the policy's actions there, (N, A).
        label: of the progress shown.
    """
    device, steps = buffer.device, config.evaluation.fitted_q_steps
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        judge = make_critic(config, device)
    update = make_critic_update(judge, config.critic.learning_rate, config.runtime)
    sampler = Sampler(buffer, "length", torch.Generator(device=device).manual_seed(config.seed))
    halfway, progress = 0.0, Progress(f"evaluate {label}: fitted Q", 0, steps)
    for step in range(1, steps + 1):
        update.descend(compute_loss(judge, sampler, actions))
        update.update_targets()
        progress.report(step)
        if step == max(1, steps // 2):
            halfway = _average_q(judge, starts, chosen)
    return halfway, _average_q(judge, starts, chosen)


def compute_loss(judge: Critic, sampler: Sampler, actions: Tensor) -> Tensor:
    """Compute the squared error of one batch's one-step targets, whose bootstrap is the mean of both target Q."""
    rows = sampler.sample_rows(judge.config.batch_size, with_target=True)
    batch = sampler.gather_transitions(rows)
    with torch.no_grad():
        after = actions[find_bootstrap_rows(sampler.buffer, rows)]
        values = judge.target_q(batch.bootstrap_observations, after).mean(0)
    targets = compute_q_targets(batch.n_step_rewards, batch.bootstrap_discounts, values)
    return compute_q_loss(judge.q(batch.observations, batch.actions), targets)


@torch.no_grad()
def _average_q(judge: Critic, observations: Tensor, actions: Tensor) -> float:
    return float(judge.target_q(observations, actions).double().mean())

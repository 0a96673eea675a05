"""Trained policy that another training begins from: what must be equal, and what is taken over with its weights.

Its networks (policy, critic, their targets), normaliser and reward scale are taken as they are; their units are those of
the actions, returns and rewards that they were trained on. Optimizers, learning rates and the advantage weights start
anew.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vdt.agent.actor_critic import ActorCritic
from vdt.agent.addresses import find_policy
from vdt.agent.policy import load_policy
from vdt.agent.spaces import Spaces
from vdt.checkpoint.names import CheckpointError
from vdt.checkpoint.store import load_state
from vdt.config.errors import ConfigError
from vdt.config.rules import predicts_outcomes
from vdt.config.schema import Config
from vdt.system.files import atomic_write, compute_file_digest

OPTION = "--init-from"
DIGEST_DIGITS = 16  # of the digest in a kept file's name
# Keys that say what the networks' inputs and outputs stand for.
UNITS = ("task.action_low", "task.action_high", "task.return_scale", "task.reward_shift")
CRITIC = (
    *("critic.hidden_size", "critic.hidden_layers", "critic.activation", "critic.members", "critic.layer_norm"),
    "critic.bootstrap",
)
POLICY = {  # policy.kind -> keys of that network; the transformer has an embedding for each timestep
    "transformer": (
        *("policy.embedding_size", "policy.layers", "policy.heads", "policy.return_embedding", "task.horizon"),
    ),
    "mlp": ("policy.hidden_size", "policy.hidden_layers"),
}


@dataclass(frozen=True)
class InitialPolicy:
    """Policy that a training begins from.

    Attributes:
        where: its address; a file's is absolute.
        sha256: of its checkpoint.
        config: that it was trained with.
    """

    where: str
    sha256: str
    config: Config

    @property
    def critic_steps(self) -> int:
        """Return the gradient steps of its critic offline, those of the policies that it began from included."""
        return self.config.critic.gradient_steps + self.config.init.critic_steps

    def get_units(self, longest_episode: int | None) -> dict[str, Any]:
        """Return the settings that data without a task's file takes from the policy instead of deriving them.

        Args:
            longest_episode: steps of the data's longest episode; none where an environment limits them.
        """
        settings = self.config.flatten()
        adopted = {key: settings[key] for key in UNITS}
        if longest_episode is not None and longest_episode <= self.config.task.horizon:
            adopted["task.horizon"] = self.config.task.horizon
        return adopted

    def check_fits(self, config: Config) -> None:
        """Refuse a configuration whose networks are others, or mean other things.

        Raises:
            ConfigError: naming the keys with both values.
        """
        mine, theirs = Spaces.from_config(self.config), Spaces.from_config(config)
        sizes = [(space.observation_size, space.action_size) for space in (mine, theirs)]
        if sizes[0] != sizes[1]:
            raise ConfigError(
                f"{OPTION} {self.where}: it has {sizes[0][0]} observations and {sizes[0][1]} actions, but {config.env} "
                f"has {sizes[1][0]} and {sizes[1][1]}"
            )
        given, wanted = config.flatten(), self.config.flatten()
        keys = ["policy.kind", "policy.head", *CRITIC, *UNITS[2:]]
        keys += POLICY[config.policy.kind] if config.policy.kind == self.config.policy.kind else ()
        keys += UNITS[:2] if mine != theirs else ()  # an empty range is -1 to 1
        keys += ["critic.discount"] if config.critic.gradient_steps == 0 and self.critic_steps > 0 else ()
        if other := [key for key in keys if given[key] != wanted[key]]:
            both = ", ".join(f"{key} is {_format(wanted[key])} there and {_format(given[key])} here" for key in other)
            fitting = " ".join(f"{key}={_format(wanted[key])}" for key in other)
            raise ConfigError(f'{OPTION} {self.where}: {both}; a training that begins there needs --set "{fitting}"')
        if config.actor.gradient_steps == 0 and predicts_outcomes(config) and not predicts_outcomes(self.config):
            raise ConfigError(
                f"{OPTION} {self.where}: it predicts no observations and rewards, and actor.gradient_steps is 0; set "
                "actor.next_observation_coefficient=0 actor.reward_coefficient=0, or train its heads by more steps"
            )


def _format(value: Any) -> str:
    """Return a value as `--set` takes it."""
    if isinstance(value, tuple):
        return f"[{','.join(map(_format, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def find_initial(where: str) -> InitialPolicy:
    """Find the policy at an address that `load_policy` accepts, and check its file.

    Raises:
        ConfigError: if there is none that this version can use.
    """
    path = Path(where).expanduser()
    place = str(path.resolve()) if path.exists() else where
    try:
        with find_policy(place) as found:
            config = load_policy(found.path).config
            return InitialPolicy(place, compute_file_digest(found.path, "sha256"), config)
    except CheckpointError as error:
        raise ConfigError(f"{OPTION}: {error}") from None


def keep_initial(config: Config, folder: Path) -> Path:
    """Return a copy of the policy that a training begins from, which stays as it is whatever becomes of the original.

    Args:
        config: resolved; `init` names the policy and its digest.
        folder: where copies lie, each named by its digest.

    Raises:
        ConfigError: if the original has changed since its digest was taken.
    """
    init = config.init
    kept = folder / f"{init.sha256[:DIGEST_DIGITS]}.pt"
    if not kept.is_file() or compute_file_digest(kept, "sha256") != init.sha256:
        try:
            with find_policy(init.policy) as found:
                content = found.path.read_bytes()
        except CheckpointError as error:
            raise ConfigError(f"{OPTION}: {error}") from None
        _check_digest(config, hashlib.sha256(content).hexdigest())
        with atomic_write(kept) as file:
            file.write(content)
    return kept


def _check_digest(config: Config, found: str) -> None:
    """Refuse a file that is not the one that the run began from."""
    wanted = config.init.sha256
    if found != wanted:
        what = (
            f"is another now (sha256 {found[:DIGEST_DIGITS]}…, not {wanted[:DIGEST_DIGITS]}…)" if found else "is gone"
        )
        raise ConfigError(
            f"{OPTION} {config.init.policy}: the policy that this run began from {what}; put it back, or start a new run"
        )


def load_initial(config: Config, path: Path | None, device: torch.device) -> ActorCritic | None:
    """Load the networks that a training begins from, with the constants that they were trained with.

    Args:
        config: of the training.
        path: the file of `keep_initial`; none begins from random networks.
        device: of the networks.

    Raises:
        ConfigError: if the configuration names a policy and the file is none, gone or another.
    """
    if not config.init.sha256:
        return None
    if path is None:
        raise ConfigError(f"{OPTION} {config.init.policy}: the file of this policy is not given")
    _check_digest(config, compute_file_digest(path, "sha256") if path.is_file() else "")
    begun = ActorCritic.from_state(load_state(path)["actor_critic"], device)
    begun.normalizer = replace(begun.normalizer, clip=config.data.observation_clip)  # a setting of each training
    return begun

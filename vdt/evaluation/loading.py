"""Loading of a cell's trained networks for its measurements."""

from __future__ import annotations

from pathlib import Path

from vdt.agent.actor_critic import ActorCritic
from vdt.checkpoint.store import State, load_state
from vdt.config.schema import Config
from vdt.system.machine import choose_device


def load_actor_critic(path: Path, config: Config) -> tuple[ActorCritic, State]:
    """Return the networks of a checkpoint, ready to act, with a cell's configuration, and the whole state.

    An actor that several cells share holds the configuration of the one that trained it, which may differ in what comes
    after the training.
    """
    state = load_state(path)
    actor_critic = ActorCritic.from_state(state["actor_critic"], choose_device(config.runtime.device))
    actor_critic.config = config
    actor_critic.policy.eval()
    return actor_critic, state

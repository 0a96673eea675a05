"""Collection of data by the rungs of a ladder of behaviour policies."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from vdt.behavior.exact import round_values
from vdt.behavior.policy import BehaviorLadder, BehaviorPolicy
from vdt.data.gathering import gather_trajectories
from vdt.data.residence import MEMORY, Residence
from vdt.data.trajectory import FloatArray, Trajectory, TrajectoryDataset
from vdt.environments import Environment, EnvironmentFactory
from vdt.environments.reproducible import round_states
from vdt.environments.rollout import collect_trajectories
from vdt.system.progress import Progress

PARALLEL_EPISODES = 16  # changes the speed, never the data


class _BehaviorActor:
    """Behaviour policy with its own Gaussian noise; each episode has its own generator."""

    def __init__(self, policy: BehaviorPolicy, generators: Sequence[np.random.Generator]) -> None:
        self.policy, self.generators = policy, list(generators)

    def start(self, environments: Sequence[Environment]) -> None:
        """Do nothing: one actor serves one round."""

    def act(self, observations: FloatArray) -> FloatArray:
        """Return actions (N, A) for observations (N, S), noise included."""
        size = self.policy.action_size
        noise = np.stack([generator.standard_normal(size) for generator in self.generators])
        return self.policy.sample_action(observations, round_values(noise))  # rare ones come from the C library's log

    def observe(self, actions: FloatArray, rewards: FloatArray, active: npt.NDArray[np.bool_]) -> None:
        """Drop the generators of finished episodes."""
        self.generators = [generator for generator, goes_on in zip(self.generators, active, strict=True) if goes_on]


def _collect_share(
    policy: BehaviorPolicy,
    environments: Sequence[Environment],
    steps: int,
    entropy: tuple[int, int],
    progress: Progress,
) -> Iterator[Trajectory]:
    """Yield episodes 0, 1, 2, … of one policy: the fewest that hold `steps` steps.

    An episode is a function of (seed, position in the recipe, its number), and the shortest prefix is kept. So the data
    does not depend on the number of environments.
    """
    episodes = taken = 0
    limit = getattr(environments[0].spec, "max_episode_steps", None) or 1
    while taken < steps:
        expected = max(1.0, taken / episodes) if episodes else limit
        count = min(len(environments), math.ceil((steps - taken) / expected))
        numbers = range(episodes, episodes + count)
        sequences = [np.random.SeedSequence([*entropy, number]) for number in numbers]
        actor = _BehaviorActor(policy, [np.random.default_rng(sequence) for sequence in sequences])
        seeds = [int(sequence.generate_state(1)[0]) for sequence in sequences]
        before = taken
        for episode in collect_trajectories(actor, environments[:count], seeds, label="collect"):
            if taken < steps:
                episodes, taken = episodes + 1, taken + len(episode)
                yield episode
        progress.total += max(0, taken - steps)  # the last episode is kept whole
        progress.advance(taken - before)  # dropped episodes are no progress


def collect_dataset(
    ladder: BehaviorLadder,
    snapshots: Sequence[int],
    make: EnvironmentFactory,
    *,
    steps: int,
    seed: int,
    parallel: int = PARALLEL_EPISODES,
    residence: Residence = MEMORY,
) -> TrajectoryDataset:
    """Roll out rungs of a ladder with their own action noise; actions are recorded as executed (clipped).

    Args:
        ladder: the policies.
        snapshots: rungs, each given an equal share of the steps, in this order; a rung may stand twice.
        make: makes one environment, with its time limit; its simulator's state is rounded (`round_states`).
        steps: at least this many in all, in whole episodes.
        seed: the data is a function of it, not of `parallel`.
        parallel: episodes stepped together with one call of the policy.
        residence: of the arrays.
    """
    share = -(-steps // len(snapshots))
    progress = Progress("collect", 0, share * len(snapshots))
    with contextlib.ExitStack() as stack:
        environments = [round_states(make()) for _ in range(parallel)]
        for environment in environments:
            stack.callback(environment.close)
        parts = (
            _collect_share(ladder.policies[rung], environments, share, (seed, position), progress)
            for position, rung in enumerate(snapshots)
        )
        return gather_trajectories(itertools.chain.from_iterable(parts), residence)

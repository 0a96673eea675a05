"""Training on mapped data: the same states to the bit as in memory, a run that goes on, and one identity for both."""

from pathlib import Path
from typing import Any

import pytest
import torch

from support.builders import assert_identical, make_config, make_dataset, make_store
from vdt.agent.actor_critic import ActorCritic
from vdt.checkpoint.store import load_state
from vdt.config.schema import Config
from vdt.data.residence import Residence
from vdt.data.storage import load_snapshot, write_trajectories
from vdt.datasets.choose import choose_episodes
from vdt.evaluation.diagnostics import count_weights
from vdt.evaluation.held_out import evaluate_held_out
from vdt.experiments.results_store import compute_identity
from vdt.experiments.sharing import compute_actor_key, compute_critic_key
from vdt.tracking import NullTracker
from vdt.training.critic_pretraining import pretrain_critic
from vdt.training.offline import train_actor
from vdt.training.online import make_tuner
from vdt.training.seeding import seed_buffer

SETTINGS = {"critic.gradient_steps": 12, "actor.gradient_steps": 8, "data.held_out_fraction": 0.3}
EXACT = ("critic", "optimizer", "actor_critic", "random", "normalizer", "reward_scale")
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "first steps": {"data.beyond_horizon": "drop", "task.horizon": 5},
    "best half": {"data.keep_best_fraction": 0.5, "data.trajectory_weighting": "return"},
    "together": {
        "critic.bootstrap": "policy",
        "actor.max_history_correlation": 1,
        "actor.advantage_unit": "reward",
        "actor.min_effective_sample_fraction": 0,
        "data.window_start": "before",
        "policy.return_embedding": "fourier",
    },
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A snapshot's file."""
    lengths = (8, 3, 6, 1, 8, 5, 2, 7, 8, 4)
    write_trajectories(tmp_path / "set" / "trajectories.hdf5", make_dataset(lengths))
    return tmp_path / "set" / "trajectories.hdf5"


def train(config: Config, path: Path, folder: Path) -> tuple[Path, Path]:
    """Train critic and actor on the training part of a snapshot."""
    whole = load_snapshot(path, Residence(config.data.residence))
    dataset = choose_episodes(whole, config)[0]
    critic = pretrain_critic(config, dataset, NullTracker(), make_store(folder / "critic"))
    return critic, train_actor(config, dataset, critic, NullTracker(), make_store(folder / "actor"))


def take_exact(state: dict[str, Any]) -> dict[str, Any]:
    """Take the parts that must not depend on the residence; the configuration holds it."""
    found = {key: state[key] for key in EXACT if key in state}
    assert len(found) >= 3
    return {
        key: {k: v for k, v in part.items() if k != "config"} if isinstance(part, dict) else part
        for key, part in found.items()
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_states_are_the_same_to_the_bit(variant: str, path: Path, tmp_path: Path) -> None:
    states = []
    for residence in ("memory", "mapped"):
        config = make_config({**SETTINGS, **VARIANTS[variant], "data.residence": residence})
        states.append([load_state(file) for file in train(config, path, tmp_path / residence)])
    for one, other in zip(*states, strict=True):
        assert_identical(take_exact(one), take_exact(other))
    assert list((path.parent / "rows").glob("*.npy"))


def test_a_run_goes_on_in_the_other_residence(path: Path, tmp_path: Path) -> None:
    ends = []
    for first, second in (("memory", "memory"), ("mapped", "memory"), ("memory", "mapped"), ("mapped", "mapped")):
        folder = tmp_path / f"{first}-{second}"
        short = make_config({**SETTINGS, "critic.gradient_steps": 5, "data.residence": first})
        dataset = load_snapshot(path, Residence(first))
        pretrain_critic(short, dataset, NullTracker(), make_store(folder))
        whole = make_config({**SETTINGS, "data.residence": second})
        again = load_snapshot(path, Residence(second))
        ends.append(load_state(pretrain_critic(whole, again, NullTracker(), make_store(folder))))
    for other in ends[1:]:
        assert other["step"] == 12
        assert_identical(take_exact(ends[0]), take_exact(other))


def test_what_follows_training_is_the_same(path: Path, tmp_path: Path) -> None:
    found = []
    for residence in ("memory", "mapped"):
        config = make_config({**SETTINGS, "data.residence": residence})
        _, file = train(config, path, tmp_path / residence)
        rest, held = load_snapshot(path, Residence(residence)).split(0.3, 0)
        assert held is not None
        actor_critic = ActorCritic.from_state(load_state(file)["actor_critic"], torch.device("cpu"))
        buffer = seed_buffer(config, rest, tmp_path / residence / "buffer.hdf5")
        tuner = make_tuner(config, file, buffer, rest, None)
        assert tuner.mixed is not None
        tuner.take_critic_step()
        found.append(
            (
                evaluate_held_out(actor_critic, held, "offline"),
                count_weights(actor_critic, rest),
                [parameter.tolist() for parameter in tuner.actor_critic.critic.parameters()],
                buffer.read_bytes(),
            )
        )
    assert found[0] == found[1]


def test_the_residence_is_no_part_of_an_identity() -> None:
    configs = [make_config({"data.residence": residence}) for residence in ("memory", "mapped", "auto")]
    for compute in (compute_identity, compute_critic_key, compute_actor_key):
        assert len({compute(config, "data") for config in configs}) == 1, compute.__name__

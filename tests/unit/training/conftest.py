"""The agent that tests of online tuning begin from, trained once."""

from typing import Any

import pytest

from support.builders import make_store
from support.online import CONFIG, DATASET, Inputs
from vdt.checkpoint.store import load_state
from vdt.tracking import NullTracker
from vdt.training.critic_pretraining import pretrain_critic
from vdt.training.offline import train_actor
from vdt.training.online import tune_online
from vdt.training.seeding import seed_buffer


@pytest.fixture(scope="package")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """An offline agent, its buffer file, and the data of both."""
    folder = tmp_path_factory.mktemp("offline")
    critic = pretrain_critic(CONFIG, DATASET, NullTracker(), make_store(folder / "critic"))
    agent = train_actor(CONFIG, DATASET, critic, NullTracker(), make_store(folder / "actor"))
    return agent, seed_buffer(CONFIG, DATASET, folder / "buffer.hdf5"), DATASET


@pytest.fixture(scope="package")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, paths: Inputs) -> dict[str, Any]:
    path = tune_online(CONFIG, *paths, NullTracker(), make_store(tmp_path_factory.mktemp("online")))
    return load_state(path)

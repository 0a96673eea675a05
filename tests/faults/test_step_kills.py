"""kill -9 of the process that trains, at random moments and in the middle of a checkpoint's writing, over and over.

Each attempt is a forked process that runs one long step, so that hundreds of kills cost seconds. The flow around it is
killed in test_kills.py.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from support.builders import assert_identical, make_config, make_dataset, make_store
from vdt.checkpoint.store import load_state
from vdt.experiments.resolve import resolve_config
from vdt.tracking import MLflowTracker, NullTracker, create_run, open_store
from vdt.training.critic_pretraining import pretrain_critic
from vdt.training.offline import train_actor
from vdt.training.online import tune_online
from vdt.training.seeding import seed_buffer

CONFIG = make_config({"critic.gradient_steps": 200, "actor.gradient_steps": 80, "online.environment_steps": 120})
DATASET = make_dataset((5, 1, 7, 3, 6, 2, 4, 4))
EVERY = {"critic": 7, "actor": 4, "online": 10}  # steps between checkpoints
LIMIT = 300.0


def fork(run: Callable[[], object]) -> int:
    """Run something in a process of its own; its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        run()
        code = 0
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(code)


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def wait_for_write(folder: Path, deadline: float) -> None:
    """Until a checkpoint's temporary file is seen."""
    while time.monotonic() < deadline and not any(folder.glob(".*.part")):
        pass


def kill_and_resume(run: Callable[[], object], folder: Path, seconds: float, rng: random.Random) -> int:
    """Start `run` until it ends by itself, killing it at random moments; the number of kills."""
    kills, deadline = 0, time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        pid = fork(run)
        if rng.random() < 0.3:
            wait_for_write(folder, time.monotonic() + rng.uniform(0.0, seconds))
        else:
            time.sleep(rng.uniform(0.0, seconds) * rng.choice([0.3, 0.6, 0.9]))
        os.kill(pid, signal.SIGKILL)  # a zombie until it is waited for, so the id is still its own
        code = wait(pid)
        assert code in (0, -signal.SIGKILL)
        if code == 0:
            return kills
        kills += 1
    pytest.fail("it never came to its end")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[..., Path]]:
    """The three long steps, given tracker and checkpoints."""
    folder = tmp_path_factory.mktemp("inputs")
    critic = pretrain_critic(CONFIG, DATASET, NullTracker(), make_store(folder / "critic"))
    actor = train_actor(CONFIG, DATASET, critic, NullTracker(), make_store(folder / "actor"))
    buffer = seed_buffer(CONFIG, DATASET, folder / "buffer.hdf5")
    return {
        "critic": partial(pretrain_critic, CONFIG, DATASET),
        "actor": partial(train_actor, CONFIG, DATASET, critic),
        "online": partial(tune_online, CONFIG, actor, buffer, DATASET),
    }


def find_final(folder: Path) -> Path:
    return folder / (folder / "DONE").read_text().strip()


@pytest.mark.parametrize("step", ["critic", "actor", "online"])
@pytest.mark.parametrize("kills", [14, pytest.param(500, marks=pytest.mark.faults)])
def test_kills_leave_no_trace(step: str, kills: int, inputs: dict[str, Callable[..., Path]], tmp_path: Path) -> None:
    def run(folder: Path) -> Path:
        return inputs[step](NullTracker(), make_store(folder, every=EVERY[step]))

    began = time.monotonic()
    assert wait(fork(partial(run, tmp_path / "undisturbed"))) == 0
    seconds, wanted = time.monotonic() - began, find_final(tmp_path / "undisturbed")
    rng, done, runs, same = random.Random(kills), 0, 0, 0
    while done < kills:
        folder = tmp_path / f"run-{runs}"
        done += kill_and_resume(partial(run, folder), folder, seconds, rng)
        assert_identical(load_state(find_final(folder)), load_state(wanted))
        same += find_final(folder).read_bytes() == wanted.read_bytes()
        assert not list(folder.glob(".*.part"))
        runs += 1
    print(f"{step}: {done} kills in {runs} runs, {runs} of {runs} bitwise equal ({same} files to the byte)")


def test_kills_leave_no_hole_and_no_duplicate_in_the_curves(
    inputs: dict[str, Callable[..., Path]], tmp_path: Path, home: Path
) -> None:
    """Many small deliveries, so that kills come between them and inside them."""
    config = resolve_config("walker2d-medium-v2", preset="smoke")
    total, kills, runs = CONFIG.critic.gradient_steps, 0, 0
    while kills < 6:
        run_id, folder = create_run(home, config.with_seed(runs), "1", "run"), tmp_path / f"run-{runs}"

        def run(run_id: str = run_id, folder: Path = folder) -> None:
            tracker = MLflowTracker(home, run_id, interval=0.01)
            inputs["critic"](tracker, make_store(folder, every=25))
            tracker.close()

        kills += kill_and_resume(run, folder, 3.0, random.Random(runs))
        runs += 1
        client = open_store(home)
        for key in ("critic/q_loss", "critic/value_loss"):
            steps = sorted(m.step for m in client.get_metric_history(run_id, key))
            assert steps == list(range(1, total + 1)), f"hole or duplicate in {key} after {kills} kills"
        experiment = client.get_run(run_id).info.experiment_id
        models = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
        assert f"critic-{total}" in {model.name for model in models}
    print(f"curves: {kills} kills in {runs} runs, no hole and no duplicate")

"""How fast is training and acting, and how does it grow? Prints Markdown tables.

    python benchmarks/speed.py [--device cpu] [--threads 2] [--only critic actor off compiled sampler acting growth] [--repeats 5]

Every ratio compares functions that were run in turn in this process. `benchmarks/bare.py` has what they are compared with.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks.bare import make_actor_loop, make_critic_loop
from benchmarks.timing import describe_machine, format_table, time_in_turn
from vdt.acceleration.convert import make_critic_update
from vdt.agent.actor_critic import ActorCritic, make_critic, make_policy
from vdt.agent.agent import Agent, PlannerSettings
from vdt.config.schema import Config
from vdt.data.normalization import Normalizer
from vdt.data.sampling import Sampler
from vdt.data.trajectory import TrajectoryDataset
from vdt.environments import make_environment
from vdt.environments.rollout import collect_trajectories
from vdt.experiments.resolve import resolve_config
from vdt.policy.losses import AdvantageWeighting
from vdt.training.offline import make_offline_buffer, make_sampler
from vdt.training.update import PolicyUpdate

ENV = "walker2d-medium-v2"
EPISODE = 997  # steps of the random data's episodes; no divisor of anything
SMALL = "policy.embedding_size=128 policy.layers=3 policy.heads=1 policy.context_length=20 actor.batch_size=64"
LARGE = "policy.embedding_size=256 policy.layers=6 policy.heads=4 policy.context_length=20 actor.batch_size=64"
STANDING = """task.environment_kwargs='{"terminate_when_unhealthy": false}'"""  # so that all episodes are equally long


def make_config(overrides: str, preset: str = "laptop") -> Config:
    """The main task with these sizes."""
    return resolve_config(ENV, preset=preset, overrides=f"{overrides} {STANDING}")


def make_random_data(config: Config, steps: int) -> TrajectoryDataset:
    """Noise in the task's sizes."""
    generator, episodes, task = np.random.default_rng(0), steps // EPISODE, config.task
    rows = episodes * (EPISODE + 1)
    dataset = TrajectoryDataset(
        observations=generator.standard_normal((rows, task.observation_size), np.float32),
        actions=generator.uniform(-1, 1, (rows, task.action_size)).astype(np.float32),
        rewards=generator.standard_normal(rows, np.float32),
        offsets=np.arange(episodes + 1) * (EPISODE + 1),
        terminated=np.zeros(episodes, np.bool_),
    )
    dataset.actions[dataset.offsets[1:] - 1] = 0
    dataset.rewards[dataset.offsets[1:] - 1] = 0
    return dataset


RETURNS = (5000.0, 4500.0, 4000.0, 3500.0, 3000.0)
ACTING = {
    "K steps": PlannerSettings(RETURNS[:1]),
    "K/2 to K steps": PlannerSettings(RETURNS[:1], forget_steps=10),
    "present step": PlannerSettings(RETURNS[:1], context_length=1),
}


def look_ahead(settings: PlannerSettings) -> PlannerSettings:
    """The same history, five candidates and a horizon of five."""
    return replace(settings, candidate_returns=RETURNS, planning_horizon=5, env_model="learned")


class Setting:
    """Data, sampler and an untrained actor_critic of one configuration on one device."""

    def __init__(self, overrides: str, device: torch.device, steps: int = 200_000, preset: str = "laptop") -> None:
        self.config, self.device = make_config(overrides, preset), device
        dataset = make_random_data(self.config, steps)
        normalizer = Normalizer.fit(dataset).to(device)
        self.sampler: Sampler = make_sampler(self.config, make_offline_buffer(self.config, dataset, normalizer, 1.0), 1)
        policy, critic = make_policy(self.config, device), make_critic(self.config, device)
        self.actor_critic = ActorCritic(
            self.config, policy, critic, normalizer, 1.0, AdvantageWeighting(1.0, 100.0, 1.0)
        )

    def make_critic_update(self) -> Callable[[], object]:
        """Batch and update, as `pretrain_critic` does."""
        update = make_critic_update(self.actor_critic.critic, self.config.critic.learning_rate, self.config.runtime)
        size = self.config.critic.batch_size
        return lambda: update.update(self.sampler.sample_transitions(size))

    def make_actor_update(self) -> Callable[[], object]:
        """Batch and update, as `train_actor` does."""
        actor, length = self.config.actor, self.config.policy.context_length
        self.actor_critic.critic.requires_grad_(False)
        update = PolicyUpdate(self.actor_critic, actor, actor.learning_rate)
        return lambda: update(self.sampler.sample_sequences(actor.batch_size, length))

    def roll_out(self, episodes: int, steps: int, settings: PlannerSettings) -> Callable[[], object]:
        """Episodes side by side, all of the same length."""
        environments = [make_environment(self.config.task) for _ in range(episodes)]
        agent = Agent(self.actor_critic, settings)
        return lambda: collect_trajectories(agent, environments, range(episodes), max_steps=steps)


def measure_critic(device: torch.device, repeats: int) -> Iterator[str]:
    """Updates a second."""
    rows = []
    for activation in ("relu", "mish"):
        setting = Setting(f"critic.activation={activation}", device)
        batch = setting.sampler.sample_transitions(setting.config.critic.batch_size)
        loops = {"ours": setting.make_critic_update(), "bare": make_critic_loop(setting.config, batch)}
        taken = time_in_turn(loops, device, repeats=repeats)
        ratio = taken["bare"] / taken["ours"]
        rows.append([activation, f"{1 / taken['ours']:.0f}", f"{1 / taken['bare']:.0f}", f"{ratio:.2f}"])
    yield "Critic, batch 256, 2 x 256, sampling included, against two MLPs and V with three Adams on one batch\n"
    yield format_table(["activation", "updates/s", "bare loop", "ratio"], rows)


def measure_actor(device: torch.device, repeats: int) -> Iterator[str]:
    """Milliseconds of a step, and how much of it is the batch."""
    rows = []
    for name, sizes in (("128 x 3, batch 64", SMALL), ("256 x 6, batch 64", LARGE)):
        for guided, dropout in ((False, 0.0), (True, 0.0), (True, 0.1)):
            off = "" if guided else "actor.q_coefficient=0"
            setting = Setting(f"{sizes} {off} policy.dropout={dropout}", device)
            if not guided:
                setting.actor_critic.weighting = AdvantageWeighting(0.0, 100.0, 1.0)
            size, length = setting.config.actor.batch_size, setting.config.policy.context_length
            batch = setting.sampler.sample_sequences(size, length)
            loops = {
                "ours": setting.make_actor_update(),
                "bare": make_actor_loop(setting.actor_critic, batch, guided=guided),
                "batch": lambda s=setting, b=size, k=length: s.sampler.sample_sequences(b, k),
            }
            taken = time_in_turn(loops, device, repeats=repeats, seconds=1.0)
            label = f"{name}, {'vdt' if guided else 'dt'}, dropout {dropout}"
            share = f"{100 * taken['batch'] / taken['ours']:.2f} %"
            times = [f"{1000 * taken[key]:.1f}" for key in ("ours", "bare")]
            rows.append([label, *times, f"{taken['ours'] / taken['bare']:.2f}", share])
    yield "Actor, K = 20, sampling included, against the same model with PyTorch's Linear on one batch\n"
    yield format_table(["step", "ms", "bare loop, ms", "ratio", "share of the batch"], rows)


def measure_off(device: torch.device, repeats: int) -> Iterator[str]:
    """Training steps and decisions with and without `runtime.acceleration`."""
    rows = []
    runs = {f"critic, {name}": (f"critic.activation={name}", Setting.make_critic_update) for name in ("relu", "mish")}
    for name, sizes in (("128 x 3", SMALL), ("256 x 6", LARGE)):
        runs[f"actor, {name}"] = (sizes, Setting.make_actor_update)
        for how in ("K steps", "K/2 to K steps"):
            plain = ACTING[how]
            runs[f"decision, {name}, {how}"] = (sizes, lambda s, p=plain: make_decision(s.actor_critic, p))
            ahead = look_ahead(plain)
            runs[f"decision, {name}, 5 x 5, {how}"] = (sizes, lambda s, p=ahead: make_decision(s.actor_critic, p))
    for label, (sizes, make) in runs.items():
        loops = {word: make(Setting(f"{sizes} runtime.acceleration={word}", device)) for word in ("auto", "off")}
        taken = time_in_turn(loops, device, repeats=repeats)
        times = [f"{1000 * seconds:.2f}" for seconds in taken.values()]
        rows.append([label, *times, f"{taken['off'] / taken['auto']:.2f}"])
    yield "With `runtime.acceleration` auto and off\n"
    yield format_table(["step", "auto, ms", "off, ms", "ratio"], rows)


def measure_compiled(device: torch.device, repeats: int) -> Iterator[str]:
    """Training steps with and without `runtime.compile`."""
    rows = []
    runs = {f"critic, {name}": (f"critic.activation={name}", Setting.make_critic_update) for name in ("relu", "mish")}
    runs |= {
        f"actor, {name}": (sizes, Setting.make_actor_update) for name, sizes in (("128 x 3", SMALL), ("256 x 6", LARGE))
    }
    for label, (sizes, make) in runs.items():
        loops = {word: make(Setting(f"{sizes} runtime.compile={word}", device)) for word in ("false", "true")}
        taken = time_in_turn(loops, device, repeats=repeats)
        times = [f"{1000 * seconds:.2f}" for seconds in taken.values()]
        rows.append([label, *times, f"{taken['false'] / taken['true']:.2f}"])
    yield "A training step by torch.compile, sampling included\n"
    yield format_table(["step", "eager, ms", "compiled, ms", "ratio"], rows)


def measure_sampler(device: torch.device, repeats: int) -> Iterator[str]:
    """Sub-trajectories a second."""
    setting, rows = Setting(SMALL, device), []
    for size in (64, 256, 1024):
        taken = time_in_turn(
            {"": lambda n=size: setting.sampler.sample_sequences(n, 20)}, device, repeats=max(repeats, 9), seconds=0.2
        )
        rows.append([size, f"{1e6 * taken['']:.0f}", f"{size / taken[''] / 1e6:.2f}"])
    yield "Sub-trajectories of 20 steps\n"
    yield format_table(["batch", "microseconds", "million/s"], rows)


def measure_acting(device: torch.device, repeats: int) -> Iterator[str]:
    """Environment steps a second, and the price of looking ahead."""
    rows, plans = [], []
    for name, sizes in (("128 x 3", SMALL), ("256 x 6", LARGE)):
        setting = Setting(sizes, device)
        runs: dict[str, tuple[int, int, PlannerSettings]] = {}
        for how, plain in ACTING.items():
            runs[f"1 episode, {how}"] = (1, 100, plain)
            runs[f"10 episodes, {how}"] = (10, 100, plain)
        for how in ("K steps", "K/2 to K steps"):
            runs[f"10 episodes, 5 x 5, {how}"] = (10, 25, look_ahead(ACTING[how]))
        taken = time_in_turn({k: setting.roll_out(*v) for k, v in runs.items()}, device, repeats=repeats, seconds=0)
        speed = {key: episodes * steps / taken[key] for key, (episodes, steps, _) in runs.items()}
        for key, value in speed.items():
            alone = speed[f"1 episode, {key.split(', ')[-1]}"]
            rows.append([name, key, f"{value:.0f}", f"{value / alone:.2f}"])
        plans += [[name, *row] for row in _measure_plans(setting, repeats)]
    yield "Acting in Walker2d-v4, K = 20\n"
    yield format_table(["policy", "what", "environment steps/s", "ratio to one episode"], rows)
    yield "\nOne decision with a full context of 20 steps, one episode; forward: the policy's pass over that context\n"
    yield format_table(["policy", "context", "forward, ms", "plain, ms", "5 x 5, ms", "to plain", "to forward"], plans)


def _measure_plans(setting: Setting, repeats: int) -> Iterator[list[str]]:
    policy, size = setting.actor_critic.policy.eval(), setting.config.policy.context_length
    batch = setting.sampler.sample_sequences(1, size)
    inputs = (batch.observations, batch.actions, batch.returns_to_go, batch.timesteps)
    calls: dict[str, Callable[[], object]] = {"forward": torch.inference_mode()(lambda: policy(*inputs))}
    for how, plain in ACTING.items():
        calls |= {f"plain, {how}": make_decision(setting.actor_critic, plain)}
        calls |= {f"5 x 5, {how}": make_decision(setting.actor_critic, look_ahead(plain))}
    taken = time_in_turn(calls, setting.device, repeats=max(repeats, 9))
    for how in ACTING:
        forward, plain, ahead = (taken[key] for key in ("forward", f"plain, {how}", f"5 x 5, {how}"))
        times = [f"{1000 * seconds:.2f}" for seconds in (forward, plain, ahead)]
        yield [how, *times, f"{ahead / plain:.2f}", f"{ahead / forward:.2f}"]


def make_decision(actor_critic: ActorCritic, settings: PlannerSettings, episodes: int = 1) -> Callable[[], object]:
    """One decision after another upon random observations, the context full from the start."""
    agent, sizes = Agent(actor_critic, settings), actor_critic.config.task
    agent.start([Any] * episodes)  # type: ignore[list-item]
    generator = np.random.default_rng(0)
    observations = generator.standard_normal((episodes, sizes.observation_size), np.float32)
    rewards, active = np.ones(episodes, np.float32), np.ones(episodes, np.bool_)

    def decide() -> None:
        agent.observe(agent.act(observations), rewards, active)

    for _ in range(30):
        decide()
    return decide


def measure_growth(device: torch.device, repeats: int) -> Iterator[str]:
    """What twice or ten times as much costs."""
    rows, sizes = [], SMALL
    small, large = Setting(sizes, device), Setting(sizes, device, steps=2_000_000)
    steps = {"200,000 steps": small.make_critic_update(), "2,000,000 steps": large.make_critic_update()}
    rows += _compare("critic update, data", time_in_turn(steps, device, repeats=max(repeats, 9)))
    steps = {"200,000 steps": small.make_actor_update(), "2,000,000 steps": large.make_actor_update()}
    rows += _compare("actor step, data", time_in_turn(steps, device, repeats=max(repeats, 9)))
    for what, makes in (
        ("episodes, plain", {str(n): ((5000.0,), 1, n) for n in (1, 2, 5, 10, 20, 40)}),
        ("candidates, E = 3, 10 episodes", {str(m): (tuple(range(5000, 5000 - m, -1)), 3, 10) for m in (2, 4, 8, 16)}),
        ("horizon, m = 4, 10 episodes", {str(e): ((4.0, 3.0, 2.0, 1.0), e, 10) for e in (1, 2, 3, 5, 9)}),
    ):
        calls = {
            key: make_decision(small.actor_critic, PlannerSettings(returns, horizon, "learned"), episodes)
            for key, (returns, horizon, episodes) in makes.items()
        }
        rows += _compare(f"decision, {what}", time_in_turn(calls, device, repeats=repeats, seconds=0.2))
    calls = {}
    for context in (5, 10, 20, 40, 80):
        setting = Setting(sizes.replace("context_length=20", f"context_length={context}"), device)
        calls[str(context)] = setting.make_actor_update()
    rows += _compare("actor step, context", time_in_turn(calls, device, repeats=repeats))
    yield "Growth, 128 x 3\n"
    yield format_table(["what", "how much", "ms", "ratio to the one before"], rows)


def _compare(what: str, taken: dict[str, float]) -> list[list[str]]:
    rows, before = [], None
    for key, value in taken.items():
        rows.append([what, key, f"{1000 * value:.3f}", "" if before is None else f"{value / before:.2f}"])
        before = value
    return rows


PARTS = {
    "critic": measure_critic,
    "actor": measure_actor,
    "off": measure_off,
    "compiled": measure_compiled,
    "sampler": measure_sampler,
    "acting": measure_acting,
    "growth": measure_growth,
}


def main() -> None:
    """Measure the parts that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    print(f"{describe_machine(device)}; medians of {options.repeats} or more, run in turn\n")
    for name in options.only:
        for text in PARTS[name](device, options.repeats):
            print(text, flush=True)
        print()


if __name__ == "__main__":
    main()

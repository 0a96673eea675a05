"""What does a GPU make of training? Updates a second plain, captured and in bfloat16, memory, and whether it still learns.

    python benchmarks/gpu.py [--device cuda|cpu] [--quick] [--seconds 10] [--check PATH] [--write-check]

`benchmarks/gpu.sh` is the prepared run: at most 8 minutes on a GPU. With `--device cpu --quick` it shows in a minute that
the script works; captured steps are then the same functions on static buffers.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.speed import LARGE, SMALL, Setting
from benchmarks.timing import describe_machine, format_table, time_in_turn
from vdt.acceleration.capture import CapturedCriticUpdate
from vdt.acceleration.convert import make_critic_update
from vdt.config.layers import parse_overrides
from vdt.critic.critic import CriticUpdate
from vdt.data.batches import SequenceBatch, TransitionBatch
from vdt.training.update import PolicyUpdate

CHECK = Path(__file__).parent / "gpu_check.json"  # of a CPU: `--device cpu --write-check`
CRITIC = "critic.hidden_size=256 critic.hidden_layers=2 critic.batch_size=256 critic.activation="  # IQL's sizes
GOAL = 300.0  # seconds for a million critic updates of IQL's sizes
MILLION = 1_000_000
STEPS = {"critic": 300, "actor": 100}  # of the learning check
QUICK = 0.03  # of these with --quick
TOLERANCE = 0.05  # of a loss's fall on a CPU, whose batches are the same: only rounding differs

Batch = TypeVar("Batch", TransitionBatch, SequenceBatch)


def make_update(setting: Setting, *, captured: bool) -> Callable[[], object]:
    """Draw a batch and update the critic, plain or captured."""
    rate, size = setting.config.critic.learning_rate, setting.config.critic.batch_size
    critic = setting.actor_critic.critic
    update: CriticUpdate = CapturedCriticUpdate(critic, rate) if captured else CriticUpdate(critic, rate)
    return lambda: update.update(setting.sampler.sample_transitions(size))


def make_step(setting: Setting, *, captured: bool) -> Callable[[], object]:
    """Draw sub-trajectories and update the policy, plain or captured."""
    actor, length = setting.config.actor, setting.config.policy.context_length
    setting.actor_critic.critic.requires_grad_(False)
    update = PolicyUpdate(setting.actor_critic, actor, actor.learning_rate, captured=captured)
    return lambda: update(setting.sampler.sample_sequences(actor.batch_size, length))


def make_small(settings: str) -> str:
    """Return settings with batches of a few rows, for a run that only shows that all works."""
    small = {"critic.batch_size": 32, "actor.batch_size": 2}
    return " ".join(f"{key}={value}" for key, value in {**parse_overrides(settings), **small}.items())


def measure_rates(device: torch.device, seconds: float, steps: int, *, quick: bool) -> Iterator[str]:
    """Compare plain and captured steps, and extrapolate to a million critic updates."""
    rows = []
    runs: dict[str, tuple[str, Callable[..., Callable[[], object]]]] = {
        f"critic 2 x 256, batch 256, {word}": (f"{CRITIC}{word}", make_update) for word in ("relu", "mish")
    }
    for name, sizes in (("128 x 3", SMALL), ("256 x 6", LARGE)):
        for precision in ("float32", "bfloat16"):
            runs[f"actor {name}, batch 64, K = 20, {precision}"] = (f"{sizes} runtime.precision={precision}", make_step)
    for label, (full, make) in runs.items():
        sizes = make_small(full) if quick else full
        measure_peak(device)
        loops = {
            how: make(Setting(sizes, device, steps=steps), captured=how == "captured") for how in ("plain", "captured")
        }
        taken = time_in_turn(loops, device, repeats=1 if quick else 3, seconds=seconds / 3)
        rates = {how: 1 / value for how, value in taken.items()}
        million = MILLION / rates["captured"] if label.startswith("critic") and not quick else None
        verdict = (
            "" if million is None else f"{million:.0f} s ({'within' if million <= GOAL else 'NOT within'} {GOAL:.0f} s)"
        )
        memory = f"{measure_peak(device):.0f}" if device.type == "cuda" else ""
        ratio = f"{rates['captured'] / rates['plain']:.2f}"
        rows.append([label, f"{rates['plain']:.0f}", f"{rates['captured']:.0f}", ratio, memory, verdict])
    yield "Steps a second, sampling included; captured: a CUDA graph, on a CPU static buffers\n"
    yield format_table(["step", "plain", "captured", "ratio", "peak memory, MB", "a million updates"], rows)


def measure_peak(device: torch.device) -> float:
    """Read the highest memory in use on a GPU since the last call, MB."""
    if device.type != "cuda":
        return 0.0
    peak = torch.cuda.max_memory_allocated(device) / 1e6
    torch.cuda.reset_peak_memory_stats(device)
    return peak


def move(batch: Batch, device: torch.device) -> Batch:
    """Copy a batch to a device."""
    return replace(batch, **{name: values.to(device) for name, values in vars(batch).items()})


def learn(device: torch.device, steps: int, share: float) -> dict[str, float]:
    """Train critic and policy for a while as the pipeline does; return first and last losses, means over a tenth.

    A CPU draws the batches, so that every device gets the same ones: other draws alone change the value loss's fall by 40 %.
    The data's rewards are noise, of which a critic learns nothing that `q_loss` shows; twice the first observation takes
    their place.
    """
    settings = f"{SMALL} policy.dropout=0 {CRITIC}mish"
    sampler = Setting(settings, torch.device("cpu"), steps=steps).sampler
    torch.manual_seed(0)
    setting = Setting(settings, device, steps=steps)
    config, actor_critic = setting.config, setting.actor_critic
    critic_update = make_critic_update(actor_critic.critic, config.critic.learning_rate, config.runtime)
    policy_update = PolicyUpdate(actor_critic, config.actor, config.actor.learning_rate)
    curves: dict[str, list[float]] = {"critic/q_loss": [], "critic/value_loss": [], "actor/total_loss": []}
    for _ in range(round(STEPS["critic"] * share)):
        transitions = sampler.sample_transitions(config.critic.batch_size)
        transitions = replace(transitions, n_step_rewards=2 * transitions.observations[:, 0])
        losses = critic_update.update(move(transitions, device))
        curves["critic/q_loss"].append(float(losses.q_loss))
        curves["critic/value_loss"].append(float(losses.value_loss))
    actor_critic.critic.requires_grad_(False)
    for _ in range(round(STEPS["actor"] * share)):
        sequences = sampler.sample_sequences(config.actor.batch_size, config.policy.context_length)
        curves["actor/total_loss"].append(float(policy_update(move(sequences, device))["total_loss"]))
    numbers = {}
    for name, curve in curves.items():
        part = max(1, len(curve) // 10)
        numbers[f"{name} first"], numbers[f"{name} last"] = sum(curve[:part]) / part, sum(curve[-part:]) / part
    return numbers


def compare(found: Mapping[str, float], stored: Mapping[str, float]) -> tuple[str, bool]:
    """Lay the falls of losses beside those of a CPU; tell whether each is within `TOLERANCE` of the CPU's.

    The value loss rises: V follows a Q that grows from nothing.
    """
    rows, fine = [], True
    for name in dict.fromkeys(key.rpartition(" ")[0] for key in found):
        here, there = (losses[f"{name} first"] - losses[f"{name} last"] for losses in (found, stored))
        close = abs(here - there) <= TOLERANCE * abs(there)
        fine &= close
        ends = [f"{losses[f'{name} {end}']:.5f}" for losses in (stored, found) for end in ("first", "last")]
        rows.append([name, *ends, f"{there:.5f}", f"{here:.5f}", "yes" if close else "NO"])
    header = ["loss", "CPU: first", "last", "here: first", "last", "CPU: fall", "here: fall", "within 5 %"]
    return format_table(header, rows), fine


def main() -> int:
    """Measure, check, and return 1 if what is learnt differs from the CPU's numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="little of everything: whether the script works")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each timing")
    parser.add_argument("--check", type=Path, default=CHECK, help="losses that a CPU got")
    parser.add_argument("--write-check", action="store_true", help="write these losses instead of comparing with them")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no GPU that PyTorch can use; try --device cpu --quick", file=sys.stderr)
        return 2
    began, device = time.monotonic(), torch.device(options.device)
    steps, seconds = (10_000, 0.02) if options.quick else (200_000, options.seconds)
    print(f"{describe_machine(device)}\n")
    if options.write_check:
        options.check.write_text(json.dumps(learn(device, 200_000, 1.0), indent=1) + "\n")
        return 0
    for text in measure_rates(device, seconds, steps, quick=options.quick):
        print(text, flush=True)
    if options.quick:
        found, stored = (learn(device, steps, QUICK) for _ in range(2))
    else:
        found, stored = learn(device, steps, 1.0), json.loads(options.check.read_text())
    table, fine = compare(found, stored)
    print(f"\nLearning check, {QUICK if options.quick else 1:.0%} of {STEPS}\n{table}")
    print(
        f"\n{time.monotonic() - began:.0f} s in all; {'learns as on a CPU' if fine else 'DOES NOT LEARN AS ON A CPU'}"
    )
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())

"""Estimate of whether a critic's settings can have converged, before anything is trained.

V or the target Q follow Q with rate tau, and each round carries 1 - gamma^n of the gap between Q's level and its fixed
point. So after N steps about exp(-N tau (1 - gamma^n)) of the gap is left, and a reward has been carried back n tau N
steps at most. This is a rule of thumb: at 20,000 one-step updates 37 % are expected and 28 % were measured
(docs/method.md, section 8).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vdt.config.schema import Config

TIME_CONSTANTS = 5.0  # after which 0.7 % of the gap is left: the number of steps that is recommended
UNFINISHED = 0.01  # share of the gap that is warned of
HOPELESS = 0.9  # share at which nobody means the critic to converge
FIT_DISCOUNT, FIT_RATE = 0.99, 0.05  # of the fitted-Q estimate: its value comes 63 % nearer in 2000 steps


def compute_gap(steps: int, rate: float, discount: float, n_step: int = 1) -> float:
    """Compute the expected share of the gap that is left after `steps`."""
    return math.exp(-steps * rate * (1 - discount**n_step))


@dataclass(frozen=True)
class Convergence:
    """Expectation for a critic.

    Attributes:
        steps: N, gradient steps, those that training begins from included.
        gap: expected share of the gap that they leave.
        reach: environment steps that a reward is carried back at most.
        enough: steps that leave 0.7 %; infinite where nothing is discounted.
    """

    steps: int
    gap: float
    reach: float
    enough: float


def estimate_convergence(settings: Mapping[str, Any]) -> Convergence | None:
    """Return the estimate of a flat configuration; none where there is no critic, or nothing that asks it."""
    asks = ("actor.inverse_temperature", "actor.q_coefficient")
    steps = int(settings.get("critic.gradient_steps", 0)) + int(settings.get("init.critic_steps", 0))
    if steps == 0 or not (any(settings[key] > 0 for key in asks) or settings["planner.candidates"] > 1):
        return None
    discount, n_step = settings["critic.discount"], settings["critic.n_step"]
    rate = settings["critic.target_update_rate"] / settings.get("critic.target_every", 1)
    speed = rate * (1 - discount**n_step)
    enough = TIME_CONSTANTS / speed if speed > 0 else math.inf
    return Convergence(steps, compute_gap(steps, rate, discount, n_step), n_step * rate * steps, enough)


def estimate_fit_gap(steps: int) -> float:
    """Return the share of the gap that a fitted-Q estimate of `steps` is expected to leave."""
    return compute_gap(steps, FIT_RATE, FIT_DISCOUNT)


def describe_unfinished(configs: Iterable[Config]) -> list[str]:
    """Return one sentence for each kind of critic that cannot have converged, with the methods and envs that have it."""
    kinds: dict[Convergence, tuple[Config, dict[str, dict[str, None]]]] = {}
    for config in configs:
        found = estimate_convergence(config.flatten())
        if found is not None and found.gap > UNFINISHED:
            _, methods = kinds.setdefault(found, (config, {}))
            methods.setdefault(config.method, {})[config.env] = None
    return [_describe(found, config, methods) for found, (config, methods) in kinds.items()]


def _describe(found: Convergence, config: Config, methods: Mapping[str, Mapping[str, None]]) -> str:
    who = "; ".join(f"{method} on {', '.join(envs)}" for method, envs in methods.items())
    left = f"critic of {who}: {found.steps:,} steps leave about {found.gap:.0%} of the gap to its fixed point"
    if found.gap > HOPELESS:
        return f"{left}: enough to try things out, not for results"
    critic = config.critic
    every = f", targets at every {critic.target_every}" if critic.target_every > 1 else ""
    advice = f"{found.enough:,.0f} steps would leave 0.7 %" if math.isfinite(found.enough) else "it has none"
    return (
        f"{left} (n {critic.n_step}, discount {critic.discount:g}, target rate {critic.target_update_rate:g}{every}) and carry "
        f"a reward back {found.reach:,.0f} steps; {advice} (critic.gradient_steps, or --preset fair)"
    )

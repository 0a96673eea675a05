"""Facts about one task, a section of the configuration: names, types and meanings of each key."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from vdt.config.types import CHECKED, JsonMapping, Number, Numbers, Text, Texts, Whole, Wholes, read_items

LONGEST_HORIZON = 1_000_000
SMALLEST_SCALE = 1e-9  # of returns
# Modules of vdt/environments/ with a function `bridge` and, where recordings have other rewards or ends, `relabel`.
Bridge = Literal["none", "adroit", "kitchen", "maze2d", "antmaze"]
Repair = Literal["timeouts_are_goals", "late_rewards", "goals_are_ends"]  # corrected by vdt/datasets/repairs.py


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class CollectedRecipe:
    """Recipe by which the built-in data source replaces a D4RL data set."""

    ladder: Text | None = Field(description="file of params/behavior/ without suffix; null where there is none")
    second_ladder: Text | None = Field(default=None, description="likewise, of data.ladder second")  # since release 0.2
    snapshots: Wholes = Field(description="rungs of the ladder, each with an equal share of the steps, in this order")
    controller: Literal["none", "waypoints"] = Field(
        description="instead of a ladder: walks through a maze (vdt/behavior/waypoints.py)"
    )


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class TaskConfig:
    """Facts about one task (params/tasks/)."""

    family: Text = Field(description="tasks that share an environment's language")
    environment_id: Text | None = Field(description="Gymnasium's name; null: data without an environment")
    environment_kwargs: JsonMapping  # kept as JSON text
    bridge: Bridge
    observation_size: Whole = Field(ge=1, le=100_000, description="numbers in an observation")
    action_size: Whole = Field(ge=1, le=10_000, description="numbers in an action")
    action_low: Numbers
    action_high: Numbers
    horizon: Whole = Field(ge=1, le=LONGEST_HORIZON, description="steps after which an episode is cut")
    reference_return_min: Number = Field(description="return of score 0")
    reference_return_max: Number = Field(description="return of score 100")
    reference: Text
    return_scale: Number = Field(
        ge=SMALLEST_SCALE, description="returns-to-go are divided by it before the policy sees them"
    )
    reward_scaling: Literal["return_range", "none"] = Field(
        description="return_range: the critic's rewards x 1000 / (best - worst episode return), as IQL"
    )
    reward_shift: Number = Field(description="added to the critic's rewards")
    candidate_returns: Numbers = Field(
        description="returns asked for, the first planner.candidates of them; who sets them sets planner.returns task"
    )
    d4rl_url: Text = Field(description="where D4RL's file is; empty: there is none")
    d4rl_sha256: Text
    d4rl_repairs: Annotated[tuple[Repair, ...], BeforeValidator(read_items)]
    minari_ids: Texts
    licence: Text = Field(description="of the data")
    collected: CollectedRecipe

"""Tiny Gymnasium environments with known values. Importing this module registers them."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


class ConstantRewardEnv(gymnasium.Env[Array, Array]):
    """Environment with reward 1 for every step, whatever the action.

    With `ends_after` 0 it never ends by itself: under a time limit every value is 1 / (1 - discount). With `ends_after` T it
    terminates after T steps, and k steps before the end the value is (1 - discount^k) / (1 - discount).
    The observation is [steps taken / 10, 1]; without an end it repeats every 5 steps, so that no observation, the final one
    included, tells how long the episode has run.
    """

    def __init__(self, ends_after: int = 0) -> None:
        self.ends_after = ends_after
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.steps = 0

    def _observe(self) -> Array:
        shown = self.steps if self.ends_after else self.steps % 5
        return np.array([shown / 10, 1.0], np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._observe(), 1.0, self.steps == self.ends_after, False, {}


class PayActionEnv(ConstantRewardEnv):
    """Environment with reward 0.5 + a for the action a, terminating after four: the return is 4 for a = 0.5, 0 for a = -0.5."""

    def __init__(self) -> None:
        super().__init__(ends_after=4)

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = super().step(action)
        return observation, 0.5 + float(action[0]), terminated, truncated, info


class CountdownEnv(gymnasium.Env[Array, Array]):
    """Environment that terminates after 2 + seed % 5 steps, so episodes of several seeds end at different times.

    The observation is [steps left, y] with y' = 0.9 y + 0.5 a, y = 1 at the start; the reward is 1 + y'. The range of the
    action is [-2, 2].
    """

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)
        self.left, self.y = 1, 1.0

    def _observe(self) -> Array:
        return np.array([self.left, self.y], np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        self.left, self.y = 2 + (seed or 0) % 5, 1.0
        return self._observe(), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        self.y = 0.9 * self.y + 0.5 * float(action[0])
        return self._observe(), 1.0 + self.y, self.left == 0, False, {}


class SuccessEnv(CountdownEnv):
    """The same, with success at the step after which 2 are left, and not at the last: seeds 5k never succeed."""

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, _ = super().step(action)
        return observation, reward, terminated, truncated, {"success": np.bool_(self.left == 2)}


class DictEnv(CountdownEnv):
    """The same with nested observations, whose keys are not in alphabetical order."""

    def __init__(self) -> None:
        super().__init__()
        box = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        here = gymnasium.spaces.Dict(velocity=gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32), place=box)
        self.observation_space = gymnasium.spaces.Dict([("left", box), ("here", here)])  # type: ignore[assignment]

    def _observe(self) -> Any:
        here = {"velocity": np.array([self.y, -self.y], np.float32), "place": np.array([self.y + 1], np.float32)}
        return {"left": np.array([self.left], np.float32), "here": here}


class PictureEnv(CountdownEnv):
    """The same, drawn as a picture whose grey is 20 for each step left; 50 steps take a second."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 50}

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()
        self.render_mode = render_mode

    def render(self) -> Any:
        return np.full((32, 48, 3), 20 * self.left, np.uint8)


CONSTANT = "VDTTest/Constant-v0"  # never ends by itself
CONSTANT_ENDING = "VDTTest/ConstantEnding-v0"  # terminates after 10 steps
PAY_ACTION = "VDTTest/PayAction-v0"
COUNTDOWN = "VDTTest/Countdown-v0"
SUCCESS = "VDTTest/Success-v0"
DICT = "VDTTest/Dict-v0"
PICTURE = "VDTTest/Picture-v0"

if CONSTANT not in gymnasium.registry:
    gymnasium.register(CONSTANT, entry_point=ConstantRewardEnv)
    gymnasium.register(CONSTANT_ENDING, entry_point=ConstantRewardEnv, kwargs={"ends_after": 10})
    gymnasium.register(PAY_ACTION, entry_point=PayActionEnv)
    gymnasium.register(COUNTDOWN, entry_point=CountdownEnv)
    gymnasium.register(PICTURE, entry_point=PictureEnv)
    gymnasium.register(SUCCESS, entry_point=SuccessEnv)
    gymnasium.register(DICT, entry_point="support.environments:DictEnv")  # by name: Minari keeps it as text

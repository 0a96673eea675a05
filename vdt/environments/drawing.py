"""Environments that draw pictures without a screen."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium

from vdt.config.task import TaskConfig
from vdt.environments import Environment, make_raw_environment
from vdt.system.renderer import RendererError, choose_renderer

RENDER_MODE = "rgb_array"
TRACKING_CAMERA = "track"  # of MuJoCo's models that walk


def make_drawing_environment(task: TaskConfig) -> Environment:
    """Make the environment of a task, whose actions have their own range, so that `draw` works.

    Raises:
        RendererError: if it needs MuJoCo's renderer and none works.
        ValueError: if the task has no environment, or it cannot be made.
    """
    failure = choose_renderer()
    environment = make_raw_environment(task, render_mode=RENDER_MODE)
    if failure and "mujoco" in sys.modules:
        environment.close()
        raise RendererError(failure)
    _follow(environment)
    return environment


def _follow(environment: Environment) -> None:
    """Turn to the camera that follows what walks, where the model has one: Gymnasium 1.4 films from a fixed place."""
    outer = environment.unwrapped
    inner = (part for part in vars(outer).values() if isinstance(part, gymnasium.Env))  # mazes hold the one that draws
    for part in (outer, *inner):
        renderer = getattr(part, "mujoco_renderer", None)
        if renderer is None:
            continue
        import mujoco

        camera = mujoco.mj_name2id(renderer.model, mujoco.mjtObj.mjOBJ_CAMERA, TRACKING_CAMERA)
        if camera >= 0:
            renderer.camera_id = camera


def draw(environment: Environment) -> Any:
    """Draw the present state, (height, width, 3) uint8.

    Raises:
        RendererError: if the environment draws none, or lacks a library for it; where it has no `render` for pictures, it and
            the render mode are named.
    """
    name = environment.spec.id if environment.spec else environment
    try:
        frame: Any = environment.render()
    except (gymnasium.error.Error, ImportError) as error:
        raise RendererError(f"{name}: {error}") from None
    except (NotImplementedError, AssertionError) as error:
        modes = environment.metadata.get("render_modes")
        if isinstance(error, AssertionError) and (modes is None or RENDER_MODE in modes):
            raise  # not Gymnasium's check of the render mode
        raise RendererError(
            f"{name} draws no pictures: its render() must return them in render mode {RENDER_MODE}, (height, width, 3) uint8, "
            f"and its metadata name that mode; now render_modes is {modes}"
        ) from None
    if getattr(frame, "ndim", 0) != 3:
        raise RendererError(f"{name} draws no pictures")
    return frame

"""Choice of MuJoCo's renderer, which must stand in the environment before MuJoCo is imported."""

from __future__ import annotations

import os
import re
import subprocess
import sys

VARIABLE = "MUJOCO_GL"
RENDERERS = ("egl", "osmesa")  # that need no screen
TRIAL = "import mujoco; context = mujoco.GLContext(64, 64); context.make_current(); context.free()"
TRIAL_SECONDS = 120
ERROR = re.compile(r"[\w.]+(Error|Exception): ")  # first line of an exception; others follow from it
HELP = (
    "MuJoCo draws by EGL (apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri, or a GPU's driver) "
    "or by OSMesa (apt-get install libosmesa6)"
)


class RendererError(ValueError):
    """Machine that cannot draw."""


def choose_renderer() -> str:
    """Set `MUJOCO_GL` to the first renderer that works; one that the user has set stays.

    Returns:
        Nothing, or why none works, as one line.

    Raises:
        RendererError: if the one that the user has set does not work; MuJoCo itself may then not even be imported.
    """
    asked = os.environ.get(VARIABLE)
    failures = {}
    for name in (asked,) if asked else RENDERERS:
        failures[name] = try_renderer(name)
        if not failures[name]:
            os.environ[VARIABLE] = name
            return ""
    tried = "; ".join(f"{VARIABLE}={name}: {reason}" for name, reason in failures.items())
    failure = f"no renderer works here. {HELP}. Tried: {tried}"
    if asked:
        raise RendererError(failure)
    return failure


def try_renderer(name: str) -> str:
    """Return why a process of its own cannot draw with a renderer, as one line; nothing if it can."""
    variables = {**os.environ, VARIABLE: name}
    command = [sys.executable, "-c", TRIAL]
    try:
        done = subprocess.run(
            command, env=variables, capture_output=True, text=True, timeout=TRIAL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {TRIAL_SECONDS} s"
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stderr.splitlines() if ERROR.match(line)]
    return lines[0] if lines else f"its process ended with {done.returncode}"

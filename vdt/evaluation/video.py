"""Videos of a trained policy's episodes (extra `[video]`)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdt.agent.policy import Policy, read_count
from vdt.environments import Environment
from vdt.environments.drawing import draw, make_drawing_environment
from vdt.system.extras import check_extra
from vdt.system.files import write_output

SUFFIXES = (".mp4", ".gif")
FRAMES_PER_SECOND = 25  # at most; steps between frames are not drawn


@dataclass(frozen=True)
class Video:
    """Episodes that were written as a video.

    Attributes:
        episode_returns: one per episode, environment units.
        episode_lengths: steps of each episode.
        frames: of all episodes.
        frames_per_second: at which the video shows them in the environment's own time.
    """

    episode_returns: Sequence[float]
    episode_lengths: Sequence[int]
    frames: int
    frames_per_second: float


def check_video(path: Path) -> None:
    """Check that a video can be written in the format that the file's name ends with.

    Raises:
        ValueError: if the format is unknown.
        ExtraError: if its packages are not installed.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"the file of a video ends with {' or '.join(SUFFIXES)}, not {path.name!r}")
    packages = ("imageio", "imageio_ffmpeg") if path.suffix == ".mp4" else ("imageio", "PIL")
    check_extra("video", packages, "a video")


def write_video(
    policy: Policy,
    path: Path,
    *,
    episodes: int = 1,
    seed: int | None = None,
    target_return: float | Sequence[float] | None = None,
) -> Video:
    """Run episodes of a policy in its environment and write them as one video, whole or not at all.

    Args:
        policy: of `load_policy`; its own episodes are dropped.
        path: ends with .mp4 or .gif.
        episodes: how many, one after the other.
        seed: of the first episode, the next has the next; None is `evaluation.seed`.
        target_return: as of `Policy.reset`.

    Raises:
        ValueError: if the policy has no environment, an argument is out of range, or nothing can be drawn; where the
            environment has no `render` for pictures, it and the render mode are named.
        FolderError: if the file cannot be written.
    """
    check_video(path)
    config = policy.config
    if not config.has_environment:
        raise ValueError(f"{config.env} has no environment (task.environment_id is none), so there is nothing to film")
    first = config.evaluation.seed if seed is None else read_count(seed, "seed", 0)
    seeds = range(first, first + read_count(episodes, "episodes"))
    environment = make_drawing_environment(config.task)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / f"video{path.suffix}"
        video = _film(policy, environment, whole, seeds, target_return)
        write_output(path, whole.read_bytes())
    environment.close()
    return video


def _film(
    policy: Policy, environment: Environment, path: Path, seeds: Sequence[int], target: float | Sequence[float] | None
) -> Video:
    """Write the frames of all episodes to `path`."""
    import imageio.v2

    every, rate = choose_frames(float(environment.metadata.get("render_fps") or FRAMES_PER_SECOND))
    shown: dict[str, Any] = (
        {"fps": rate, "macro_block_size": 2} if path.suffix == ".mp4" else {"duration": 1000 / rate, "loop": 0}
    )
    returns, lengths, frames = [], [], 0
    writer: Any = imageio.v2.get_writer(path, **shown)
    with writer:
        for seed in seeds:
            observation, _ = environment.reset(seed=seed)
            policy.reset(target)
            reward, episode_return, length, running = None, 0.0, 0, True
            while running:
                if length % every == 0:
                    writer.append_data(draw(environment))
                    frames += 1
                observation, received, terminated, truncated, _ = environment.step(policy.act(observation, reward))
                reward = float(received)
                episode_return, length = episode_return + reward, length + 1
                running = not (terminated or truncated)
            writer.append_data(draw(environment))
            returns.append(episode_return)
            lengths.append(length)
    return Video(returns, lengths, frames + len(lengths), rate)


def choose_frames(steps_per_second: float) -> tuple[int, float]:
    """Return how many steps a frame stands for, and frames per second in the environment's own time."""
    every = max(1, -int(-steps_per_second // FRAMES_PER_SECOND))
    return every, steps_per_second / every

"""Videos of episodes: whole files with the right frames; one line where nothing can be drawn."""

import sys
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import imageio.v2
import numpy as np
import pytest
import torch

import vdt
import vdt.system.renderer
from support.builders import make_lively_actor_critic
from support.environments import PICTURE, CountdownEnv
from vdt.cli import run
from vdt.environments.drawing import draw, make_drawing_environment
from vdt.evaluation.video import choose_frames, write_video
from vdt.experiments.resolve import resolve_config
from vdt.system.renderer import RendererError, choose_renderer, try_renderer

DRAWN = {"task.environment_id": PICTURE}
WALKER = {
    "task.environment_id": "Walker2d-v4",
    "task.observation_size": 17,
    "task.action_size": 6,
    "task.reference_return_max": 10.0,
}


class MuteEnv(CountdownEnv):
    """The same, and takes a render mode without drawing in any: what an own environment without `render` does."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()
        self.render_mode = render_mode


class HumanEnv(MuteEnv):
    """The same, and draws on a screen alone."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["human"]}


class LazyEnv(MuteEnv):
    """The same, and names the mode without having `render`."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 25}


class BrokenEnv(LazyEnv):
    """The same, with a fault of its own."""

    def render(self) -> Any:
        raise AssertionError("a bug")


for made in (MuteEnv, HumanEnv, LazyEnv, BrokenEnv):
    gymnasium.register(f"VDTTest/{made.__name__}-v0", made)


@pytest.fixture(autouse=True)
def restore_renderer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")  # so that it is as before after the test
    monkeypatch.delenv("MUJOCO_GL")


@pytest.fixture
def no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second saved where MuJoCo draws nothing."""
    monkeypatch.setattr("vdt.environments.drawing.choose_renderer", lambda: "")


def save(path: Path, settings: dict[str, Any]) -> Path:
    torch.save({"actor_critic": make_lively_actor_critic(settings).state_dict()}, path)
    return path


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # of imageio's reader
@pytest.mark.usefixtures("no_trial")
@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_a_video_shows_every_second_step_and_the_last(tmp_path: Path, suffix: str) -> None:
    """Episodes of 6 and 2 steps at 50 steps per second: frames at steps 0, 2, 4, 6 and 0, 2."""
    policy, path = vdt.Policy(make_lively_actor_critic(DRAWN)), tmp_path / f"seen{suffix}"
    video = write_video(policy, path, episodes=2, seed=4)
    assert (video.episode_lengths, video.frames, video.frames_per_second) == ([6, 2], 6, 25.0)
    reader = imageio.v2.get_reader(path)
    frames = [np.asarray(frame)[..., :3] for frame in reader]
    reader.close()
    assert frames[0].shape == (32, 48, 3)
    shown = [round(float(frame.mean()) / 20) for frame in frames]
    assert shown == [6, 4, 2, 0, 2, 0]
    single = vdt.evaluate_policy(policy, episodes=1, seed=4)
    assert video.episode_returns[0] == pytest.approx(single.episode_returns[0], rel=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_frames_keep_the_environments_own_time() -> None:
    assert [choose_frames(rate) for rate in (125, 50, 30, 25, 12)] == [(5, 25), (2, 25), (2, 15), (1, 25), (1, 12)]


@pytest.mark.usefixtures("no_trial")
def test_a_video_that_breaks_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "seen.gif").write_bytes(b"old")
    frames = iter([np.zeros((32, 48, 3), np.uint8)] * 2)  # the third breaks
    monkeypatch.setattr("vdt.evaluation.video.draw", lambda environment: next(frames))
    with pytest.raises(StopIteration):
        write_video(vdt.Policy(make_lively_actor_critic(DRAWN)), tmp_path / "seen.gif", seed=4)
    assert (tmp_path / "seen.gif").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.usefixtures("no_trial")
@pytest.mark.parametrize("output", [[], ["--output", "seen.gif"]])
def test_the_command_says_what_it_wrote_and_keeps_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], output: list[str]
) -> None:
    words = ["video", str(save(tmp_path / "policy.pt", DRAWN)), *output, "--seed", "0"]
    name = output[1] if output else "walker2d-medium-v2-vdt-s0.mp4"
    assert run(words) == 0
    assert capsys.readouterr().out.startswith(f"video: {name}: 2 frames at 25 per second; returns ")
    before = (tmp_path / name).read_bytes()
    assert run(words) == 2 and f"{name} is there already" in capsys.readouterr().err
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize(
    ("settings", "words", "message"),
    [
        (DRAWN, ["--output", "seen.avi"], "the file of a video ends with .mp4 or .gif, not 'seen.avi'"),
        (DRAWN, ["--target-return", "3", "--target-return", "4"], "several --target-return need --lookahead"),
        (DRAWN, ["--episodes", "0"], "episodes must be a whole number of at least 1, not 0"),
        (
            {"task.environment_id": "null", "online.environment_steps": 0},
            [],
            "walker2d-medium-v2 has no environment (task.environment_id is none)",
        ),
        ({}, [], "VDTTest/Countdown-v0 "),
        *(
            (
                {"task.environment_id": f"VDTTest/{name}-v0"},
                [],
                f"VDTTest/{name}-v0 draws no pictures: its render() must return them in render mode rgb_array",
            )
            for name in ("MuteEnv", "HumanEnv", "LazyEnv")
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium's, of the environment that draws nothing
@pytest.mark.usefixtures("no_trial")
def test_wrong_input_is_one_line(
    settings: dict[str, Any], words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["video", str(save(tmp_path / "policy.pt", settings)), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and [path.name for path in tmp_path.iterdir()] == ["policy.pt"]


@pytest.mark.usefixtures("no_trial")
def test_a_fault_of_an_environment_that_draws_is_left_alone(tmp_path: Path) -> None:
    policy = vdt.Policy(make_lively_actor_critic({"task.environment_id": "VDTTest/BrokenEnv-v0"}))
    with pytest.raises(AssertionError, match="a bug"):
        write_video(policy, tmp_path / "seen.gif")


def test_without_a_renderer_one_line_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "nothing")
    assert run(["video", str(save(tmp_path / "policy.pt", WALKER))]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: no renderer works here. MuJoCo draws by EGL (apt-get install libegl1 ")
    assert "OSMesa (apt-get install libosmesa6)" in line and "Tried: MUJOCO_GL=nothing: " in line
    assert [path.name for path in tmp_path.iterdir()] == ["policy.pt"]


def test_the_first_error_of_a_trial_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "class Later:\n def __del__(self): raise ValueError('later')\nlater = Later()\nraise RuntimeError('first')"
    monkeypatch.setattr(vdt.system.renderer, "TRIAL", code)
    assert try_renderer("egl") == "RuntimeError: first"
    monkeypatch.setattr(vdt.system.renderer, "TRIAL", "raise SystemExit(3)")
    assert try_renderer("egl") == "its process ended with 3"


@pytest.mark.slow
def test_the_camera_follows_what_walks() -> None:
    if failure := choose_renderer():
        pytest.skip(failure)
    environment = make_drawing_environment(resolve_config("walker2d-medium-v2").task)
    environment.reset(seed=0)
    inner: Any = environment.unwrapped
    counts = []
    for place in (0.0, 30.0):
        inner.set_state(np.array([place, *inner.data.qpos[1:]]), inner.data.qvel)
        frame = draw(environment).astype(int)
        counts.append(int((frame[..., 0] > frame[..., 2] + 30).sum()))
    environment.close()
    assert counts[0] > 500 and counts[1] > 0.5 * counts[0], "as many pixels of the body as at the start"


def test_a_picture_is_needed() -> None:
    with pytest.raises(RendererError, match="draws no pictures"):
        draw(type("Blind", (), {"render": lambda self: None, "spec": None})())  # type: ignore[arg-type]


def test_a_library_that_drawing_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    environment = gymnasium.make("Pendulum-v1", render_mode="rgb_array")
    environment.reset(seed=0)
    with pytest.raises(RendererError, match="Pendulum-v1: pygame is not installed"):
        draw(environment)

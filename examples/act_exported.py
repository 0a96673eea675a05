"""Act with an exported policy, without vdt: `python examples/act_exported.py FILE.onnx [SEED]`.

`Episode` needs NumPy alone; the loop below it needs onnxruntime, and Gymnasium in the place of a robot.
docs/export.md has the loop for a robot of your own.
"""

import json
import sys

import numpy as np


class Episode:
    """One episode: the last steps, in raw units, as the model takes them."""

    def __init__(self, model, about, target_return=None):
        """Begin; `model` maps the window's arrays to an action, `about` is the file's description."""
        steps, self.forget_steps, self.model = about["context_length"], about["forget_steps"], model
        self.return_to_go = about["candidate_returns"][0] if target_return is None else target_return
        self.length = self.timestep = 0
        self.window = {
            "observations": np.zeros((1, steps, about["observation_size"]), np.float32),
            "actions": np.zeros((1, steps, about["action_size"]), np.float32),
            "returns_to_go": np.zeros((1, steps), np.float32),
            "timesteps": np.zeros((1, steps), np.int64),
            "mask": np.zeros((1, steps), np.bool_),
        }

    def act(self, observation, reward=0.0):
        """Return the next action; `reward` is that of the last action."""
        window, forget = self.window, self.forget_steps
        if window["mask"].all():  # the window is full: the oldest steps make room
            for rows in window.values():
                rows[0, :-forget] = rows[0, forget:]
            window["mask"][0, -forget:] = False
            self.length -= forget
        self.return_to_go -= reward
        window["observations"][0, self.length] = observation
        window["returns_to_go"][0, self.length] = self.return_to_go
        window["timesteps"][0, self.length] = self.timestep
        window["mask"][0, self.length] = True
        action = self.model(window)
        window["actions"][0, self.length] = action
        self.length, self.timestep = self.length + 1, self.timestep + 1
        return action


if __name__ == "__main__":
    import onnxruntime

    if len(sys.argv) not in (2, 3):
        sys.exit(f"usage: {sys.argv[0]} FILE.onnx [SEED]")
    session = onnxruntime.InferenceSession(sys.argv[1])
    about = json.loads(session.get_modelmeta().custom_metadata_map["vdt"])
    config = about["policy"]["config"]
    if config["task.environment_id"] is None or config["task.bridge"] != "none":
        lacks = "has no environment" if config["task.environment_id"] is None else "is played through vdt alone"
        sys.exit(
            f"error: {sys.argv[1]}: {about['policy']['env']} {lacks}; "
            "docs/export.md shows a robot's own loop around the class Episode"
        )
    import gymnasium

    settings = json.loads(config["task.environment_kwargs"])
    environment = gymnasium.make(config["task.environment_id"], max_episode_steps=config["task.horizon"], **settings)
    observation, _ = environment.reset(seed=int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    episode = Episode(lambda window: session.run(["action"], window)[0][0], about)
    reward, episode_return, running = 0.0, 0.0, True
    while running:
        observation, reward, terminated, truncated, _ = environment.step(episode.act(observation, reward))
        episode_return += float(reward)
        running = not (terminated or truncated)
    print(f"{about['policy']['env']}: return {episode_return:.4f}")

"""Act on a robot of your own and keep what happened: `python examples/robot_loop.py POLICY.pt FOLDER [EPISODES]`.

No environment of Gymnasium is needed. `--env data:FOLDER` trains on what was kept.
"""

import sys

import numpy as np

import vdt


class Robot:
    """Cart on a rail, in the place of your robot's driver: it is pushed by a force, and falls off beyond 2."""

    def reset(self) -> np.ndarray:
        """Put the cart somewhere, at rest."""
        self.state = np.array([np.random.uniform(-1, 1), 0.0])
        return self.state

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        """Push for a moment; return position and velocity, the reward, and whether the cart fell off."""
        position, velocity = self.state
        self.state = np.array([position + 0.1 * velocity, velocity + 0.1 * action[0]])
        return self.state, 1.0 - abs(position), bool(abs(position) > 2)


if len(sys.argv) not in (3, 4):
    sys.exit(f"usage: {sys.argv[0]} POLICY.pt FOLDER [EPISODES]")
try:
    policy = vdt.load_policy(sys.argv[1])
except ValueError as error:
    sys.exit(f"error: {error}")
robot = Robot()
if policy.spaces.observation_size != len(robot.reset()):
    sys.exit(
        f"{policy!r} does not fit this cart's two observations: put your robot's driver in the place of class Robot"
    )
writer = vdt.EpisodeWriter(sys.argv[2])
sizes = (policy.spaces.observation_size, policy.spaces.action_size)
if writer.action_size and (writer.observation_size, writer.action_size) != sizes:
    sys.exit(
        f"{sys.argv[2]} holds episodes of another robot; accepted are {sizes[0]} observations and {sizes[1]} actions"
    )
for _ in range(int(sys.argv[3]) if len(sys.argv) > 3 else 10):
    policy.reset()
    observation, reward, path, steps = robot.reset(), None, None, 0
    writer.begin(observation)
    while path is None:
        action = policy.act(observation, reward)
        observation, reward, fell = robot.step(action)
        steps += 1
        path = writer.add(action, reward, observation, terminated=fell, truncated=steps == 100)
    print(f"{path}: {steps} steps")

"""Act with a trained policy in its environment: `python examples/act.py RUN_ID_OR_FILE [SEED]`."""

import sys

import vdt
from vdt.environments import make_raw_environment

policy = vdt.load_policy(sys.argv[1])
if not policy.config.has_environment:
    sys.exit(f"{policy!r} was trained without an environment: examples/robot_loop.py acts on a robot of your own")
environment = make_raw_environment(policy.config.task)  # a Gymnasium environment with D4RL's observations and rewards
observation, _ = environment.reset(seed=int(sys.argv[2]) if len(sys.argv) > 2 else 0)
policy.reset()
reward, episode_return, running = None, 0.0, True
while running:
    observation, reward, terminated, truncated, _ = environment.step(policy.act(observation, reward))
    episode_return += float(reward)
    running = not (terminated or truncated)
print(f"{policy.metadata['env']}: return {episode_return:.4f}")

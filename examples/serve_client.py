"""Play an episode with a served policy: `python examples/serve_client.py ENVIRONMENT_ID [ADDRESS] [SEED]`.

`vdt serve POLICY` or `mlflow models serve` is the server; `docs/serving.md` describes the requests. This side needs
Gymnasium alone, and a robot not even that.
"""

import json
import sys
from urllib.request import Request, urlopen

import gymnasium
import numpy as np


def ask(address: str, history: dict[str, list]) -> list[float]:
    """Ask the server for the next action of one episode."""
    body = json.dumps({"dataframe_records": [history]}).encode()
    with urlopen(Request(f"{address}/invocations", body, {"Content-Type": "application/json"}), timeout=60) as answer:
        return json.load(answer)["predictions"][0]


address = sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:5001"
environment = gymnasium.make(sys.argv[1])
observation, _ = environment.reset(seed=int(sys.argv[3]) if len(sys.argv) > 3 else 0)
history = {"observations": [observation.tolist()], "actions": [], "rewards": []}
running = True
while running:
    action = ask(address, history)
    observation, reward, terminated, truncated, _ = environment.step(np.array(action, np.float32))
    for name, value in (("observations", observation.tolist()), ("actions", action), ("rewards", float(reward))):
        history[name].append(value)
    running = not (terminated or truncated)
print(f"{sys.argv[1]}: return {sum(history['rewards']):.4f} in {len(history['rewards'])} steps")

"""Turn logs into data to train on: `python examples/own_dataset.py LOG.csv FOLDER`.

The log has a row for each step: episode, observation_0, observation_1, ..., action_0, ..., reward, terminated.
"""

import sys

import numpy as np

import vdt

log = np.genfromtxt(sys.argv[1], delimiter=",", names=True)
columns = {kind: [name for name in log.dtype.names if name.startswith(kind)] for kind in ("observation", "action")}
writer = vdt.EpisodeWriter(sys.argv[2])
for episode in np.unique(log["episode"]):
    rows = log[log["episode"] == episode]
    observations, actions = (np.stack([rows[name] for name in columns[kind]], axis=1) for kind in columns)
    writer.write(observations, actions, rows["reward"], terminated=bool(rows["terminated"][-1]))
print(f"python flows/vdt_flow.py run --env data:{writer.folder}")

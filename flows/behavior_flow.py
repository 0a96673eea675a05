"""Trains the behaviour policies that the built-in data source `collected` rolls out.

    python flows/behavior_flow.py run --ladder walker2d

reads params/behavior/walker2d.yaml and writes walker2d.npz (the ladder) and walker2d.json (how it was made) beside it.
Needs stable-baselines3: pip install -e '.[behavior]'
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works with or without an install

from vdt import runtime

runtime.prepare()

from metaflow import FlowSpec, Parameter, step  # noqa: E402  (reads the environment that prepare() sets)


class BehaviorFlow(FlowSpec):
    """Settings -> one PPO run with snapshots -> a ladder of some of them, measured.

    start: reads and checks the settings.
    train: trains, keeps the chosen snapshots, measures each, writes NAME.npz and NAME.json.
    end: prints where they are.
    """

    ladder = Parameter("ladder", help="file of params/behavior/ without suffix", default="walker2d")
    output = Parameter("output", help="folder of the results; empty: params/behavior", default="")
    keep = Parameter("keep", help="snapshots to keep, e.g. '0,10,33'; empty: those of the settings", default="")
    environment_steps = Parameter("environment_steps", help="steps of the run; 0: those of the settings", default=0)
    measure_steps = Parameter("measure_steps", help="environment steps that measure each rung", default=40_000)

    @step
    def start(self) -> None:
        """Read and check the settings."""
        from vdt.training.ladder import FOLDER, change_settings, check_extra, load_settings

        check_extra()
        settings = load_settings(self.ladder)
        self.settings = change_settings(settings, keep=self.keep, environment_steps=self.environment_steps)
        self.folder = str(Path(self.output).resolve() if self.output else FOLDER)
        self.next(self.train)

    @step
    def train(self) -> None:
        """Train, keep, measure, write."""
        from vdt.training.ladder import make_ladder

        runtime.die_with_parent()
        runtime.set_threads(1, threads=1)  # the networks are too small for more
        self.path = str(make_ladder(Path(self.folder), self.ladder, self.settings, self.measure_steps))
        self.next(self.end)

    @step
    def end(self) -> None:
        """Say where the results are."""
        print(f"ladder: {self.path}", flush=True)


if __name__ == "__main__":
    BehaviorFlow()

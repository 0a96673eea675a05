"""Flow that trains the behaviour policies of the built-in data source `collected`.

    python flows/behavior_flow.py run

It reads params/behavior/NAME.yaml for each ladder and writes NAME.npz (the ladder) and NAME.json (its origin) beside
it. It needs stable-baselines3: .venv/bin/pip install -c constraints.txt -e '.[behavior]'
"""

import contextlib
import logging
import sys
from pathlib import Path
from typing import Any

if (Path(__file__).resolve().parents[1] / "vdt").is_dir():  # a clone; engines unpack all beside this file instead
    sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from vdt.system.home import home, prepare
from vdt.system.machine import set_threads
from vdt.system.processes import die_with_parent

prepare()

from metaflow import FlowSpec, Parameter, current, exit_hook, step  # noqa: E402  (reads what prepare() sets)

from flows.command_line import get_command, remember_command  # noqa: E402

logger = logging.getLogger("flows.behavior_flow")


@exit_hook(on_error=["flows.hooks.on_error"])
class BehaviorFlow(FlowSpec):
    """Flow from settings to training runs with snapshots, and to measured ladders of some of these.

    start: reads and checks the settings, fans out over ladders.
    train: trains, keeps the chosen snapshots, measures each, writes NAME.npz and NAME.json.
    report, end: print their paths.
    """

    ladder = Parameter("ladder", help="files of params/behavior/ without suffix, with commas; empty: all", default="")
    output = Parameter("output", help="folder of the results; empty: params/behavior", default="")
    keep = Parameter("keep", help="snapshots to keep, e.g. '0,10,33', or 'all'; empty: those of the file", default="")
    environment_steps = Parameter("environment_steps", help="steps of the run; 0: those of the settings", default=0)
    measure_steps = Parameter("measure_steps", help="environment steps that measure each rung", default=40_000)
    seed = Parameter("seed", help="of environments, network and sampling; -1: that of the settings", default=-1)

    @step
    def start(self) -> None:
        """Read and check the settings."""
        from flows.errors import clear_errors
        from vdt.behavior.ladder import FOLDER, change_settings, list_ladders, load_settings, open_runs
        from vdt.system.extras import check_extra

        with clear_errors():
            check_extra("behavior", ("stable_baselines3",), "training behaviour policies")
            changes = {"keep": self.keep, "environment_steps": self.environment_steps, "seed": self.seed}
            names = self.ladder.split(",") if self.ladder else list_ladders()
            self.settings = {name: change_settings(load_settings(name), **changes) for name in names}
            self.cells = open_runs(self.settings, current.run_id, get_command())
        self.folder = str(Path(self.output).resolve() if self.output else FOLDER)
        self.next(self.train, foreach="cells")

    @step
    def train(self) -> None:
        """Train, keep, measure and write one ladder."""
        from flows.errors import clear_errors
        from flows.stage import open_checkpoints, open_tracker
        from vdt.behavior.ladder import CHECKPOINTS, make_ladder

        die_with_parent()
        set_threads(len(self.cells), threads=1)  # the networks are too small for more
        self.cell, self.mlflow_run_id = self.input, self.input["mlflow_run_id"]
        name = self.cell["key"]
        with clear_errors(), contextlib.closing(open_tracker(self)) as tracker:
            checkpoints = open_checkpoints(name, CHECKPOINTS)
            path = make_ladder(Path(self.folder), name, self.settings[name], self.measure_steps, tracker, checkpoints)
            self.path = str(path)
        self.mlflow_run_id = tracker.run_id  # final once the tracker is closed
        self.next(self.report)

    @step
    def report(self, inputs: Any) -> None:
        """Collect the paths."""
        self.paths = [part.path for part in inputs]
        self.mlflow_run_ids = [part.mlflow_run_id for part in inputs]
        self.next(self.end)

    @step
    def end(self) -> None:
        """Print where the results are."""
        from vdt.tracking import finish_runs

        finish_runs(home(), self.mlflow_run_ids, "FINISHED")
        logger.info("\n".join(f"ladder: {path}" for path in self.paths))


if __name__ == "__main__":
    remember_command(sys.argv)
    BehaviorFlow()

"""Flow of the pipeline: data, critic, policy, online tuning, evaluation, report.

python flows/vdt_flow.py run --env walker2d-medium-v2
"""

import logging
import os
import sys
from pathlib import Path
from typing import Any

if (Path(__file__).resolve().parents[1] / "vdt").is_dir():  # a clone; engines unpack all beside this file instead
    sys.path.insert(1, str(Path(__file__).resolve().parents[1]))
from vdt.system.home import prepare
from vdt.system.processes import follow_parent_early

follow_parent_early(sys.argv)
prepare()  # before Metaflow reads the environment

from metaflow import FlowSpec, Parameter, card, current, exit_hook, package_sources, resources, step  # noqa: E402

from flows.cards import REPORT_CARD  # noqa: E402
from flows.command_line import CHECKED, check_command_line, get_command  # noqa: E402
from flows.errors import clear_errors  # noqa: E402
from flows.initial import keep_initial_policies  # noqa: E402
from flows.live_card import CARD  # noqa: E402
from flows.options import get_options  # noqa: E402
from flows.stage import finish_cells, open_stage  # noqa: E402
from flows.unfinished import forget_unfinished, name_run  # noqa: E402
from vdt.experiments.cells import plan_cells  # noqa: E402

logger = logging.getLogger("flows.vdt_flow")


@package_sources(  # for engines that start steps elsewhere
    [("../flows", "flows"), ("../vdt", "vdt"), ("../params", "params")], suffixes=".py,.yaml,.npz,.json"
)
@exit_hook(on_error=["flows.hooks.on_error"], on_success=["flows.hooks.on_success"])
class VDTFlow(FlowSpec):
    """Value-Guided Decision Transformer, from a data set to a report.

    start            resolve and validate everything, open an MLflow run per cell (env x method x seed)
    fetch_dataset    data set -> checked -> DVC snapshot -> MLflow data set
    pretrain_critic  twin Q and V (M1, M2)
    train_actor      policy by advantage-weighted behaviour and Q (M3)
    seed_buffer      replay buffer with the best offline trajectories
    tune_online      roll out, align returns-to-go (M4), update critic and policy
    evaluate         offline and online policies on the same seeds, with and without the look-ahead (M5, M6)
    report           one table over cells
    end              print all output paths
    """

    env = Parameter("env", help="task names, minari:NAMESPACE/NAME-vN, data:PATH; several with commas", default="")
    preset = Parameter("preset", help="sizes and budgets: smoke, laptop (default), fair, equal-time, paper", default="")
    method = Parameter("method", help="files of params/methods/; several with commas; default vdt", default="")
    seeds = Parameter("seeds", help="whole numbers and ranges, e.g. 0,2 or 0-4; default 0", default="")
    data_seeds = Parameter("data-seeds", help="of collected data, each with every seed; default data.seed", default="")
    source = Parameter("source", help="auto (default), collected, d4rl, minari, or path:FILE", default="")
    overrides = Parameter("set", help='changes, e.g. "critic.expectile=0.8 online.environment_steps=0"', default="")
    sweep = Parameter("sweep", help='values to try, e.g. "actor.q_coefficient=0.1,0.3"; all combinations', default="")
    init_from = Parameter("init-from", help="a trained policy to go on from: a file, a run id, models:/…", default="")
    study = Parameter(
        "study", help="a file of params/studies/, by name or path; the above then override it", default=""
    )
    trial = Parameter("trial", help="number of a trial of the study's search; set by its workers", default="")
    cell_numbers = Parameter("cell", help="of a study only these cells, from 1: 3 or 3-7; without a report", default="")
    reuse = Parameter("reuse", help="of a study's finished cells: exact (default), settings, none", default="")

    register = Parameter("register", help="name in MLflow's registry of models for the final policies", default="")

    @step
    def start(self) -> None:
        """Resolve and validate everything, open the MLflow runs, fan out over cells."""
        with clear_errors():
            checked = CHECKED in os.environ
            words, command = get_options(self), get_command()
            planned = plan_cells(words, current.run_id, command, checked=checked, name_run=name_run)
            self.cells, self.finished, self.study_facts = planned
            self.initial_policies = keep_initial_policies(self)
        self.next(self.fetch_dataset, foreach="cells")

    @step
    def fetch_dataset(self) -> None:
        """Make or find the snapshot and record it in MLflow."""
        self.cell, self.mlflow_run_id = self.input, self.input["mlflow_run_id"]
        with open_stage(self) as stage:
            self.snapshot = stage.fetch_snapshot()
        self.next(self.pretrain_critic)

    @card(type="blank", id=CARD)
    @resources(gpu=1)
    @step
    def pretrain_critic(self) -> None:
        """Train twin Q and V with n-step targets (M1, M2)."""
        with open_stage(self) as stage:
            path, self.critic_shared_from = stage.pretrain_critic()
            self.critic = stage.describe(path)
        self.next(self.train_actor)

    @card(type="blank", id=CARD)
    @resources(gpu=1)
    @step
    def train_actor(self) -> None:
        """Train the Decision Transformer with value guidance (M3)."""
        with open_stage(self) as stage:
            path, self.actor_shared_from = stage.train_actor()
            self.offline_agent = stage.describe(path) if path else None  # none: a search has stopped this trial
        self.next(self.seed_buffer)

    @step
    def seed_buffer(self) -> None:
        """Fill the trajectory buffer with the highest-return offline trajectories."""
        if self.offline_agent and self.cell.get("tunes_online", True):
            with open_stage(self, track=False) as stage:
                from vdt.training.seeding import seed_buffer

                path = seed_buffer(stage.config, stage.load_dataset(), stage.folder / "buffer.hdf5")
                self.buffer = stage.describe(path)
        self.next(self.tune_online)

    @card(type="blank", id=CARD)
    @resources(gpu=1)
    @step
    def tune_online(self) -> None:
        """Roll out, align returns-to-go (M4), sample, update critic and policy."""
        self.agents = {"offline": self.offline_agent} if self.offline_agent else {}
        if self.offline_agent and self.cell.get("tunes_online", True):
            with open_stage(self) as stage:
                path = stage.tune_online()
                best = stage.checkpoints.find_best()
                self.agents = {**self.agents, "online": stage.describe(path)}
                if best not in (None, path):
                    self.agents = {**self.agents, "online_best": stage.describe(best)}
        self.next(self.evaluate)

    @step
    def evaluate(self) -> None:
        """Measure the offline and the online policy on the same seeds."""
        if self.agents:
            with open_stage(self) as stage:
                from dataclasses import replace

                from vdt.evaluation.diagnostics import diagnose
                from vdt.evaluation.evaluate import evaluate_agents
                from vdt.evaluation.fitted_q import estimate_values

                agents = {name: stage.check(file) for name, file in self.agents.items()}
                dataset, held_out = stage.load_episodes()
                evaluation = evaluate_agents(stage.config, agents, stage.tracker, held_out)
                diagnostics = diagnose(stage.config, agents, dataset, stage.tracker)
                values = estimate_values(stage.config, agents, dataset, held_out, stage.tracker)
                self.evaluation = replace(evaluation, diagnostics=diagnostics, values=values)
            stage.keep_result()
        self.next(self.report)

    @card(type=REPORT_CARD)
    @step
    def report(self, inputs: Any) -> None:
        """Report all cells in one table, with uncertainty."""
        from flows.report_step import make_report

        with clear_errors():
            made = make_report(self, inputs)
        self.report_path = made.path
        self.mlflow_run_ids, self.summary = made.mlflow_run_ids, made.summary
        self.next(self.end)

    @step
    def end(self) -> None:
        """Print all output paths."""
        finish_cells(self.mlflow_run_ids)
        forget_unfinished()
        if self.report_path:  # a search's trials are reported together, and so are a study's cells that were run alone
            logger.info(f"report: {Path(self.report_path).with_suffix('.html')}")


if __name__ == "__main__":
    check_command_line(sys.argv)
    VDTFlow()

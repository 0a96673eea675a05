"""Flow that reports the finished cells of a study, without training; missing cells are named.

python flows/report_flow.py run --study params/studies/quick.yaml
"""

import logging
import sys
from pathlib import Path

if (Path(__file__).resolve().parents[1] / "vdt").is_dir():  # a clone; engines unpack all beside this file instead
    sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from vdt.system.home import prepare
from vdt.system.processes import follow_parent_early

follow_parent_early(sys.argv)
prepare()

from metaflow import FlowSpec, Parameter, card, exit_hook, step  # noqa: E402  (reads what prepare() sets)

from flows.cards import REPORT_CARD  # noqa: E402
from flows.command_line import check_command_line  # noqa: E402
from flows.errors import clear_errors  # noqa: E402
from flows.options import get_options  # noqa: E402

logger = logging.getLogger("flows.report_flow")


@exit_hook(on_success=["flows.hooks.on_success"])
class ReportFlow(FlowSpec):
    """Flow that finds the results of a study's cells and writes its report.

    start  write the report, with a card
    end    print its path
    """

    env = Parameter("env", help="instead of the study's", default="")
    preset = Parameter("preset", help="instead of the study's", default="")
    method = Parameter("method", help="instead of the study's", default="")
    seeds = Parameter("seeds", help="instead of the study's", default="")
    data_seeds = Parameter("data-seeds", help="instead of the study's", default="")
    source = Parameter("source", help="instead of the study's", default="")
    overrides = Parameter("set", help="over the study's settings", default="")
    sweep = Parameter("sweep", help="instead of the study's grid", default="")
    init_from = Parameter("init-from", help="the policy that the study's cells began from", default="")
    study = Parameter("study", help="a file of params/studies/, by name or path; not with --sweep", default="")
    trial = Parameter("trial", help="number of a trial of the study's search, instead of all", default="")
    reuse = Parameter("reuse", help="exact, or settings: results of other versions of the code, too", default="")

    @card(type=REPORT_CARD)
    @step
    def start(self) -> None:
        """Find the results and write the report."""
        from flows.report_step import report_study

        with clear_errors():
            made = report_study(get_options(self))
        self.report_path, self.summary = made.path, made.summary
        self.next(self.end)

    @step
    def end(self) -> None:
        """Print the report's path."""
        logger.info(f"report: {Path(self.report_path).with_suffix('.html')}")


if __name__ == "__main__":
    check_command_line(sys.argv)
    ReportFlow()

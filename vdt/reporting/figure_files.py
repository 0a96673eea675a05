"""All figures of a report, written as PNG files with their captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vdt.evaluation.records import CellRecord
from vdt.reporting.aggregates import select_acting
from vdt.reporting.document import CaptionedFigure
from vdt.reporting.figures import Curves, find_diagnostics
from vdt.reporting.frame import Change, Result
from vdt.reporting.maze_figures import draw_mazes
from vdt.reporting.plotting import save_figure
from vdt.reporting.published import Published
from vdt.reporting.score_figures import (
    Profiles,
    draw_changes,
    draw_choices,
    draw_profiles,
    draw_scores,
    draws_mean,
    select_changes,
)
from vdt.system.files import make_file_name

Figures = Mapping[str, Sequence[CaptionedFigure]]  # kind -> figures, one per env and data source

INTERVAL = "bar: mean ± standard error; with one seed, over its episodes"
CAPTIONS = {  # kind -> caption, which says where after its first words
    "scores": "Scores {where}. Hollow dots: seeds; " + INTERVAL + ".",
    "changes": "Changes of the score by look-ahead and online tuning {where}. Paired by seed and episode; "
    + INTERVAL
    + ".",
    "candidates": "Steps at which each requested return was chosen {where}. Numbers: the requested return.",
    "curves": "Learning curves {where}. Mean over seeds, their number in brackets; band: ± standard error.",
    "buffer": "Returns in the replay buffer {where}. Median, and band from 10 % to 90 %; a colour per seed.",
    "held_out": "Action error on held-out episodes {where}. Hollow dots: seeds. Dashed: the error of a constant action.",
    "held_out_calibration": "The critic on held-out episodes {where}. Bins of rising prediction for the data's own "
    "actions, against the discounted return that followed; a line per seed.",
    "values": "Estimated values without an environment {where}. Hollow dots: seeds; " + INTERVAL + ".",
    "requested": "Requested and achieved returns {where}. Mean ± standard error over seeds; dotted: as requested.",
    "calibration": "The critic on the policy's own steps {where}. Bins of rising prediction against the discounted return "
    "that followed; a line per seed; dotted: calibrated.",
    "weights": "Advantage weights (M3) over the data's steps {where}. Mean over seeds.",
    "maze": "Evaluated episodes in their maze {where}. Blue: reached the goal; red: did not; dots: starts.",
    "profiles": "Performance profiles of the offline policies. Share of runs above each score, over the data sets that "
    "all methods have; band: 95 % bootstrap interval.",
}


def write_figures(
    records: Sequence[CellRecord],
    results: Sequence[Result],
    changes: Sequence[Change],
    curves: Curves,
    profiles: Profiles | None,
    published: Published | None,
    folder: Path,
) -> dict[str, list[CaptionedFigure]]:
    """Write every figure that has data; return them by kind, in the order of the tasks.

    Args:
        records: finished cells.
        results: merged over seeds.
        changes: between them.
        curves: learning curves.
        profiles: scores of several methods over tasks that they share; none where nothing is compared.
        published: numbers drawn in grey.
        folder: takes PNG files.
    """
    found: dict[str, list[CaptionedFigure]] = {}

    def keep(kind: str, figure: object, name: str, where: str = "", more: str = "") -> None:
        path = save_figure(figure, folder / name)  # type: ignore[arg-type]
        found.setdefault(kind, []).append(CaptionedFigure(path, CAPTIONS[kind].replace("{where}", where) + more))

    acting = select_acting(records, results)
    settings = {(result.method, result.env): result.setting for result in acting}
    for env, source in dict.fromkeys((r.env, r.snapshot.source) for r in records):
        own = [r for r in records if (r.env, r.snapshot.source) == (env, source)]
        shown, changed = (
            [r for r in acting if (r.env, r.source) == (env, source)],
            [c for c in changes if (c.before.env, c.before.source) == (env, source)],
        )
        file, where = f"{make_file_name(env)}-{source}.png", f"on {env}"
        if shown:
            dashed = " Dashed: the data's mean." if draws_mean(shown) else ""
            keep("scores", draw_scores(shown, own, published), f"scores-{file}", where, dashed)
        if drawn := select_changes(changed, settings):
            some = f" Drawn are {len(drawn)} of {len(changed)}; the table has all." if len(drawn) < len(changed) else ""
            keep("changes", draw_changes(drawn), f"changes-{file}", where, some)
        every = [r for r in results if (r.env, r.source) == (env, source)]
        choices = [r for r in every if len(r.candidate_returns) > 1 and all(r.chosen_candidates)]
        if choices:
            keep("candidates", draw_choices(choices), f"candidates-{file}", where)
        for kind, draw in find_diagnostics(own, curves).items():
            keep(kind, draw(f"{env}, data: {source}"), f"{kind}-{file}", where)
    for env, name, figure in draw_mazes(records):
        keep("maze", figure, name, f"on {env}")
    if profiles is not None:
        keep("profiles", draw_profiles(profiles), "profiles.png")
    return found

"""Episode ends of a flat recording: read from its marks, and compared with the evidence.

Two kinds of evidence show that marks are missing.

- Where `next_observations` are those of the row after nearly everywhere, a row where they are not is an end (a jump).
- A time limit, the environment's own or the one at which episodes are marked, cannot be passed.

`data.episode_ends` sets the consequence. `checked` refuses contradictions of the marks, and `marked` takes the marks as
they are. `jumps` and `horizon` also cut at the jumps, or after `task.horizon` steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vdt.config.schema import Config
from vdt.data.errors import DataError

Flags = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]
FloatRows = npt.NDArray[np.float32]
MARKS = "mark the last row of each episode in 'terminals' (real ends) or 'timeouts' (cuts)"
AS_IT_IS = "--set data.episode_ends=marked takes the marks as they are"
MIN_LIMIT = 10  # a shorter step count is evidence of a limit only if it comes twice
RUNS_ON = (
    "next_observations of the last steps are the first observations of the episodes that follow. They were used, as of a "
    "recording without resets; where it was reset, store what was seen after the last action"
)
MOSTLY_ONE_STEP, MIN_ONE_STEP = 0.5, 10  # share and number of episodes of one step that are odd
RELATIVE, ABSOLUTE = 1e-4, 1e-5  # two records of one observation differ by rounding only


@dataclass(frozen=True)
class EndSettings:
    """Settings of how ends are read.

    Attributes:
        mode: `data.episode_ends`: "checked", "marked", "jumps" or "horizon".
        horizon: longest episode, in steps; none where nothing is known of it.
        own: the data is the user's own (`--env data:PATH`), so that a horizon cuts in any mode.
        named: the user named the file for a task that is known (`--source path:FILE`).
    """

    mode: str = "checked"
    horizon: int | None = None
    own: bool = False
    named: bool = False

    @classmethod
    def from_config(cls, config: Config) -> EndSettings:
        """Return the settings for the file of a configuration."""
        own = config.env.startswith("data:")
        named = not own and config.data.source.startswith("path:")
        return cls(config.data.episode_ends, config.task.horizon, own=own, named=named)

    @property
    def warns(self) -> bool:
        """Return whether doubts are logged as warnings: of files that the user gave, and may mend."""
        return self.own or self.named

    @property
    def cuts(self) -> bool:
        """Return whether episodes are cut at the horizon even where time limits are marked."""
        return self.own or self.mode == "horizon"


@dataclass(frozen=True)
class Succession:
    """Comparison of each row's next observation with the observation of the row after.

    Attributes:
        breaks: (N,) rows where they differ; the last row is none of them.
        found: for the first few of these, the row with that observation; -1 for none.
        moves: whether any two rows after one another have different observations.
    """

    breaks: Flags
    found: Rows
    moves: bool = True

    @property
    def repeats(self) -> bool:
        """Return whether next observations are each row's own observation, and so carry no information."""
        own = self.found == np.flatnonzero(self.breaks)[: len(self.found)]
        return len(own) > 0 and 2 * int(own.sum()) > len(own)

    def judge(self, ends: Flags) -> str:
        """Return "whole", "jumps" (a few rows, which must be ends), "order" (rows out of order) or "unknown"."""
        inside = ~ends[:-1]
        broken = int(self.breaks[:-1][inside].sum())
        if not broken:
            return "whole"
        if 2 * broken <= int(inside.sum()):
            return "jumps"
        ordered = not self.repeats and 2 * int((self.found >= 0).sum()) > len(self.found)
        return "order" if ordered else "unknown"


def compare_successors(observations: FloatRows, following: FloatRows) -> Flags:
    """Return where the next observation of a row (N, S) differs from the observation of the row after (N, S), (N,)."""
    return np.asarray(~np.isclose(following, observations, RELATIVE, ABSOLUTE).all(axis=1))


def find_ends(terminals: Flags, timeouts: Flags, settings: EndSettings, succession: Succession | None = None) -> Rows:
    """Return the index of each episode's last step, rising; the last entry is the last row.

    Ends are the marks, with mode "jumps" the jumps too, and the horizon where no time limit is marked or `settings.cuts`.
    """
    ends = terminals | timeouts
    if settings.mode == "jumps" and succession is not None and succession.judge(ends) == "jumps":
        ends = ends | succession.breaks
    ends[-1] = True
    rows: Rows = np.flatnonzero(ends).astype(np.int64)
    if settings.horizon is None or (timeouts.any() and not settings.cuts):
        return rows
    starts = np.concatenate([[0], rows[:-1] + 1])
    parts = [
        np.append(np.arange(a + settings.horizon - 1, b, settings.horizon), b)
        for a, b in zip(starts, rows, strict=True)
    ]
    return np.concatenate(parts).astype(np.int64)


def check_ends(
    origin: object,
    ends: Rows,
    terminals: Flags,
    timeouts: Flags,
    settings: EndSettings,
    succession: Succession | None = None,
) -> list[str]:
    """Compare ends with the evidence.

    Returns:
        doubts about ends that are accepted, one sentence each.

    Raises:
        DataError: in mode "checked" or worse, naming the first row that contradicts the ends, and the setting that corrects it.
    """
    flags = np.zeros(len(timeouts), np.bool_)
    flags[ends] = True
    verdict = "unknown" if succession is None else succession.judge(flags)
    problem: tuple[str, str] | None
    if inverted := _find_inverted(terminals, timeouts, succession):
        problem = inverted
    elif verdict == "whole":
        return []
    elif succession is not None and verdict == "jumps":
        problem = _describe_jumps(succession, flags, own=settings.own and settings.horizon is None)
    elif succession is not None and verdict == "order":
        problem = _describe_order(succession, flags)
    else:
        problem = _find_passed_limit(ends, terminals, timeouts, settings)
    if problem and settings.mode == "marked":
        return [f"{problem[0]}; the marks were taken as they are"]
    if problem:
        raise DataError(f"{origin}: {problem[0]}. {problem[1]}; {AS_IT_IS}")
    if succession is not None and succession.repeats:
        return ["next_observations repeat each row's own observation: they were not used"]
    if succession is not None:
        return [
            "next_observations are nowhere the observation of the row after, so ends could not be checked with them"
        ]
    return []


def describe_doubts(
    ends: Rows, terminals: Flags, timeouts: Flags, settings: EndSettings, succession: Succession | None
) -> list[str]:
    """Return warnings for the log about ends that `check_ends` accepts, one sentence or two each."""
    warnings = []
    single = _find_single_steps(terminals, timeouts)
    if single and not _goes_on(terminals | timeouts, succession):
        said, advice = single
        warnings.append(f"{said}. {advice}")
    flags = np.zeros(len(timeouts), np.bool_)
    flags[ends] = True
    if succession is None or succession.judge(flags) != "unknown":
        return warnings
    if succession.repeats:
        return [
            *warnings,
            "next_observations repeat each row's own observation, so they were not used. Store what was seen after each "
            "action, or leave them out",
        ]
    inside = ~flags[:-1]
    return [
        *warnings,
        f"next_observations are not the observation of the row after in {int(succession.breaks[:-1][inside].sum())} of "
        f"{int(inside.sum())} rows inside episodes, so ends could not be checked with them. Those of the last steps were used: "
        "unless rows were left out on purpose, correct next_observations, or leave them out",
    ]


def runs_into_next(succession: Succession, marked: Flags, observations: FloatRows) -> bool:
    """Return whether all episodes, of which at least two are followed by another, end where the next begins.

    Where all begin alike, an end there may be a real one.

    Args:
        succession: of the rows.
        marked: (N,) rows that are marked as ends; a recording that was cut at a horizon goes on there.
        observations: (N, S).
    """
    inner = np.flatnonzero(marked[:-1])
    if len(inner) < 2 or succession.breaks[inner].any():
        return False
    first = observations[inner + 1]
    return bool(compare_successors(first, first[:1]).any())  # far from 0 all rows are alike to float32


def _find_single_steps(terminals: Flags, timeouts: Flags) -> tuple[str, str] | None:
    """Find flags by which most episodes have one step; return what was found, and what would invert them."""
    marked = terminals | timeouts
    marked[-1] = True
    lengths = np.diff(np.flatnonzero(marked), prepend=-1)
    single = int((lengths == 1).sum())
    if single < MIN_ONE_STEP or single <= MOSTLY_ONE_STEP * len(lengths):
        return None
    name, flags = max((("terminals", terminals), ("timeouts", timeouts)), key=lambda item: int(item[1].sum()))
    found = f"{name!r} are set in {int(flags.sum())} of {len(flags)} rows, so {single} of {len(lengths)} episodes have one step"
    return found, f"Where they are 1 while an episode goes on, as masks are, store 1 - {name}: 1 in its last row alone"


def _goes_on(marked: Flags, succession: Succession | None) -> bool:
    """Return whether next observations show that most rows marked as ends are none."""
    if succession is None or not succession.moves:
        return False
    inner = np.flatnonzero(marked[:-1])
    return 2 * int(succession.breaks[inner].sum()) < len(inner)


def _find_inverted(terminals: Flags, timeouts: Flags, succession: Succession | None) -> tuple[str, str] | None:
    """Find flags that are set where episodes go on."""
    single = _find_single_steps(terminals, timeouts)
    if single is None or not _goes_on(terminals | timeouts, succession):
        return None
    found, advice = single
    return f"{found}, but next_observations go on in the row after: the flags seem to be no ends", advice


def _describe_jumps(succession: Succession, ends: Flags, *, own: bool) -> tuple[str, str]:
    inside = succession.breaks & ~ends
    row = int(np.argmax(inside))
    lengths = np.diff(np.flatnonzero(ends | succession.breaks), prepend=-1)
    limit = int(lengths.max())
    repeated = own and int((lengths == limit).sum()) > 1
    horizon = f", or after a time limit with --set task.horizon={limit}" if repeated else ""
    return (
        f"row {row} is no end of an episode, but its next_observations are not the observation of row {row + 1} "
        f"({int(inside.sum())} such rows): ends are not marked",
        f"Cut there with --set data.episode_ends=jumps{horizon}, or {MARKS}",
    )


def _describe_order(succession: Succession, ends: Flags) -> tuple[str, str]:
    row, found = int(np.flatnonzero(succession.breaks)[np.argmax(succession.found >= 0)]), succession.found
    return (
        f"row {row} goes on in row {int(found[np.argmax(found >= 0)])}, not in row {row + 1}, as its next_observations say: "
        f"rows are out of order, or of several environments in turn ({int((succession.breaks & ~ends).sum())} such rows)",
        "Accepted are the rows of one episode after another: sort them by environment and time",
    )


def _find_passed_limit(ends: Rows, terminals: Flags, timeouts: Flags, settings: EndSettings) -> tuple[str, str] | None:
    """Find an episode that is longer than a time limit which others obey.

    Ends may have been cut at a horizon. The limit of others is that of the marks alone, since what is left after a cut
    has any length.
    """
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths, marked = ends - starts + 1, np.flatnonzero(terminals | timeouts)
    limited = np.diff(marked, prepend=-1)[timeouts[marked] & (marked < len(timeouts) - 1)]
    if problem := _find_turns(ends, timeouts):
        return problem
    limit, whose = _find_limit(lengths, limited, settings)
    if limit is None:
        return None
    first = int(np.argmax(lengths > limit))
    return (
        f"the episode of rows {starts[first]} to {ends[first]} passes row {starts[first] + limit - 1}, {whose} of {limit} "
        f"steps ({int((lengths > limit).sum())} of {len(ends)} episodes are longer): time limits are not all marked",
        f"Cut there with --set {f'task.horizon={limit}' if settings.own else 'data.episode_ends=horizon'}, or {MARKS}",
    )


def _find_turns(ends: Rows, timeouts: Flags) -> tuple[str, str] | None:
    """Find time limits that always come in the same number of rows, at least two, next to each other."""
    rows = np.flatnonzero(timeouts)
    runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1) if len(rows) else []
    sizes = {len(run) for run in runs}
    if len(runs) < 2 or len(sizes) != 1 or sizes == {1} or len(ends) == len(timeouts):
        return None
    return (
        f"rows {runs[0][0]} to {runs[0][-1]} are all time limits, and so are {sizes.pop()} rows wherever there is one: "
        "rows seem to be of several environments in turn",
        "Accepted are the rows of one episode after another: sort them by environment and time",
    )


def _find_limit(lengths: Rows, limited: Rows, settings: EndSettings) -> tuple[int | None, str]:
    """Find the limit that some episodes pass, and its origin; none if nothing contradicts the marks.

    Args:
        lengths: of all episodes.
        limited: of those that a marked time limit cut.
        settings: with the environment's own limit.
    """
    if settings.horizon is not None and not settings.own:
        longer = int((lengths > settings.horizon).sum())
        multiple = (limited > settings.horizon) & (limited % settings.horizon == 0)
        if longer and (2 * longer < len(lengths) or multiple.any()):  # else it was recorded under another limit
            return settings.horizon, "the environment's time limit"
    if len(limited) < 2:
        return None, ""
    shortest = int(limited.min())
    repeated = int((limited == shortest).sum()) > 1 or (len(limited) > 2 and shortest >= MIN_LIMIT)
    if shortest > 1 and repeated and (limited % shortest == 0).all() and (lengths > shortest).any():
        return shortest, "the time limit at which others are marked,"
    return None, ""


def find_odd_flag(flags: FloatRows) -> int | None:
    """Return the first place of flags (T,) that holds neither 0 nor 1; none if there is none."""
    odd = (flags != 0) & (flags != 1)
    return int(np.argmax(odd)) if odd.any() else None


def find_early_end(flags: FloatRows) -> int | None:
    """Return the first place before the last at which an episode's flags (T,) are set; none if there is none."""
    return int(np.argmax(flags)) if flags[:-1].any() else None

"""Where episodes end: marks that are missing are noticed by the evidence, and what mends them is whole."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.data import make_small_config, write_hdf5
from vdt.config.errors import ConfigError
from vdt.data.errors import DataError
from vdt.datasets.choose import choose_source
from vdt.datasets.d4rl import get_cache_file
from vdt.datasets.ends import EndSettings, find_ends
from vdt.experiments.resolve import resolve_config

LENGTHS = (100, 100, 40, 100, 100, 55, 100)  # 40 and 55 really ended, 100 is the time limit


def make_walks(
    lengths: tuple[int, ...] = LENGTHS, *, limit: int = 100, marked: Any = None, after: bool = True
) -> dict[str, Any]:
    """Episodes in D4RL's schema with reward 1 a step; `marked` says which of the time limits are, none by default."""
    rng, ends = np.random.default_rng(1), np.cumsum(lengths) - 1
    walks = [np.cumsum(rng.normal(size=(n + 1, 2)), axis=0).astype(np.float32) for n in lengths]
    limits = ends[np.array(lengths) == limit]
    rows = np.arange(sum(lengths))
    arrays = {
        "observations": np.concatenate([walk[:-1] for walk in walks]),
        "actions": rng.uniform(-1, 1, (len(rows), 1)).astype(np.float32),
        "rewards": np.ones(len(rows), np.float32),
        "terminals": np.isin(rows, ends[np.array(lengths) != limit]),
        "timeouts": np.isin(rows, limits[list(marked)] if marked is not None else []),
    }
    return {**arrays, "next_observations": np.concatenate([walk[1:] for walk in walks])} if after else arrays


def read(path: Path, overrides: str = "") -> tuple[Any, Any]:
    """Task and recording of own data."""
    config = resolve_config(f"data:{path}", preset="smoke", overrides=overrides)
    return config.task, choose_source(config, path.parent).load()


def test_unmarked_time_limits_are_refused_with_what_mends_them(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "mine.hdf5", make_walks())
    message = (
        r"mine\.hdf5: row 99 is no end of an episode, but its next_observations are not the observation of row 100 "
        r"\(4 such rows\).*--set data\.episode_ends=jumps, or after a time limit with --set task\.horizon=100"
    )
    with pytest.raises(ConfigError, match=message):
        read(path)


@pytest.mark.parametrize("mend", ["task.horizon=100", "data.episode_ends=jumps"])
def test_what_mends_them_moves_references_and_targets_too(tmp_path: Path, mend: str) -> None:
    task, recording = read(write_hdf5(tmp_path / "mine.hdf5", make_walks()), mend)
    assert recording.dataset.lengths.tolist() == list(LENGTHS)
    assert recording.dataset.terminated.tolist() == [n != 100 for n in LENGTHS]
    assert not recording.dataset.final_missing.any()
    assert (task.reference_return_min, task.reference_return_max, task.horizon) == (40, 100, 100)
    assert task.candidate_returns[0] == 100 and task.return_scale == 100


def test_marks_taken_as_they_are_are_noted(tmp_path: Path) -> None:
    task, recording = read(write_hdf5(tmp_path / "mine.hdf5", make_walks()), "data.episode_ends=marked")
    assert recording.dataset.lengths.tolist() == [240, 255, 100] and task.reference_return_max == 255
    assert any("row 99 is no end" in note and "taken as they are" in note for note in recording.notes)


def test_a_horizon_that_does_not_explain_the_jumps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"row 99 is no end .* \(\d such rows\)(?!.*task\.horizon=)"):
        read(write_hdf5(tmp_path / "mine.hdf5", make_walks()), "task.horizon=70")


def test_limits_marked_in_part_are_noticed_by_the_limit_that_is_passed(tmp_path: Path) -> None:
    """Without next observations: three of five limits are marked, so one episode has 240 steps."""
    path = write_hdf5(tmp_path / "mine.hdf5", make_walks(marked=(2, 3, 4), after=False))
    with pytest.raises(ConfigError, match=r"rows 0 to 239 passes row 99, the time limit .* of 100 steps .*horizon=100"):
        read(path)
    task, recording = read(path, "task.horizon=100")
    assert recording.dataset.lengths.tolist() == list(LENGTHS) and task.reference_return_max == 100
    assert recording.dataset.final_missing.tolist() == [n == 100 for n in LENGTHS]


@pytest.mark.parametrize("horizon", [30, 60, 70, 99])
def test_a_horizon_below_the_marked_limit_cuts(tmp_path: Path, horizon: int) -> None:
    """What is left of an episode after a cut is no time limit that the whole ones pass."""
    path = write_hdf5(tmp_path / "mine.hdf5", make_walks((100,) * 6, marked=range(6), after=False))
    _, recording = read(path, f"task.horizon={horizon}")
    rest = [horizon] * (100 // horizon) + [100 % horizon] * (100 % horizon > 0)
    assert recording.dataset.lengths.tolist() == rest * 6


def test_all_marked_is_accepted_without_a_word(tmp_path: Path) -> None:
    for after in (True, False):
        _, recording = read(write_hdf5(tmp_path / "mine.hdf5", make_walks(marked=range(5), after=after)))
        assert recording.dataset.lengths.tolist() == list(LENGTHS) and recording.notes == []


@pytest.mark.parametrize("after", [True, False])
def test_rows_of_environments_in_turn_are_refused(tmp_path: Path, after: bool) -> None:
    """Three environments stepped together, their rows written one after the other."""
    arrays = make_walks((100,) * 6, marked=range(6), after=after)
    turns = np.arange(600).reshape(2, 3, 100).transpose(0, 2, 1).reshape(-1)
    path = write_hdf5(tmp_path / "mine.hdf5", {name: values[turns] for name, values in arrays.items()})
    found = "row 0 goes on in row 3, not in row 1" if after else "rows 297 to 299 are all time limits"
    with pytest.raises(ConfigError, match=rf"{found}.*several environments in turn.*sort them"):
        read(path)


def test_shuffled_rows_are_refused(tmp_path: Path) -> None:
    arrays = make_walks(marked=range(5))
    order = np.random.default_rng(0).permutation(sum(LENGTHS))
    path = write_hdf5(tmp_path / "mine.hdf5", {name: values[order] for name, values in arrays.items()})
    with pytest.raises(ConfigError, match="rows are out of order"):
        read(path)


def get_warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("source", ["data:", "path:"])
def test_next_observations_that_do_not_fit_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, source: str
) -> None:
    """Of files that the user names, in the log, and in the card by the sentence that stands there as ever."""
    arrays = make_walks((100,) * 5, marked=range(5))
    noise = np.random.default_rng(5).normal(size=arrays["observations"].shape)
    cases = {
        "next_observations are not the observation of the row after in 495 of 495 rows inside episodes": noise,
        "next_observations repeat each row's own observation, so they were not used": arrays["observations"],
    }
    for sentence, following in cases.items():
        caplog.clear()
        path = write_hdf5(tmp_path / "mine.hdf5", {**arrays, "next_observations": following})
        if source == "data:":
            read(path)
        else:
            choose_source(make_small_config(f"path:{path}", horizon=100), tmp_path).load()
        (said,) = get_warnings(caplog)
        assert f"mine.hdf5: {sentence}" in said
    caplog.clear()
    read(write_hdf5(tmp_path / "mine.hdf5", arrays))
    assert get_warnings(caplog) == []


def invert(arrays: dict[str, Any]) -> dict[str, Any]:
    """The same with flags that are set while an episode goes on."""
    return {**arrays, "terminals": ~np.asarray(arrays["terminals"])}


def test_inverted_flags_are_refused_where_next_observations_go_on(tmp_path: Path) -> None:
    walks = make_walks((40, 55, 61))
    for name, arrays in {
        "terminals": invert(walks),
        "timeouts": {**walks, "timeouts": np.ones(156, bool)},
    }.items():
        path = write_hdf5(tmp_path / f"{name}.hdf5", arrays)
        message = (
            rf"{name}\.hdf5: '{name}' are set in 15[36] of 156 rows, so 15\d of 15\d episodes have one step, but "
            rf"next_observations go on in the row after.*store 1 - {name}.*data\.episode_ends=marked"
        )
        with pytest.raises(ConfigError, match=message):
            read(path)
        _, recording = read(path, "data.episode_ends=marked")
        assert len(recording.dataset) >= 154


def test_inverted_flags_are_warned_of_where_nothing_proves_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    arrays = invert(make_walks((40, 55, 61), after=False))
    _, recording = read(write_hdf5(tmp_path / "mine.hdf5", arrays))
    (said,) = get_warnings(caplog)
    assert "'terminals' are set in 153 of 156 rows, so 152 of 154 episodes have one step. " in said
    assert "store 1 - terminals" in said and not any("one step" in note for note in recording.notes)


@pytest.mark.parametrize("kind", ["other contexts", "one context", "far away", "cut by the horizon"])
def test_episodes_of_one_step_are_possible(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    """A bandit: what comes after a step is not the next episode's context, or all contexts are alike to float32."""
    rng, rows = np.random.default_rng(3), 40
    contexts, after = rng.normal(size=(2, rows, 2)).astype(np.float32)
    contexts, after = {
        "other contexts": (contexts, after),
        "one context": (np.ones_like(contexts), np.ones_like(contexts)),
        "far away": (contexts + 5.5e6, after + 5.5e6),
        "cut by the horizon": (contexts, np.roll(contexts, -1, axis=0)),
    }[kind]
    marked = np.full(rows, kind != "cut by the horizon")
    arrays = {"observations": contexts, "next_observations": after, "actions": rng.uniform(-1, 1, (rows, 1))}
    arrays |= {"rewards": rng.normal(size=rows), "terminals": marked, "timeouts": np.zeros(rows, bool)}
    overrides = "task.horizon=1" if kind == "cut by the horizon" else ""
    _, recording = read(write_hdf5(tmp_path / "mine.hdf5", arrays), overrides)
    assert recording.dataset.lengths.tolist() == [1] * rows
    assert [("have one step" in said) for said in get_warnings(caplog)] == [True] * bool(marked.all())


def test_next_observations_that_say_nothing(tmp_path: Path) -> None:
    arrays = make_walks(marked=range(5))
    noise = np.random.default_rng(5).normal(size=arrays["observations"].shape)
    _, recording = read(write_hdf5(tmp_path / "mine.hdf5", {**arrays, "next_observations": noise}))
    assert ["could not be checked" in note for note in recording.notes] == [True]
    _, recording = read(write_hdf5(tmp_path / "mine.hdf5", {**arrays, "next_observations": arrays["observations"]}))
    assert ["repeat each row's own observation" in note for note in recording.notes] == [True]
    assert recording.dataset.final_missing.tolist() == [n == 100 for n in LENGTHS]


@pytest.mark.parametrize("reset", ["rolled", "right", "one start", "far away"])
def test_next_observations_of_the_next_episode_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, reset: str
) -> None:
    """Made with np.roll, the observation after an episode is the first of the next; far from 0 all look alike."""
    arrays = make_walks((100,) * 4, marked=range(4))
    if reset in ("rolled", "one start"):
        arrays["next_observations"] = np.roll(arrays["observations"], -1, 0)
    if reset == "far away":
        for name in ("observations", "next_observations"):
            arrays[name] = arrays[name] + np.float32(5.5e6)
    if reset == "one start":
        arrays["observations"][::100] = arrays["next_observations"][99::100] = 0
        arrays["next_observations"][:-1] = arrays["observations"][1:]
    _, recording = read(write_hdf5(tmp_path / "mine.hdf5", arrays))
    warned = reset == "rolled"
    assert [("first observations of the episodes that follow" in note) for note in recording.notes] == [True] * warned
    assert ("first observations of the episodes that follow" in caplog.text) == warned


def test_a_recording_that_a_horizon_cuts_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, recording = read(write_hdf5(tmp_path / "mine.hdf5", make_walks((500,), limit=500)), "task.horizon=100")
    assert recording.dataset.lengths.tolist() == [100] * 5 and not any("first obs" in note for note in recording.notes)
    assert "first observations" not in caplog.text


def test_the_environments_own_limit_is_held_against_a_file(tmp_path: Path) -> None:
    """A named task of 100 steps; its file marks two of five limits."""
    path = write_hdf5(tmp_path / "mine.hdf5", make_walks(marked=(3, 4), after=False))
    config = make_small_config(f"path:{path}", horizon=100)
    with pytest.raises(DataError, match=r"passes row 99, the environment's time limit of 100 .*episode_ends=horizon"):
        choose_source(config, tmp_path).load()
    mended = make_small_config(f"path:{path}", horizon=100, data__episode_ends="horizon")
    assert choose_source(mended, tmp_path).load().dataset.lengths.tolist() == list(LENGTHS)
    assert choose_source(mended, tmp_path).key != choose_source(config, tmp_path).key


def test_demonstrations_longer_than_the_environments_limit_are_accepted(tmp_path: Path) -> None:
    """As D4RL's human ones: most are longer, at no multiple of it."""
    path = write_hdf5(tmp_path / "mine.hdf5", make_walks((130, 110, 90, 140), limit=110, marked=(0,), after=False))
    recording = choose_source(make_small_config(f"path:{path}", horizon=100), tmp_path).load()
    assert recording.dataset.lengths.tolist() == [130, 110, 90, 140]


def test_files_of_d4rl_are_taken_as_they_are(tmp_path: Path) -> None:
    config = make_small_config("d4rl", horizon=100)
    get_cache_file(config.task.d4rl_url).parent.mkdir(parents=True)
    write_hdf5(get_cache_file(config.task.d4rl_url), make_walks(marked=(0,)))
    recording = choose_source(config, tmp_path).load()
    assert recording.dataset.lengths.tolist() == [100, 140, 255, 100]
    assert any("row 199 is no end" in note for note in recording.notes)


def test_jumps_are_found_where_blocks_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for rows in (1, 7, 100, 101):
        monkeypatch.setattr("vdt.datasets.hdf5.BLOCK_ROWS", rows)
        path = write_hdf5(tmp_path / f"{rows}.hdf5", make_walks())
        _, recording = read(path, "data.episode_ends=jumps")
        assert recording.dataset.lengths.tolist() == list(LENGTHS)


def test_a_file_is_scanned_again_when_it_has_changed(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "mine.hdf5", make_walks(marked=range(5)))
    assert read(path)[0].reference_return_max == 100
    with h5py.File(path, "a") as file:
        file["rewards"][...] = 2.0
        file["more"] = 1
    assert read(path)[0].reference_return_max == 200


def test_npz_episodes_are_cut_at_the_horizon_with_references_and_targets(tmp_path: Path) -> None:
    (folder := tmp_path / "mine").mkdir()
    for k, (steps, ended) in enumerate(((50, True), (20, False))):
        observations = np.arange(2.0 * (steps + 1)).reshape(-1, 2)
        actions, rewards = np.linspace(-1, 1, steps)[:, None], np.ones(steps)
        np.savez(folder / f"{k}.npz", observations=observations, actions=actions, rewards=rewards, terminated=ended)
    task, recording = read(folder, "task.horizon=20")
    assert recording.dataset.lengths.tolist() == [20, 20, 10, 20]
    assert recording.dataset.terminated.tolist() == [False, False, True, False]
    assert recording.dataset[1].observations[-1].tolist() == [80, 81] == recording.dataset[2].observations[0].tolist()
    assert (task.reference_return_min, task.reference_return_max) == (10, 20)


@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40),
    st.integers(1, 45),
    st.sampled_from(["marked", "horizon"]),
)
def test_ends_equal_the_walk(flags: list[tuple[bool, bool]], horizon: int, mode: str) -> None:
    terminals, timeouts = (np.array(column) for column in zip(*flags, strict=True))
    expected, steps, cuts = [], 0, mode == "horizon" or not timeouts.any()
    for row in range(len(flags)):
        steps += 1
        if terminals[row] or timeouts[row] or row == len(flags) - 1 or (cuts and steps == horizon):
            expected.append(row)
            steps = 0
    assert find_ends(terminals, timeouts, EndSettings(mode, horizon)).tolist() == expected

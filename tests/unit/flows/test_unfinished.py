"""Single cells of a study: which are run, continued or finished, and what is refused."""

import contextlib
from pathlib import Path

import pytest

from flows import lineage, unfinished
from flows.command_line import CHECKED, COMMAND, MEMORY_KILLS, check_command_line
from support.flow import ENV, FLOW
from vdt.experiments.cells import compute_identities, resolve_cells
from vdt.experiments.results_store import find_unfinished
from vdt.system.files import write_text
from vdt.system.locks import try_lock

STUDY = f"""
preset: smoke
source: collected
envs: [{ENV}]
methods: [vdt, bc]
seeds: [0, 1]
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (unfinished.UNFINISHED, CHECKED, COMMAND, MEMORY_KILLS):
        monkeypatch.setenv(name, "")  # set by the command line, and restored after the test
    monkeypatch.setattr(unfinished, "_held", contextlib.ExitStack())
    monkeypatch.setattr(unfinished, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(lineage, "count_completed", lambda flow, run_id: COUNTS.get(run_id, 0))
    path = tmp_path / "four.yaml"
    path.write_text(STUDY)
    return path


COUNTS: dict[str, int] = {}


def run(*words: str) -> list[str]:
    argv = [str(FLOW), "--no-pylint", "run", *words]
    check_command_line(argv)
    return argv


def find_folder(study: Path, cell: str, home: Path) -> Path:
    cells, _ = resolve_cells({"study": str(study), "cell": cell})
    return find_unfinished(home, compute_identities(cells))


@pytest.mark.parametrize(
    ("cell", "keys"),
    [
        ("1", ["vdt-s0"]),
        ("2-3", ["vdt-s1", "bc-s0"]),
        ("4,1", ["vdt-s0", "bc-s1"]),
        ("1-4", ["vdt-s0", "vdt-s1", "bc-s0", "bc-s1"]),
    ],
)
def test_cells_are_picked_by_number_in_the_studys_order(study: Path, cell: str, keys: list[str]) -> None:
    cells, _ = resolve_cells({"study": str(study), "cell": cell})
    assert [cell.key.removeprefix(f"{ENV}-") for cell in cells] == keys


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cell", "5"], "--cell: the cells of {study} have the numbers 1 to 4, not 5"),
        (["--cell", "0-2"], "--cell: the cells of {study} have the numbers 1 to 4, not 0"),
        (["--cell", "first"], "--cell takes whole numbers from 1, and ranges such as 1-5"),
        (["--cell", "3-2"], "--cell: the range 3-2 falls; 2-3 is accepted"),
        (["--cell", "1", "--register", "a"], "--register does not go with --cell"),
        (["--cell", "1", "--run-id-file", "f"], "--run-id-file does not go with --cell"),
    ],
)
def test_wrong_numbers_are_refused(
    study: Path, home: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        run("--study", str(study), *words)
    assert message.format(study=study) in capsys.readouterr().err
    assert not (home / ".vdt" / "unfinished").exists()


def test_a_run_without_a_study_has_no_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("--env", ENV, "--cell", "1")
    assert "--cell takes numbers of a study's cells" in capsys.readouterr().err


def test_a_first_try_leaves_its_runs_id(study: Path, home: Path) -> None:
    argv = run("--study", str(study), "--cell", "3")
    folder = find_folder(study, "3", home)
    assert argv[2:] == ["run", "--study", str(study), "--cell", "3", "--run-id-file", str(folder / "try-00001.txt")]
    assert unfinished.name_run("cell") == unfinished.name_run("cell"), "a start that is repeated makes no second run"
    unfinished.forget_unfinished()
    assert not folder.exists()


def test_the_same_line_goes_on_with_the_run_that_got_farthest(study: Path, home: Path) -> None:
    """The last try was stopped while it took over what the second had finished."""
    folder = find_folder(study, "3", home)
    for number, run_id in enumerate(("11", "22", "33"), start=1):
        write_text(folder / f"try-{number:05d}.txt", run_id)
    COUNTS.update({"11": 2, "22": 4, "33": 1})
    argv = run("--study", str(study), "--cell", "3", "--max-workers", "1")
    file = str(folder / "try-00004.txt")
    assert argv[1:] == [
        *("--no-pylint", "resume", "--origin-run-id", "22", "--max-workers", "1", "--run-id-file", file)
    ]
    COUNTS.update({"33": 4})
    assert unfinished.choose_origin(["11", "22", "33"]) == "33", "the newer of two that got as far"
    assert unfinished.choose_origin(["44"]) is None, "a run that never got to its cells"


def test_a_cell_of_another_process_is_not_run(study: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells, _ = resolve_cells({"study": str(study), "cell": "2"})
    (identity,) = compute_identities(cells)
    lock = home / ".vdt" / "locks" / f"run-{identity}-{unfinished.compute_code_digest()}.lock"
    with try_lock(lock) as held, pytest.raises(SystemExit):
        assert held
        run("--study", str(study), "--cell", "1-2")
    assert f"cell {cells[0].key} is run by another process" in capsys.readouterr().err

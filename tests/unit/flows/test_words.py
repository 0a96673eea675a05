"""Words of the command line that belong nowhere are named, with what was probably meant."""

import sys
from pathlib import Path

import pytest

from flows.command_line import COMMAND, check_command_line, get_command, get_training_command
from flows.options import get_options
from flows.words import COMMANDS, RUN_OPTIONS

ENV = ["--env", "walker2d-medium-v2"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (ENV, "the word run is missing: python flows/vdt_flow.py run --env walker2d-medium-v2"),
        (["--quiet", *ENV], "the word run is missing: python flows/vdt_flow.py run --quiet --env walker2d-medium-v2"),
        (
            ["rnu", *ENV],
            "the word run is missing, 'rnu' is no command: python flows/vdt_flow.py run --env walker2d-medium-v2",
        ),
        ([*ENV, "run"], "--env stands before the word run, but belongs after it: python flows/vdt_flow.py run"),
        (["run", *ENV, "foo"], "'foo' belongs to no option; several values of one option are separated by commas"),
        (["run", "foo", *ENV], "'foo' belongs to no option"),
        (["run", "--tag", "a", "foo", *ENV], "'foo' belongs to no option"),
        (["run", "--tag=a", "foo", *ENV], "'foo' belongs to no option"),
        (["run", *ENV, "--seeds", "0", "1"], "'1' belongs to no option; several values of one option are separated"),
        (
            ["run", *ENV, "--set", "critic.n_step=3", "critic.discount=1"],
            "'critic.discount=1' belongs to no option; several changes are one value, in quotes: --set \"KEY=VALUE",
        ),
        (["run", "--evn", "walker2d-medium-v2"], "no such option: --evn; did you mean '--env'?"),
        (["run", "--evn=walker2d-medium-v2"], "no such option: --evn; did you mean '--env'?"),
        (["run", *ENV, "--seed", "0"], "no such option: --seed; did you mean '--seeds'"),
        (["run", *ENV, "--max-worker", "2"], "no such option: --max-worker; did you mean '--max-workers'"),
        (["run", "--env"], "--env needs a value"),
        (["--init-from", "a.pt"], "the word run is missing: python flows/vdt_flow.py run --init-from a.pt"),
        (["run", *ENV, "--init-from", "a.pt", "b.pt"], "'b.pt' belongs to no option"),
        (
            ["run", *ENV, "--set", "critic.n_step=3", "--set", "critic.discount=1"],
            '--set is given twice, and one would be lost; several changes are one value, in quotes: --set "KEY=VALUE',
        ),
        (
            ["run", *ENV, "--seeds=0", "--seeds", "1"],
            "--seeds is given twice, and one would be lost; several values of",
        ),
        (["run", "--env", "--preset", "smoke"], "--env needs a value"),
        (
            ["run", *ENV, "--set", "lr=1e-3"],
            "--set: unknown key 'lr'; did you mean 'critic.learning_rate' or 'actor.learning",
        ),
    ],
)
def test_words_that_belong_nowhere_are_named(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.command_line._python", lambda: "python")
    with pytest.raises(SystemExit) as caught:
        check_command_line(["flows/vdt_flow.py", *words])
    said = capsys.readouterr()
    assert (caught.value.code, said.out) == (2, "")
    (line,) = said.err.splitlines()
    assert line.startswith("error: " + message)


@pytest.mark.parametrize(
    "words",
    [["show"], ["--help"], ["run", "--help", "foo"], ["card", "view", "12/report/3"], ["dump", "12/start"], []],
)
def test_other_commands_are_left_to_metaflow(words: list[str]) -> None:
    argv = ["flows/vdt_flow.py", *words]
    check_command_line(argv)
    assert argv[1:] == words


def test_every_option_of_metaflows_run_is_known() -> None:
    from metaflow.cli_components.run_cmds import run

    assert {word for option in run.params for word in option.opts} == set(RUN_OPTIONS)


def test_every_command_of_metaflow_is_known() -> None:
    """Engines start steps by commands that no help page lists, such as `init` and `spin-step`."""
    from metaflow import cli

    assert set(cli.start.list_commands(None)) <= set(COMMANDS)


def test_commands_name_the_environment_that_is_not_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A virtual environment's interpreter links to the one that made it, which lacks the packages."""
    base, venv = tmp_path / "base" / "python", tmp_path / "venv" / "python"
    for link, target in ((base, sys.executable), (venv, base)):
        link.parent.mkdir()
        link.symlink_to(target)
    monkeypatch.delenv("VDT_COMMAND", raising=False)
    monkeypatch.setattr(sys, "executable", str(venv))
    monkeypatch.setenv("PATH", str(base.parent))
    assert get_command() == "venv/python flows/vdt_flow.py", "relative below the present folder, as README has it"
    monkeypatch.chdir(base.parent)
    assert get_command() == f"{venv} flows/vdt_flow.py"
    monkeypatch.setenv("PATH", str(venv.parent))
    assert get_command() == "python flows/vdt_flow.py"


def test_the_report_names_the_flow_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """A winner's command and the next run's: the flow that only reports can run neither."""
    for flow in ("vdt_flow.py", "report_flow.py"):
        monkeypatch.setenv(COMMAND, f"python flows/{flow}")
        assert get_training_command() == "python flows/vdt_flow.py"


def test_a_run_that_began_before_an_option_existed_is_resumed_without_it() -> None:
    """Metaflow raises KeyError, not AttributeError, for a parameter that the first run has not stored."""

    class Resumed:
        env = "walker2d-medium-v2"

        def __getattr__(self, name: str) -> str:
            raise KeyError(name)

    options = get_options(Resumed())
    assert options["env"] == "walker2d-medium-v2" and options["cell"] == ""

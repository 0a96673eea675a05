"""Commands that list what a run can be given: settings, tasks, methods, presets and studies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vdt.cli.application import app


@app.command("keys")
def list_keys(
    pattern: Annotated[str, typer.Argument(help="Part of a name, or with *; another name, such as lr; a word.")] = "",
) -> None:
    """Show settings: default, range, meaning, source."""
    from vdt.config.errors import ConfigError, suggest_key
    from vdt.config.reference import find_knobs, list_knobs
    from vdt.config.schema import KEYS

    knobs = find_knobs(pattern) if pattern else list_knobs()
    if not knobs:
        raise ConfigError(f"no key matches {pattern!r}{suggest_key(pattern, KEYS)}")
    for knob in knobs:
        presets = [f"{name}: {value}" for name, value in knob.presets.items()]
        source = f" (source: {knob.source})" if knob.source else ""
        typer.echo(f"{knob.name} = {', '.join([knob.default or '(the task or the command line says it)', *presets])}")
        typer.echo(f"    accepted: {knob.accepted}\n    {knob.meaning}{source}\n")


@app.command("tasks")
def list_tasks() -> None:
    """List tasks, and where their data may come from."""
    from vdt.config.layers import load_tasks

    for name, facts in load_tasks().items():
        recipe = facts.get("task.collected.ladder") or facts.get("task.collected.controller", "none") != "none"
        named = {"collected": recipe, "d4rl": facts["task.d4rl_url"], "minari": facts.get("task.minari_ids")}
        sources = ", ".join(source for source, there in named.items() if there)
        typer.echo(f"{name:<30}{facts['task.environment_id']:<24}{sources}")


@app.command("methods")
def list_methods() -> None:
    """List the methods, and what each is."""
    _list_files("methods")


@app.command("presets")
def list_presets() -> None:
    """List the presets, and what each is for."""
    _list_files("presets")


@app.command("equal-time")
def write_equal_time(
    seconds: Annotated[float, typer.Argument(help="Processor time of a cell's training.", min=1)],
    env: Annotated[str, typer.Option(help="Task whose sizes are measured.")],
    methods: Annotated[str, typer.Option(help="Separated by commas; by default all.")] = "",
    preset: Annotated[str, typer.Option(help="Whose steps are scaled.")] = "fair",
    changes: Annotated[
        str, typer.Option("--set", metavar="CHANGES", help="Changed settings of the runs that are to train so.")
    ] = "",
    output: Annotated[Path | None, typer.Option(help="File; by default params/presets/equal-time.yaml.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
) -> None:
    """Measure training steps on this machine, and write the preset by which all methods train equally long."""
    from vdt.config.layers import PARAMS, list_names
    from vdt.experiments.equal_time import make_preset, names_all
    from vdt.experiments.ranges import split_words
    from vdt.system.files import check_output, write_output

    default = PARAMS / "presets" / "equal-time.yaml"
    path = output or default
    check_output(path, overwrite=overwrite or output is None)
    names = split_words(methods, "--methods") if methods else list_names("methods")
    if output is None and path.exists() and not overwrite and not names_all(names):
        raise ValueError(
            f"--methods {methods}: {path} is there already and names every method, which this would undo; name another file "
            "(--output), or --overwrite replaces it"
        )
    text, lines = make_preset(seconds, names, env, preset, changes)
    write_output(path, text.encode())
    use = "--study equal-time trains with it"
    if path.resolve() != default.resolve():
        use = f"as {default.with_name('NAME.yaml')}, --preset NAME trains with it"
    typer.echo("\n".join([*lines, f"written: {path}; {use}"]))


@app.command("studies")
def list_studies() -> None:
    """List studies: many runs, and the table they fill."""
    _list_files("studies")


def _list_files(folder: str) -> None:
    """Print the names of a folder of params/, with the first sentence of each file's comment."""
    from vdt.config.layers import PARAMS, list_names

    names = list_names(folder)
    width = max(map(len, names)) + 2
    for name in names:
        lines = (PARAMS / folder / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
        comment = " ".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))
        typer.echo(f"{name:<{width}}{comment.partition('. ')[0].rstrip('.')}")

"""Commands on trained policies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vdt.cli.application import app

if TYPE_CHECKING:
    from vdt.agent.policy import Policy

ACCEPTED = "a checkpoint file (.pt) of train_actor or tune_online"

Where = Annotated[str, typer.Argument(metavar="POLICY", help=f"Trained policy: {ACCEPTED}.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")]


@app.command("export")
def export(
    where: Where,
    form: Annotated[str, typer.Option("--format", help="onnx, or torchscript.")] = "onnx",
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="By default ENV-METHOD-sSEED.onnx or .torchscript, here.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a policy for programs without vdt: tensors in, action out.

    The model acts as the policy does without look-ahead. Its inputs and a loop that acts: docs/export.md.
    """
    _refuse_env(where, "and `vdt data {} --minari` writes its collected data as a Minari data set")
    from vdt.agent.export import FORMATS, check_format, export_policy
    from vdt.system.files import check_output, write_output

    check_format(form)
    if output is not None:
        check_output(output, overwrite=overwrite)
    policy = load(where)
    known = policy.metadata
    path = output or Path(f"{policy.config.file_name}-{known['method']}-s{known['seed']}{FORMATS[form]}")
    check_output(path, overwrite=overwrite)
    exported = export_policy(policy, form)
    write_output(path, exported.content)
    typer.echo(
        f"export: {path} ({len(exported.content) / 1e6:.1f} MB), a window of {exported.about['context_length']} steps; "
        f"largest difference of its actions from the policy's: {exported.difference:.0e}"
    )


def load(where: str, *, lookahead: bool = False) -> Policy:
    """Load the policy that a command names.

    Raises:
        ValueError: if it is an env, or no policy can be loaded.
    """
    _refuse_env(where, f"and POLICY is a trained policy: {ACCEPTED}")
    from vdt.agent.policy import load_policy

    return load_policy(where, lookahead=lookahead)


def _refuse_env(where: str, answer: str) -> None:
    """Refuse the name of an env in the place of a policy; `{}` in the answer is its name."""
    from vdt.config.layers import load_tasks

    if where in load_tasks() or where.startswith(("minari:", "data:")):
        raise ValueError(f"{where!r} is an env, {answer.replace('{}', where)}")

"""The application that each module of `vdt.cli` adds its commands to."""

from __future__ import annotations

import typer

app = typer.Typer(
    name="vdt",
    help="Trained policies, data sets, settings and tracking of the Value-Guided Decision Transformer.\n\n"
    'To train: python flows/vdt_flow.py run --env ENV [--preset laptop] [--method vdt] [--seeds 0-4] [--set "KEY=VALUE"]',
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command("run", hidden=True, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def refuse_run() -> None:
    """Refuse a command that `vdt` does not have, and name the one that starts training."""
    raise ValueError("runs are started by `python flows/vdt_flow.py run --env ENV`")

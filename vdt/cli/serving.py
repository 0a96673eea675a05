"""Commands that put trained policies to use: a server, and the registry of models."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Annotated

import typer

from vdt.cli.application import app
from vdt.cli.policies import Cell, Name, Where
from vdt.system.home import home


@app.command("serve")
def serve_policy(
    where: Where,
    name: Name = None,
    cell: Cell = None,
    port: Annotated[int, typer.Option(help="Of the address; 0 takes a free one.", min=0, max=65535)] = 5001,
    lookahead: Annotated[
        bool | None, typer.Option(help="Choose among candidate returns, or not; by default as the policy was tuned.")
    ] = None,
) -> None:
    """Serve a policy at 127.0.0.1: requests for actions, until Ctrl-C or SIGTERM.

    It is MLflow's scoring server, for this machine alone. Each request carries the history of one episode or of several:
    docs/serving.md.
    """
    from vdt.agent.addresses import find_policy
    from vdt.agent.policy import load_policy
    from vdt.serving.model_files import looks_ahead

    with _interrupt_when_terminated(), find_policy(where, name=name, cell=cell) as found:
        policy = load_policy(found.path, config=found.config)
        possible = looks_ahead(policy.config)
        if lookahead and not possible:
            raise ValueError(
                "--lookahead needs several candidate returns (planner.candidates), no simulator (planner.env_model) and "
                "planner.select per_step: a request holds a history and nothing else"
            )
        from vdt.serving.server import serve

        serve(found.path, policy, port, lookahead=possible if lookahead is None else lookahead)


@contextlib.contextmanager
def _interrupt_when_terminated() -> Iterator[None]:
    """Make SIGTERM do what Ctrl-C does inside the block, so that nothing temporary stays behind."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@app.command("register")
def register(
    where: Where,
    model: Annotated[str, typer.Argument(metavar="NAME", help="Of the registered model, made if it is new.")],
    name: Name = None,
    cell: Cell = None,
) -> None:
    """Put a policy of a finished run into MLflow's registry of models.

    It gets the alias `champion` if its score beats the present champion's on the same env and the same data.
    """
    from vdt.agent.addresses import find_policy
    from vdt.system.files import compute_file_digest
    from vdt.tracking import check_model_name, describe_failure, get_store_errors, register_policy

    check_model_name(model)
    with find_policy(where, name=name, cell=cell) as found:
        if not found.mlflow_run_id:
            raise ValueError(f"{where} belongs to no known run of MLflow; a run id or runs:/RUN/NAME can be registered")
        digest = found.sha256 or compute_file_digest(found.path, "sha256")
    try:
        register_policy(home(), found.mlflow_run_id, digest, model)
    except get_store_errors() as error:
        raise ValueError(f"{where} is not registered: {describe_failure(error)}") from None

"""Commands on trained policies."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vdt.cli.application import app

if TYPE_CHECKING:
    from vdt.agent.policy import Policy
    from vdt.evaluation.records import EvaluationReport

ACCEPTED = "a run id of Metaflow or MLflow, a checkpoint file (.pt) or its folder, runs:/… or models:/…"


def refuse_env(where: str) -> str:
    """Return what names a policy; refuse an env."""
    return _refuse_env(where, f"POLICY is a trained policy: {ACCEPTED}")


def refuse_data(where: str) -> str:
    """Return what names a policy; refuse an env, which `vdt export` took before release 0.3."""
    return _refuse_env(where, f"`vdt data {where} --minari` writes its collected data as a Minari data set")


def _refuse_env(where: str, answer: str) -> str:
    from vdt.config.layers import load_tasks

    if where in load_tasks() or where.startswith(("minari:", "data:")):
        raise ValueError(f"{where!r} is an env, and {answer}")
    return where


HELP = f"Trained policy: {ACCEPTED}."
Where = Annotated[str, typer.Argument(metavar="POLICY", help=HELP, callback=refuse_env)]
Name = Annotated[
    str | None, typer.Option(help="Which of a run's policies: online, offline or online_best; by default the first.")
]
Cell = Annotated[str | None, typer.Option(help="Which of a Metaflow run's cells, by its key; one alone needs none.")]
Lookahead = Annotated[bool, typer.Option("--lookahead", help="Choose among the candidate returns at each step.")]
Seed = Annotated[int | None, typer.Option(help="Of the first episode; by default evaluation.seed.")]
Targets = Annotated[
    list[float] | None,
    typer.Option("--target-return", metavar="X", help="Return to reach; several, with --lookahead, to choose among."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")]


@app.command("evaluate")
def evaluate(
    where: Where,
    name: Name = None,
    cell: Cell = None,
    episodes: Annotated[int | None, typer.Option(help="How many; by default evaluation.episodes.")] = None,
    targets: Targets = None,
    lookahead: Lookahead = False,
    seed: Seed = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run episodes in the policy's environment; show their returns.

    With the defaults they are the report's episodes of one target return, and with --lookahead those of the run's score.
    """
    from vdt.agent.policy import load_policy
    from vdt.evaluation.evaluate import evaluate_policy

    target = _read_targets(targets, lookahead)
    with contextlib.redirect_stdout(sys.stderr):  # the log
        policy = load_policy(where, lookahead=lookahead, name=name, cell=cell)
        report = evaluate_policy(policy, episodes=episodes, seed=seed, target_return=target)
    if as_json:
        facts = {key: policy.metadata[key] for key in ("env", "method", "seed")}
        numbers = {key: value for key, value in vars(report).items() if key != "trace"}
        typer.echo(json.dumps({"policy": where, **facts, **numbers}, indent=1))
        return
    score = None if lookahead else find_chosen_score(policy)
    for line in (*describe_report(report), describe_returns(report), *describe_setting(score)):
        typer.echo(line)


def describe_report(report: EvaluationReport) -> Iterator[str]:
    """Yield the lines of a table: a row for each episode, then their means."""
    from vdt.environments.scores import describe_score, format_return

    rows = list(zip(report.episode_returns, report.episode_lengths, report.normalized_scores, strict=True))
    count = len(rows)
    yield f"{'episode':>8}{'return':>12}{'length':>8}{'score':>8}"
    for number, (episode_return, length, score) in enumerate(rows):
        shown = "-" if score is None else f"{score:.1f}"
        yield f"{number:>8}{format_return(episode_return):>12}{length:>8}{shown:>8}"
    yield (
        f"{'mean':>8}{format_return(sum(report.episode_returns) / count):>12}{sum(report.episode_lengths) / count:>8.0f}"
    )
    if report.normalized_score_mean is not None:
        yield describe_score(report.normalized_score_mean, report.normalized_score_standard_error, count)
    if report.success_rate is not None:
        yield f"success {100 * report.success_rate:.0f} %"
    yield f"{report.seconds:.1f} s"


def describe_returns(report: EvaluationReport) -> str:
    """Return a line on the returns that were asked for, with the name that reports have for this setting."""
    from vdt.evaluation.records import name_setting

    asked = ", ".join(f"{value:g}" for value in report.candidate_returns)
    name = name_setting(len(report.candidate_returns), report.planning_horizon)
    if name == "single":
        return f"asked for a return of {asked} (in reports: {name})"
    ahead = f", {report.planning_horizon} steps ahead" if report.planning_horizon > 1 else ""
    return f"chose among returns of {asked} by Q{ahead} (in reports: {name})"


def find_chosen_score(policy: Policy) -> float | None:
    """Return the score of a policy's run if it was measured with a look-ahead that the loaded policy has too; else none."""
    from vdt.config.guidance import can_choose
    from vdt.evaluation.records import name_setting

    planner, guided = policy.config.planner, policy.make_agent().actor_critic.is_guided
    acts = name_setting(len(policy.candidate_returns), planner.planning_horizon)
    if not can_choose(acts, planner.env_model, guided=guided):
        return None
    score: float | None = policy.metadata["scores"].get(acts, {}).get("normalized_score")
    return score


def describe_setting(score: float | None) -> Iterator[str]:
    """Yield a line where the run's score was measured with look-ahead, and the episodes were without; else it is none."""
    if score is not None:
        yield f"without look-ahead; the run's score, {score:.1f}, is with it: --lookahead"


@app.command("video")
def film(
    where: Where,
    name: Name = None,
    cell: Cell = None,
    episodes: Annotated[int, typer.Option(help="How many.")] = 1,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Ends with .mp4 or .gif; by default ENV-METHOD-sSEED.mp4, here.")
    ] = None,
    targets: Targets = None,
    lookahead: Lookahead = False,
    seed: Seed = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw episodes in the policy's environment as a video, without a screen.

    Needs the extra [video]. MUJOCO_GL chooses the renderer, egl or osmesa; by default the first that works.
    """
    from vdt.agent.policy import load_policy
    from vdt.evaluation.video import check_video, write_video
    from vdt.system.files import check_output

    target = _read_targets(targets, lookahead)
    check_video(output or Path("video.mp4"))
    if output is not None:
        check_output(output, overwrite=overwrite)
    policy = load_policy(where, lookahead=lookahead, name=name, cell=cell)
    path = output or name_file(policy, ".mp4")
    check_output(path, overwrite=overwrite)
    video = write_video(policy, path, episodes=episodes, seed=seed, target_return=target)
    returns = ", ".join(f"{value:.1f}" for value in video.episode_returns)
    typer.echo(f"video: {path}: {video.frames} frames at {video.frames_per_second:g} per second; returns {returns}")


@app.command("export")
def export(
    where: Annotated[str, typer.Argument(metavar="POLICY", help=HELP, callback=refuse_data)],
    name: Name = None,
    cell: Cell = None,
    form: Annotated[str, typer.Option("--format", help="onnx, or torchscript.")] = "onnx",
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="By default ENV-METHOD-sSEED.onnx or .torchscript, here.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a policy for programs without vdt: tensors in, action out.

    The model acts as the policy does without look-ahead. Its inputs and a loop that acts: docs/export.md.
    """
    from vdt.agent.export import FORMATS, check_format, export_policy
    from vdt.agent.policy import load_policy
    from vdt.system.files import check_output, write_output

    check_format(form)
    if output is not None:
        check_output(output, overwrite=overwrite)
    policy = load_policy(where, name=name, cell=cell)
    path = output or name_file(policy, FORMATS[form])
    check_output(path, overwrite=overwrite)
    exported = export_policy(policy, form)
    write_output(path, exported.content)
    typer.echo(
        f"export: {path} ({len(exported.content) / 1e6:.1f} MB), a window of {exported.about['context_length']} steps; "
        f"largest difference of its actions from the policy's: {exported.difference:.0e}"
    )


def name_file(policy: Policy, suffix: str) -> Path:
    """Return the file in the current folder that a policy is written to unless another is named."""
    config = policy.config
    return Path(f"{config.file_name}-{config.method}-s{config.seed}{suffix}")


def _read_targets(targets: list[float] | None, lookahead: bool) -> list[float] | None:
    if targets and len(targets) > 1 and not lookahead:
        raise ValueError("several --target-return need --lookahead, which chooses among them")
    return targets or None

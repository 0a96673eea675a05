"""Check for stray words of a command line, which are named before Metaflow starts."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from vdt.config.errors import ConfigError, suggest

COMMANDS = (  # Metaflow's own
    *("run", "resume", "step", "spin", "check", "dump", "help", "output-dot", "output-raw", "show", "version"),
    *("airflow", "argo-workflows", "batch", "card", "init", "kubernetes", "logs", "package", "spin-step"),
    *("spot-metadata", "step-functions", "tag"),
)

RUN_OPTIONS = (  # of Metaflow's `run`
    *("--max-log-size", "--max-num-splits", "--max-workers", "--namespace", "--run-id-file"),
    *("--runner-attribute-file", "--tag", "--with"),
)


def check_words(called: str, words: Sequence[str], others: Sequence[str], options: Sequence[str]) -> None:
    """Refuse options without `run` before them, unknown ones, and words that follow no option.

    Args:
        called: name under which the script was called.
        words: its arguments.
        others: those of them that are neither one of the options below nor its value.
        options: that `run` takes, with their dashes.

    Raises:
        ConfigError: naming the word, and the line that was probably meant.
    """
    first = next((place for place, word in enumerate(words) if word.partition("=")[0] in options), None)
    command = next((word for word in others if word in COMMANDS), None)
    if command is None and first is not None:
        raise ConfigError(_explain_missing_run(called, words, next(_find_stray(others), "")))
    if command != "run":
        return
    if first is not None and "run" not in words[:first]:
        raise ConfigError(f"{words[first]} stands before the word run, but belongs after it: {called} run ...")
    for option in options:
        if sum(word.partition("=")[0] == option for word in words) > 1:
            raise ConfigError(f"{option} is given twice, and one would be lost{_explain_several(option)}")
    for word in others[others.index("run") + 1 :]:
        name, known = word.partition("=")[0], (*options, *RUN_OPTIONS)
        if name.startswith("--") and name not in known:
            raise ConfigError(f"no such option: {name}{suggest(name, known)}")
    for word in _find_stray(others[others.index("run") + 1 :]):
        raise ConfigError(f"{word!r} belongs to no option{_explain_stray(word)}")


def _explain_missing_run(called: str, words: Sequence[str], stray: str) -> str:
    """Name the line that was probably meant."""
    near = stray if suggest(stray, ("run",)) else ""
    meant = [word for word in words if word != near]
    found = f"the word run is missing, {stray!r} is no command" if stray else "the word run is missing"
    return f"{found}: {called} run {shlex.join(meant)}"


def _find_stray(words: Sequence[str]) -> Iterator[str]:
    """Find words that neither are an option nor follow one, whose value they may be."""
    for before, word in zip(("", *words), words, strict=False):
        if not word.startswith("-") and (not before.startswith("-") or "=" in before):
            yield word


def _explain_stray(word: str) -> str:
    """Explain what is meant by a word of this form."""
    return _explain_several("--set" if "=" in word else "")


def _explain_several(option: str) -> str:
    """Explain how an option takes several values."""
    if option in ("--set", "--sweep"):
        return f'; several changes are one value, in quotes: {option} "KEY=VALUE KEY=VALUE"'
    return "; several values of one option are separated by commas, without spaces"

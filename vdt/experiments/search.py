"""Section `search` of a study file: which settings are tried, how they are scored, and what is reported in the end.

    search:
      space:
        actor.q_coefficient: {low: 0.03, high: 1, log: true}
        planner.candidates: {low: 1, high: 3}              # whole numbers, as the key's type is
        actor.inverse_temperature: {choices: [0.3, 1, 3]}
      trials: 20                   # budget, those of a search that is continued among them
      sampler: tpe                 # tpe, random, cmaes, grid
      pruner: none                 # none, median, halving
      score: return                # return, held_out, fitted_q; by default return where there is an environment
      seeds: [100, 101]            # tuning seeds; the mean over them is a trial's score
      evaluation_seed: 1000000     # of the first episode of a trial's evaluation
      sampler_seed: 0
      report: {seeds: [0, 1, 2], data_seed: 1}  # run once, for the winner alone
      beside: [other]              # studies whose searches the report shows beside this one

Trials are scored on seeds and episodes of their own: the reported ones are refused in a search.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vdt.config.errors import ConfigError, list_known
from vdt.config.layers import expect_mapping, read_value
from vdt.config.schema import KEYS
from vdt.config.types import NUMBER, WHOLE, Number, Texts, Whole, Wholes
from vdt.experiments.grid import check_key, read_grid

# Keys that change how a trial is measured, or on which machine it runs. Of these `evaluation.max_episode_steps` alone can
# change the policy, where it is tuned online.
MEASURE = ("evaluation.", "data.seed", "data.held_out_fraction", "task.reference", "checkpoint.", "runtime.")
MOST_TRIALS = 10_000
EVALUATION_SEED = 1_000_000

Sampler = Literal["tpe", "random", "cmaes", "grid"]
Pruner = Literal["none", "median", "halving"]
Score = Literal["return", "held_out", "fitted_q"]
WORDS: dict[str, Any] = {
    "trials": Whole,
    "sampler": Sampler,
    "pruner": Pruner,
    "score": Score,
    "seeds": Wholes,
    "evaluation_seed": Whole,
    "sampler_seed": Whole,
    "beside": Texts,
}
REPORT_WORDS: dict[str, Any] = {"seeds": Wholes, "data_seed": Whole}


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both among them.

    Attributes:
        low: lowest value.
        high: highest value.
        log: whether the logarithm is uniform.
        step: distance of neighbours; none for all numbers, 1 for whole ones.
        whole: whether they are whole numbers.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False


@dataclass(frozen=True)
class Choices:
    """Values without an order."""

    values: tuple[Any, ...]


Space = Mapping[str, Range | Choices]


@dataclass(frozen=True, kw_only=True)
class Search:
    """Section `search` of a study file, checked for form.

    Attributes:
        space: dotted key -> the values to try.
        trials: settings to try.
        sampler: method that proposes them.
        pruner: method that stops trials early.
        score: quantity to maximise; empty for the default of the data.
        seeds: tuning seeds.
        evaluation_seed: of the first evaluation episode.
        sampler_seed: of the proposals.
        report_seeds: training seeds of the winner.
        report_data_seed: `data.seed` of the winner's cells; none for the trials' own.
        beside: studies whose searches the report shows beside this one.
    """

    space: Space
    trials: int
    sampler: str = "tpe"
    pruner: str = "none"
    score: str = ""
    seeds: tuple[int, ...] = (100, 101)
    evaluation_seed: int = EVALUATION_SEED
    sampler_seed: int = 0
    report_seeds: tuple[int, ...] = (0, 1, 2)
    report_data_seed: int | None = None
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrialPlace:
    """Trial whose cells a flow runs.

    Attributes:
        number: of the trial.
        folder: of its search.
        run_id: the MLflow run of its search; empty if it is not known.
    """

    number: int
    folder: str
    run_id: str


def read_search(content: Any, where: str) -> Search:
    """Read and check the section.

    Args:
        content: the section as YAML has it.
        where: names it in errors.

    Raises:
        ConfigError: naming the first key or value that is not accepted.
    """
    values = dict(expect_mapping(content, where))
    space = _read_space(values.pop("space", None), f"{where}: space")
    report = _read_report(values.pop("report", {}), f"{where}: report")
    read = _read_words(values, WORDS, where)
    if "trials" not in read:
        raise ConfigError(f"{where}: trials is absent: the number of settings to try")
    search = Search(space=space, **read, **report)
    _check(search, where)
    return search


def _read_words(content: Mapping[Any, Any], words: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return values of known keys, of their types."""
    for key in content:
        if key not in words:
            known = [*words, *(("space", "report") if words is WORDS else ())]
            raise ConfigError(f"{where}: unknown key {key!r}{list_known(str(key), known)}")
    return {key: read_value(key, words[key], value, where) for key, value in content.items()}


def _read_report(content: Any, where: str) -> dict[str, Any]:
    """Return the values of subsection `report` as fields of `Search`."""
    read = _read_words(expect_mapping(content, where), REPORT_WORDS, where)
    return {f"report_{key}": value for key, value in read.items()}


def _check(search: Search, where: str) -> None:
    """Refuse budgets out of range, seeds that come twice, and reported seeds among the tuning seeds."""
    if not 1 <= search.trials <= MOST_TRIALS:
        raise ConfigError(f"{where}: trials must be between 1 and {MOST_TRIALS:,}, not {search.trials}")
    for name, seeds in (("seeds", search.seeds), ("report: seeds", search.report_seeds)):
        if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ConfigError(
                f"{where}: {name} must be different whole numbers from 0, at least one, not {list(seeds)}"
            )
    both = sorted(set(search.seeds) & set(search.report_seeds))
    if both:
        raise ConfigError(
            f"{where}: seed {both[0]} is a tuning seed and a reported one; a winner that is chosen on a seed is not "
            "measured on it"
        )
    ranges = [key for key, values in search.space.items() if isinstance(values, Range)]
    if search.sampler == "cmaes" and len(ranges) < 2:
        raise ConfigError(f"{where}: sampler cmaes needs two keys or more with low and high; {len(ranges)} is given")
    open_keys = [key for key, values in search.space.items() if isinstance(values, Range) and values.step is None]
    if search.sampler == "grid" and open_keys:
        raise ConfigError(f"{where}: sampler grid needs choices or a step for each key; {open_keys[0]} has neither")


def _read_space(content: Any, where: str) -> dict[str, Range | Choices]:
    """Return dotted key -> the values to try."""
    space: dict[str, Range | Choices] = {}
    for key, values in _flatten(expect_mapping(content or {}, where)).items():
        check_key(key, where)
        if key.startswith(MEASURE):
            raise ConfigError(f"{where}: {key} changes how a trial is measured; put it under set")
        space[key] = _read_values(key, values, where)
    if not space:
        raise ConfigError(f"{where}: no key to search; e.g. actor.q_coefficient: {{low: 0.03, high: 1, log: true}}")
    return space


def _flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> its description, of a nested or dotted mapping."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping) and value and not {"low", "high", "log", "step", "choices"} & set(value):
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _read_values(key: str, values: Any, where: str) -> Range | Choices:
    """Return the values of a key: `{low, high, log, step}`, `{choices: [...]}`, or a list."""
    if isinstance(values, list):
        values = {"choices": values}
    known = {"low", "high", "log", "step"} if isinstance(values, Mapping) and "choices" not in values else {"choices"}
    if not isinstance(values, Mapping) or set(values) - known:
        raise ConfigError(
            f"{where}: {key} takes {{low, high}} with log: true or step, or {{choices: [...]}}, not {values!r}"
        )
    if "choices" in values:
        return Choices(read_grid({key: values["choices"]}, where)[key])
    return _read_range(key, values, where)


def _read_range(key: str, values: Mapping[str, Any], where: str) -> Range:
    """Return a range of numbers; they are whole where the key's values are."""
    kind = KEYS[key]
    if kind.kind not in (WHOLE, NUMBER) or kind.many:
        raise ConfigError(f"{where}: {key} takes {kind.accepted}, so no low and high; list its choices")
    if not {"low", "high"} <= set(values):
        raise ConfigError(f"{where}: {key} needs low and high, not {dict(values)!r}")
    whole = kind.kind == WHOLE
    number = Whole if whole else Number
    low, high = (read_value(f"{key}: {name}", number, values[name], where) for name in ("low", "high"))
    log, step = values.get("log", False), values.get("step", 1 if whole else None)
    if not isinstance(log, bool):
        raise ConfigError(f"{where}: {key}: log must be true or false, not {log!r}")
    if step is not None:
        step = read_value(f"{key}: step", number, step, where)
    if low >= high:
        raise ConfigError(f"{where}: {key}: low must be below high, not {low} and {high}")
    if log and (low <= 0 or "step" in values):
        raise ConfigError(f"{where}: {key}: log needs low above 0 and no step")
    if step is not None and not 0 < step <= high - low:
        raise ConfigError(f"{where}: {key}: step must be above 0 and at most high - low, not {step}")
    return Range(low, high, log, step, whole)


def encode_choice(value: Any) -> Any:
    """Return a choice as a number, a text, a flag or none, which is all that Optuna keeps; a list becomes its JSON text."""
    return json.dumps(value) if isinstance(value, list | tuple | Mapping) else value


def list_corners(space: Space) -> list[dict[str, Any]]:
    """Return settings that together hold each key's lowest, highest and listed values, to be checked before any work."""
    extremes = {
        key: values.values if isinstance(values, Choices) else (values.low, values.high)
        for key, values in space.items()
    }
    most = max(map(len, extremes.values()))
    return [{key: values[min(place, len(values) - 1)] for key, values in extremes.items()} for place in range(most)]

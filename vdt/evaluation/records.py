"""Records of a cell's measurements, typed from evaluation to report, and plain JSON between processes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any


@dataclass(frozen=True)
class Maze:
    """Layout of a maze, in the units of its observations.

    Attributes:
        walls: centres of the walls, (x, y) each.
        size: edge of a wall.
        goal: centre of the goal, (x, y).
        radius: of the goal.
    """

    walls: Sequence[Sequence[float]]
    size: float
    goal: Sequence[float]
    radius: float


@dataclass(frozen=True)
class Trace:
    """A maze and the positions of each episode, at every fifth step."""

    maze: Maze
    paths: Sequence[Sequence[Sequence[float]]]


@dataclass(frozen=True)
class EvaluationReport:
    """Deterministic episodes of one policy with one look-ahead setting.

    Attributes:
        label: of the evaluated policy and setting.
        candidate_returns: first returns-to-go, environment units.
        planning_horizon: E.
        env_model: source of imagined steps.
        episode_returns: one per episode, environment units.
        episode_lengths: steps of each episode.
        normalized_scores: one per episode, 0-100 between the reference returns (`task.reference`); none for an episode that
            was cut short, whose return cannot be laid beside those of whole episodes.
        normalized_score_mean: over episodes; none if one of them was cut short.
        normalized_score_standard_error: over episodes (of this one trained policy, not over seeds); none for one, or as the mean.
        environment_steps: real steps taken, those of a simulator look-ahead included.
        seconds: wall time.
        chosen_candidates: share of steps at which each candidate won.
        successes: of each episode, where the environment reports success; else none.
        success_rate: share of the episodes; none where the environment reports no success.
        success_interval: Wilson's, of 95 %: lowest and highest rate.
        trace: where the environment is a maze, the episodes in it; else none.
        cut_at: steps after which episodes were cut short; none if all of them are whole.
    """

    label: str
    candidate_returns: Sequence[float]
    planning_horizon: int
    env_model: str
    episode_returns: Sequence[float]
    episode_lengths: Sequence[int]
    normalized_scores: Sequence[float | None]
    normalized_score_mean: float | None
    normalized_score_standard_error: float | None
    environment_steps: int
    seconds: float
    chosen_candidates: Sequence[float] = ()
    successes: Sequence[bool] | None = None
    success_rate: float | None = None
    success_interval: Sequence[float] | None = None
    trace: Trace | None = None
    cut_at: int | None = None


@dataclass(frozen=True)
class Calibration:
    """The critic's min_i target Q of the steps taken, beside the discounted return that followed.

    Attributes:
        predicted: means in bins of rising prediction with equally many steps, environment units of discounted reward.
        earned: means of the returns that followed, in the same bins.
        steps: number of steps.
        bias: mean of predicted - earned, over steps.
        correlation: over steps; none where one of the two never changes.
    """

    predicted: Sequence[float]
    earned: Sequence[float]
    steps: int
    bias: float
    correlation: float | None


@dataclass(frozen=True)
class HeldOutReport:
    """A policy and its critic on held-out episodes, the policy conditioned on the episodes' own returns-to-go.

    The critic's values are min_i target Q, in environment units of discounted reward; none where it was not trained.
    They are predictions, not measured returns.

    Attributes:
        episodes: held out.
        steps: in them.
        action_rmse: root mean square difference between the policy's and the data's actions, in action units.
        action_std: standard deviation of the data's actions about their mean, the same average: the error of a constant.
        policy_value: mean value of the policy's actions.
        data_value: mean value of the data's actions.
        monte_carlo_value: mean discounted return from the data's steps on; after a cut, the value of the final observation.
            Steps whose next observation is missing are left out of this and of the next.
        value_correlation: between data_value and monte_carlo_value, over steps.
        weighted_action_rmse: action_rmse with steps weighted by exp(advantage / its standard deviation); none without a
            critic.
        log_likelihood: mean log-density of the data's actions under a stochastic policy; none for a deterministic one.
        calibration: data_value beside the discounted return that followed, in bins; none as `value_correlation`.
    """

    episodes: int
    steps: int
    action_rmse: float
    action_std: float
    policy_value: float | None
    data_value: float | None
    monte_carlo_value: float | None
    value_correlation: float | None
    weighted_action_rmse: float | None = None
    log_likelihood: float | None = None
    calibration: Calibration | None = None


@dataclass(frozen=True)
class ValueEstimates:
    """Values of the acting policy at the first observations of the data's episodes, estimated without an environment.

    They are discounted, in environment units of reward, and say nothing of what the data does not show.

    Attributes:
        episodes: whose first observations were valued, held-out ones included.
        critic: the cell's own critic, min_i target Q; none where it was not trained.
        fitted_q: Q of this policy, fitted to the training data (`evaluation.fitted_q_steps`); none where it is off.
        fitted_q_halfway: the same after half of the steps; where the two differ much, the fit was not at its end.
        fitted_q_steps: gradient steps of the fit.
        seconds: wall time of the fit, and of the policy's actions that it needs.
        data: mean discounted return of the same episodes, with the fit's discount; rewards after a cut are missing.
    """

    episodes: int
    critic: float | None
    fitted_q: float | None
    fitted_q_halfway: float | None
    fitted_q_steps: int
    seconds: float
    data: float | None = None


@dataclass(frozen=True)
class RequestedReturn:
    """Returns of the episodes with one requested return, in environment units.

    Attributes:
        requested: first return-to-go.
        achieved: one per episode.
        cut_at: steps after which episodes were cut short; none if all of them are whole.
    """

    requested: float
    achieved: Sequence[float]
    cut_at: int | None = None


@dataclass(frozen=True)
class WeightHistogram:
    """Advantage weights (M3) over the data's steps.

    Attributes:
        edges: of the bins.
        shares: of the steps in each bin, those beyond the edges in the outer bins.
        max: the largest weight.
    """

    edges: Sequence[float]
    shares: Sequence[float]
    max: float


@dataclass(frozen=True)
class ParameterCounts:
    """Trainable parameters of the networks."""

    policy: int
    critic: int


@dataclass(frozen=True)
class Diagnostics:
    """Diagnostics of one agent's scores; none for parts that were not measured.

    Attributes:
        parameters: numbers of parameters.
        environment_steps: real interaction before this agent.
        requested: requested and achieved returns.
        calibration: of the critic on the steps of episodes that ask for the returns which the agent acts on.
        weights: histogram of the advantage weights over the data.
        history_correlation: of the critic's errors before and after a step of the data (`vdt/critic/history_correlation.py`).
        second_critic: whether it follows one that failed that test, and guides online tuning alone.
    """

    parameters: ParameterCounts
    environment_steps: int
    requested: Sequence[RequestedReturn] | None = None
    calibration: Calibration | None = None
    weights: WeightHistogram | None = None
    history_correlation: float | None = None
    second_critic: bool = False


@dataclass(frozen=True)
class Evaluation:
    """All measurements of a cell's agents.

    Attributes:
        policies: agent ("offline", "online", "online_best") -> look-ahead setting -> report; empty without an environment.
        held_out: agent -> report; empty without held-out episodes.
        diagnostics: agent -> report.
        values: agent -> estimates of its value without an environment; empty where none were asked for.
    """

    policies: Mapping[str, Mapping[str, EvaluationReport]]
    held_out: Mapping[str, HeldOutReport] = field(default_factory=dict)
    diagnostics: Mapping[str, Diagnostics] = field(default_factory=dict)
    values: Mapping[str, ValueEstimates] = field(default_factory=dict)


@dataclass(frozen=True)
class SnapshotRecord:
    """Data set that a cell was trained on; identified by its md5, not by its path.

    Attributes:
        env: task.
        source: kind of data source.
        label: the source in words, and the results it is comparable with.
        reason: of the choice of this source.
        md5: of the file.
        size: of the file, bytes.
        card: the dataset card.
    """

    env: str
    source: str
    label: str
    reason: str
    md5: str
    size: int
    card: Mapping[str, Any]

    @property
    def score(self) -> float | None:
        """Return the mean normalized_score of the data set's episodes; none where the card has none."""
        return self.card.get("normalized_score_mean")


@dataclass(frozen=True)
class CellRecord:
    """Finished cell (env x method x patch x seed), with all data of a report.

    Attributes:
        key: names the cell.
        patch: name of the study's patch, empty without one.
        config: resolved configuration, flat: dotted key -> value.
        snapshot: the data set.
        evaluation: measurements.
        mlflow_run_id: of the run that holds the cell's curves.
        seconds: flow step -> wall time.
        memory: flow step -> kind ("machine", "gpu") -> peak, MB.
        shared_from: flow step -> MLflow run of the cell whose training was taken; empty if the cell trained itself.
    """

    key: str
    patch: str
    config: Mapping[str, Any]
    snapshot: SnapshotRecord
    evaluation: Evaluation
    mlflow_run_id: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    memory: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    shared_from: Mapping[str, str] = field(default_factory=dict)

    @property
    def env(self) -> str:
        """Return the task."""
        return str(self.config["env"])

    @property
    def preset(self) -> str:
        """Return the preset of sizes and budgets."""
        return str(self.config["preset"])

    @property
    def method(self) -> str:
        """Return the method without the patch."""
        return str(self.config["method"])

    @property
    def seed(self) -> int:
        """Return the training seed."""
        return int(self.config["seed"])

    @property
    def name(self) -> str:
        """Return the method, with its patch if it has one."""
        return f"{self.method} + {self.patch}" if self.patch else self.method

    @property
    def data_label(self) -> str:
        """Return the data's source in words, with the seed of collected data where it is not 0."""
        seed = self.config.get("data.seed", 0) if self.snapshot.source == "collected" else 0
        return f"{self.snapshot.label}, seed {seed}" if seed else self.snapshot.label

    def to_json(self) -> dict[str, Any]:
        """Return plain values: the same whether they come from this process or from a file."""
        return dict(json.loads(json.dumps(asdict(self))))

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> CellRecord:
        """Build a record from plain values; keys without a field of that name are left out.

        Raises:
            ValueError: if a field is missing or has a wrong type (`pydantic.ValidationError`).
        """
        record: CellRecord = _make_adapter().validate_python(plain)
        return record


def name_setting(candidates: int, planning_horizon: int) -> str:
    """Return the name of a look-ahead setting: one candidate return, several by Q, or several by imagined steps."""
    if candidates == 1:
        return "single"
    return "candidates" if planning_horizon == 1 else "lookahead"


@cache
def _make_adapter() -> Any:
    from pydantic import TypeAdapter  # here: steps that only measure need not load it

    return TypeAdapter(CellRecord)

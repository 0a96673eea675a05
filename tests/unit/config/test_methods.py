"""Every method and every ablation of docs/method.md, section 8: resolves, trains some steps, and acts."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from support.builders import make_config, make_dataset, make_store, make_trajectory
from vdt.agent.actor_critic import ActorCritic
from vdt.agent.agent import PlannerSettings
from vdt.checkpoint.store import load_state
from vdt.config.convergence import describe_unfinished
from vdt.config.errors import ConfigError
from vdt.config.layers import PARAMS, load_tasks
from vdt.config.schema import Config
from vdt.data.normalization import Normalizer
from vdt.data.trajectory import TrajectoryDataset
from vdt.evaluation.evaluate import evaluate
from vdt.experiments.resolve import resolve_config
from vdt.tracking import NullTracker
from vdt.training.critic_pretraining import pretrain_critic
from vdt.training.offline import make_offline_buffer, train_actor
from vdt.training.online import make_tuner
from vdt.training.seeding import seed_buffer

ENV = "walker2d-medium-v2"
METHOD_PAGE = (Path(__file__).resolve().parents[3] / "docs" / "method.md").read_text().split("## 8.")[1]
HOW = "see CONTRIBUTING.md, A method"
METHODS = sorted(path.stem for path in (PARAMS / "methods").glob("*.yaml"))
ONLINE = {"vdt", "iql", "td3bc", "awac", "cql", "odt"}  # those whose papers have an online phase
DATASET = make_dataset((5, 1, 7, 3, 6, 2, 4, 4))
ONE = {"evaluation.episodes": 1}
FEW = {**ONE, "critic.gradient_steps": 4, "actor.gradient_steps": 3, "actor.warmup_steps": 1}

# What the methods' papers print, and what several of them share.
MEMORYLESS = {"policy.kind": "mlp", "planner.candidates": 1, "actor.next_observation_coefficient": 0}
MEMORYLESS |= {"policy.context_length": 1, "actor.batch_size": 256}  # transitions
CONSTANT = {"actor.learning_rate": 3e-4, "actor.learning_rate_schedule": "constant", "actor.warmup_steps": 0}
CONSTANT |= {"online.actor_learning_rate": 3e-4}
OF_POLICY = {**MEMORYLESS, "critic.bootstrap": "policy", "critic.n_step": 1, "critic.activation": "relu"}
PRINTED: dict[str, dict[str, Any]] = {
    "bc": {**MEMORYLESS, "data.keep_best_fraction": 1},
    "bc-10": {**MEMORYLESS, "data.keep_best_fraction": 0.1},
    "dt": {"actor.inverse_temperature": 0, "actor.q_coefficient": 0, "planner.candidates": 1},
    "iql": {
        **{**MEMORYLESS, "critic.bootstrap": "value", "critic.n_step": 1, "critic.activation": "relu"},
        **{"critic.expectile": 0.7, "actor.inverse_temperature": 3, "actor.max_advantage_weight": 100},
        **{"actor.advantage_unit": "reward", "actor.q_coefficient": 0, "policy.head": "normal"},
        **{"actor.learning_rate": 3e-4, "actor.learning_rate_schedule": "cosine", "actor.warmup_steps": 0},
        **{"online.actor_learning_rate": 3e-4},
    },
    "td3bc": {
        **{**OF_POLICY, "critic.target_action_noise": 0.2, "actor.q_coefficient": 2.5, "actor.behavior_coefficient": 1},
        **{"actor.q_normalization": "magnitude", "actor.inverse_temperature": 0, "actor.q_source": "q1"},
        **CONSTANT,
    },
    "awac": {
        **{**OF_POLICY, "critic.target_action_noise": 0, "actor.inverse_temperature": 3, "actor.q_coefficient": 0},
        **{"actor.advantage_unit": "reward", "actor.max_advantage_weight": 100, "policy.head": "normal"},
        **{"critic.hidden_layers": 3, "policy.hidden_layers": 3, **CONSTANT},
    },
    "cql": {
        **{**OF_POLICY, "critic.conservative_coefficient": 5, "critic.conservative_samples": 4},
        **{"policy.head": "gaussian", "policy.initial_temperature": 1, "online.exploration_noise": 0},
        **{"actor.behavior_coefficient": 0, "actor.q_coefficient": 1, "actor.q_normalization": "none"},
        **{"critic.hidden_layers": 3, "policy.hidden_layers": 3, "task.reward_scaling": "none"},
        **{**CONSTANT, "actor.learning_rate": 1e-4, "online.actor_learning_rate": 1e-4},
    },
    "odt": {
        **{"policy.kind": "transformer", "policy.head": "gaussian", "policy.initial_temperature": 0.1},
        **{"critic.gradient_steps": 0, "actor.inverse_temperature": 0, "online.exploration_noise": 0},
    },
    "qt": {
        **{"policy.kind": "transformer", "critic.bootstrap": "policy", "actor.inverse_temperature": 0},
        **{"actor.q_coefficient": 2, "actor.q_normalization": "magnitude", "planner.candidates": 3},
    },
    "vdt": {"critic.bootstrap": "value", "policy.kind": "transformer", "policy.head": "deterministic"},
}

# Table 3 of the paper: advantage weighting, regularisation, sampling
TABLE_3 = [
    {"actor.inverse_temperature": eta, "actor.q_coefficient": coefficient, "planner.candidates": candidates}
    for eta, coefficient, candidates in product((0, 1), (0, 0.3), (1, 3))
]
LISTED: dict[str, tuple[Any, ...]] = {
    "policy.context_length": (8, 20, 60, 120),  # Table 5
    "critic.n_step": (1, 3, 5, 10),
    "actor.q_coefficient": (0, 0.1, 0.3, 1.0),
    "actor.inverse_temperature": (0, 0.5, 1, 3),
    "planner.candidates": (1, 2, 3),
    "planner.planning_horizon": (1, 2, 3, 5),
    "critic.gradient_steps": (5000, 20000, 80000),
}


def train(config: Config, folder: Path, dataset: TrajectoryDataset = DATASET) -> tuple[ActorCritic, Path]:
    critic = pretrain_critic(config, dataset, NullTracker(), make_store(folder / "critic"))
    path = train_actor(config, dataset, critic, NullTracker(), make_store(folder / "actor"))
    return ActorCritic.from_state(load_state(path)["actor_critic"], torch.device("cpu")), path


def act(actor_critic: ActorCritic) -> None:
    report = evaluate(actor_critic, PlannerSettings.from_config(actor_critic.config), actor_critic.config, "once")
    assert len(report.episode_returns) == 1


def resolve(changes: dict[str, Any]) -> Config:
    """On the laptop preset, as a study would."""
    return resolve_config(ENV, overrides=" ".join(f"{key}={value}" for key, value in changes.items()))


# Methods


@pytest.mark.parametrize("method", METHODS)
def test_method_trains_acts_and_tunes(method: str, tmp_path: Path) -> None:
    trained = make_config(method=method).critic.gradient_steps > 0
    config = make_config({**FEW, "critic.gradient_steps": 4 if trained else 0}, method=method)
    actor_critic, path = train(config, tmp_path)
    act(actor_critic)
    assert (config.online.environment_steps > 0) == (method in ONLINE), f"ONLINE names who tunes online: {HOW}"
    if method in ONLINE:
        tuner = make_tuner(config, path, seed_buffer(config, DATASET, tmp_path / "buffer.hdf5"), DATASET, None)
        tuner.collect()
        before = {name: value.clone() for name, value in tuner.actor_critic.policy.state_dict().items()}
        metrics = tuner.update()
        assert any(
            not torch.equal(value, before[name]) for name, value in tuner.actor_critic.policy.state_dict().items()
        )
        assert ("q_loss" in metrics) == trained


@pytest.mark.parametrize("method", METHODS)
def test_method_is_documented_with_what_it_follows_and_what_differs(method: str) -> None:
    assert f"| `{method}` |" in METHOD_PAGE, f"add `{method}` to the table of docs/method.md, section 8: {HOW}"
    text = (PARAMS / "methods" / f"{method}.yaml").read_text()
    assert text.startswith("# "), f"{method}.yaml: begin with comment lines, its paper and what differs: {HOW}"
    assert len(text.splitlines()) <= 12, f"{method}.yaml: a method is a few lines: {HOW}"


@pytest.mark.parametrize("method", METHODS)
def test_method_has_the_settings_that_its_paper_prints(method: str) -> None:
    assert method in PRINTED, f"add `{method}` and the settings that its paper prints to PRINTED: {HOW}"
    flat = resolve_config(ENV, method=method).flatten()
    assert {key: flat[key] for key in PRINTED[method]} == PRINTED[method]


@pytest.mark.parametrize(
    ("env", "weight"),  # of QT's run.sh, task by task
    [
        *[("walker2d-medium-v2", 2), ("hopper-medium-v2", 1), ("hopper-medium-replay-v2", 3)],
        *[("halfcheetah-medium-replay-v2", 5), ("halfcheetah-medium-expert-v2", 0.4), ("maze2d-umaze-v1", 5)],
        *[("pen-cloned-v1", 0.1), ("hammer-human-v1", 0.1), ("hammer-cloned-v1", 0.01), ("door-human-v1", 0.005)],
        *[("door-cloned-v1", 0.001), ("kitchen-complete-v0", 0.001), ("kitchen-partial-v0", 0.01)],
        *[("antmaze-umaze-v0", 0.05), ("antmaze-umaze-diverse-v0", 0.01), ("antmaze-medium-diverse-v0", 0.01)],
    ],
)
def test_qt_has_its_own_weight_on_each_task(env: str, weight: float) -> None:
    assert resolve_config(env, method="qt").actor.q_coefficient == weight


@pytest.mark.parametrize("preset", ["fair", "equal-time"])
@pytest.mark.parametrize("env", sorted(load_tasks()))
def test_presets_of_tables_have_the_laptops_transformer(env: str, preset: str) -> None:
    laptop, other = (resolve_config(env, preset=name) for name in ("laptop", preset))
    assert (laptop.policy, laptop.actor.batch_size) == (other.policy, other.actor.batch_size)


@pytest.mark.parametrize("preset", ["fair", "paper"])
@pytest.mark.parametrize("method", ["iql", "td3bc", "awac", "cql"])
def test_baselines_are_tuned_online_by_an_update_a_step(preset: str, method: str) -> None:
    """Their papers take one critic update for each step of interaction; an iteration has one or two episodes."""
    online = resolve_config(ENV, preset=preset, method=method).online
    assert online.critic_steps_per_iteration == 1000
    assert online.actor_steps_per_iteration == (500 if method == "td3bc" else 1000)


def test_methods_of_a_kind_share_the_laptops_budgets() -> None:
    configs = [resolve_config(ENV, method=method) for method in METHODS]
    for kind in ("transformer", "mlp"):
        sizes = {(c.actor.batch_size, c.policy.context_length) for c in configs if c.policy.kind == kind}
        assert sizes == {(64, 10) if kind == "transformer" else (256, 1)}
    assert len({c.actor.gradient_steps for c in configs if c.policy.kind == "transformer"}) == 1
    assert len({c.evaluation.episodes for c in configs}) == 1
    assert {c.critic.gradient_steps for c in configs} == {0, configs[-1].critic.gradient_steps}


@pytest.mark.parametrize("preset", ["laptop", "fair", "paper"])
def test_td3bcs_actor_takes_every_second_step_and_cqls_warm_start_ends(preset: str) -> None:
    config = resolve_config(ENV, preset=preset, method="td3bc")
    assert config.critic.gradient_steps == 2 * config.actor.gradient_steps
    assert config.critic.target_every == (2 if preset == "paper" else 1)  # the paper's; else twice as many steps
    actor = resolve_config(ENV, preset=preset, method="cql").actor
    assert 0 < actor.warm_start_steps <= 0.1 * actor.gradient_steps


def test_fair_budgets_are_those_of_flat_curves() -> None:
    steps = {m: resolve_config(ENV, preset="fair", method=m) for m in METHODS}
    found = {m: (c.critic.gradient_steps, c.actor.gradient_steps, c.actor.batch_size) for m, c in steps.items()}
    wanted = {
        **{"bc": (0, 50_000, 256), "bc-10": (0, 50_000, 256), "dt": (0, 3_200, 64), "odt": (0, 2_000, 256)},
        **{"iql": (100_000, 50_000, 256), "td3bc": (100_000, 50_000, 256), "awac": (100_000, 100_000, 256)},
        **{"cql": (100_000, 100_000, 256), "qt": (50_000, 10_000, 64), "vdt": (50_000, 3_200, 64)},
    }
    assert {m: found[m] for m in wanted} == wanted  # a method that is added has its kind's, unless the preset names it
    assert {c.evaluation.curve_points for c in steps.values()} == {9}
    assert describe_unfinished(steps.values()) == []


def test_best_share_leaves_normaliser_and_reward_scale_to_all_the_data(tmp_path: Path) -> None:
    some, every = (
        load_state(pretrain_critic(make_config(s, method="bc"), DATASET, NullTracker(), make_store(tmp_path / str(i))))
        for i, s in enumerate(({"data.keep_best_fraction": 0.3}, {}))
    )
    assert torch.equal(some["normalizer"]["mean"], every["normalizer"]["mean"])
    assert some["reward_scale"] == every["reward_scale"]
    normalizer = Normalizer(**some["normalizer"])
    held = make_offline_buffer(make_config({"data.keep_best_fraction": 0.3}, method="bc"), DATASET, normalizer, 1.0)
    assert held.steps == DATASET.keep_best(0.3).steps < DATASET.steps


# Ablations


@pytest.mark.parametrize("switches", TABLE_3, ids=lambda s: "-".join(str(v) for v in s.values()))
def test_table_3(switches: dict[str, Any], tmp_path: Path) -> None:
    config = resolve(switches)
    assert {key: config.flatten()[key] for key in switches} == switches
    actor_critic, _ = train(make_config({**FEW, **switches}), tmp_path)
    assert (actor_critic.weighting.inverse_temperature > 0) == (switches["actor.inverse_temperature"] > 0)
    act(actor_critic)


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in LISTED.items() for value in values])
def test_listed_value(key: str, value: Any, tmp_path: Path) -> None:
    model = {"planner.env_model": "learned"} if key == "planner.planning_horizon" else {}
    assert resolve({key: value, **model}).flatten()[key] == value
    if value in (min(LISTED[key]), max(LISTED[key])):
        tiny = {key: min(value, 8) if key == "critic.gradient_steps" else value}
        act(train(make_config({**FEW, **tiny}), tmp_path)[0])


@pytest.mark.parametrize("env_model", ["none", "learned", "simulator"])
def test_env_model(env_model: str, tmp_path: Path) -> None:
    horizon = 1 if env_model == "none" else 3
    switches = {"planner.env_model": env_model, "planner.planning_horizon": horizon}
    assert resolve(switches).planner.env_model == env_model
    task = {"task.environment_id": "InvertedPendulum-v5", "task.observation_size": 4, "task.horizon": 5}
    data = TrajectoryDataset.from_trajectories(make_trajectory(6, seed=s, observation_size=4) for s in range(3))
    act(train(make_config({**FEW, **task, **switches}), tmp_path, data)[0])


def test_ablations_are_named() -> None:
    table = METHOD_PAGE.split("### Ablations")[1]
    for switches in TABLE_3:
        setting = " ".join(f"{key}={value}" for key, value in switches.items())
        assert f"`{setting}`" in table
    for key, values in LISTED.items():
        assert f"`{key}` | {' · '.join(str(value) for value in values)} |" in table


# Senseless combinations


@pytest.mark.parametrize(
    ("method", "overrides", "message"),
    [
        (
            "vdt",
            "critic.bootstrap=policy",
            r"advantage_unit deviation is fitted to a finished critic, but critic.bootstrap",
        ),
        ("bc", "critic.bootstrap=policy", r"critic.bootstrap policy trains critic and actor together: critic.grad"),
        (
            "vdt",
            "critic.conservative_coefficient=5",
            r"needs critic.bootstrap policy and policy.head gaussian, not value",
        ),
        ("td3bc", "critic.conservative_coefficient=5", r"policy.head gaussian, not policy and deterministic"),
        (
            "vdt",
            "critic.target_action_noise=0.2",
            r"target_action_noise .* policy.head deterministic, not value and det",
        ),
        ("cql", "critic.target_action_noise=0.2", r"target_action_noise .* not policy and gaussian"),
        (
            "bc",
            "actor.behavior_coefficient=0",
            r"actor.behavior_coefficient and actor.q_coefficient are both 0: nothing",
        ),
        ("vdt", "actor.behavior_coefficient=0", r"weights the behaviour loss, but actor.behavior_coefficient is 0"),
        ("vdt", "actor.advantage_unit=reward", r"takes actor.inverse_temperature as it is: set actor.min_effective"),
        ("odt", "actor.q_coefficient=1 actor.q_normalization=none", r"critic.gradient_steps is 0, but"),
        ("vdt", "policy.head=norma", r"policy.head must be one of deterministic, gaussian, normal, not 'norma'"),
        ("vdt", "critic.order=together", r"fitted to a finished critic, but critic.order together trains both"),
        ("bc", "critic.order=together", r"critic.order together trains critic and actor together: critic.grad"),
        ("vdt", "critic.target_every=2", r"critic.target_every \(2\) needs critic.bootstrap policy, not value"),
        (
            "vdt",
            "critic.window_steps=2",
            r"window_steps \(2\) needs critic.bootstrap policy .* not value and 256; accepted",
        ),
        ("qt", "critic.window_steps=3", r"batch_size in whole windows of 3, not policy and 256; accepted is 1"),
        ("qt", "critic.window_steps=30 critic.batch_size=255", r"in whole windows of 10, not policy and 255"),
        ("iql", "actor.warm_start_steps=5", r"leaves the Q term out, but actor.q_coefficient is 0"),
        ("vdt", "actor.warm_start_steps=1500", r"warm_start_steps \(1,500\) must be fewer than .* \(1,500\)"),
        ("vdt", "data.keep_best_fraction=0", r"data.keep_best_fraction must be between 1e-06 and 1.0, not 0"),
        ("vdt", "data.keep_best_fraction=10", r"data.keep_best_fraction must be between"),
        (
            "qt",
            "actor.max_history_correlation=0.5",
            r"max_history_correlation is compared .* but critic.bootstrap policy trains both together",
        ),
        (
            "vdt",
            "actor.behavior_coefficient=0 actor.inverse_temperature=0",
            r"max_history_correlation below 1 may leave the critic out, but actor.behavior_coefficient is 0",
        ),
        ("qt", "evaluation.lookahead_horizon=3", r"learned env_model needs actor.next_observation_coefficient and"),
    ],
)
def test_senseless_combinations_are_refused(method: str, overrides: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_config(ENV, method=method, overrides=overrides)

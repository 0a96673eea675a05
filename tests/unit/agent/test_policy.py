"""A trained policy from a file acts as in evaluation, needs no training library, and says what input it accepts."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import vdt
from support.builders import make_config, make_dataset, make_lively_actor_critic, make_store
from support.environments import COUNTDOWN
from vdt.agent.actor_critic import ActorCritic
from vdt.agent.agent import Agent, PlannerSettings
from vdt.checkpoint.names import CheckpointError
from vdt.checkpoint.store import load_state
from vdt.data.trajectory import Trajectory
from vdt.environments import make_environment, make_raw_environment
from vdt.environments.rollout import collect_trajectories
from vdt.system.files import compute_file_digest
from vdt.tracking import NullTracker
from vdt.training.critic_pretraining import pretrain_critic
from vdt.training.offline import train_actor
from vdt.training.online import tune_online
from vdt.training.seeding import seed_buffer

ROOT = Path(__file__).resolve().parents[3]
SEEDS = [4, 0, 3, 1]  # episodes of 6, 2, 5 and 3 steps
RANGE = {"task.action_low": [-2.0], "task.action_high": [1.0]}
GAUSSIAN = {"policy.head": "gaussian", "actor.q_normalization": "none"}
MLP = {
    "policy.kind": "mlp",
    "planner.candidates": 1,
    "planner.planning_horizon": 1,
    "actor.next_observation_coefficient": 0.0,
    "actor.reward_coefficient": 0.0,
}
TWO_STEPS = np.zeros((2, 2), np.float32)


def save(folder: Path, actor_critic: ActorCritic, **changed: Any) -> Path:
    state = {"actor_critic": {**actor_critic.state_dict(), **changed}, "versions": {"torch": "2"}}
    torch.save(state, folder / "policy.pt")
    return folder / "policy.pt"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("policy"), make_lively_actor_critic())


def play(policy: vdt.Policy, seeds: list[int]) -> tuple[list[Any], list[Any]]:
    """Raw actions and rewards of whole episodes; rows of ended episodes get NaN."""
    environments = [make_raw_environment(policy.config.task) for _ in seeds]
    seen = np.stack([e.reset(seed=s)[0] for e, s in zip(environments, seeds, strict=True)])
    actions: list[Any] = [[] for _ in seeds]
    rewards: list[Any] = [[] for _ in seeds]
    ended, reward = np.zeros(len(seeds), np.bool_), None
    policy.reset(episodes=len(seeds))
    while not ended.all():
        chosen = policy.act(seen, reward, None if reward is None else ended)
        assert chosen.shape == (len(seeds), 1) and (chosen[ended] == 0).all()
        reward = np.full(len(seeds), np.nan)
        for i in np.flatnonzero(~ended):
            actions[i].append(chosen[i])
            seen[i], reward[i], over, cut, _ = environments[i].step(chosen[i])
            rewards[i].append(reward[i])
            ended[i] = over or cut
        seen[ended] = np.nan
    return actions, rewards


def act_as_in_training(actor_critic: ActorCritic, settings: PlannerSettings, seeds: list[int]) -> list[Trajectory]:
    environments = [make_environment(actor_critic.config.task) for _ in seeds]
    return collect_trajectories(Agent(actor_critic, settings), environments, seeds)


@pytest.mark.parametrize("lookahead", [False, True])
@pytest.mark.parametrize("seeds", [[4], SEEDS], ids=["one", "several"])
@pytest.mark.parametrize(
    "settings",
    [{}, GAUSSIAN, MLP, {**MLP, **GAUSSIAN}],
    ids=["transformer", "gaussian", "mlp", "gaussian mlp"],
)
@pytest.mark.parametrize("bounds", [{}, RANGE], ids=["unit", "range"])
def test_acts_to_the_bit_as_in_evaluation(
    tmp_path: Path, bounds: dict[str, Any], settings: dict[str, Any], seeds: list[int], lookahead: bool
) -> None:
    actor_critic = make_lively_actor_critic({**settings, **bounds})
    if "policy.kind" in settings:  # wide layers: smaller weights keep the actions away from the ends of their range
        for parameter in actor_critic.policy.parameters():
            parameter.data *= 0.3
    policy = vdt.load_policy(save(tmp_path, actor_critic), lookahead=lookahead)
    planner = PlannerSettings.from_config(actor_critic.config)
    expected = act_as_in_training(actor_critic, planner if lookahead else planner.follow(12.0), seeds)
    actions, rewards = play(policy, seeds)
    assert [len(a) for a in actions] == [2 + s % 5 for s in seeds] == [len(t) for t in expected]
    for mine, paid, trajectory in zip(actions, rewards, expected, strict=True):
        assert (np.float32(paid) == trajectory.rewards).all()
        unit = trajectory.actions
        raw = np.float32(-2.0) + (unit + 1.0) / 2.0 * np.float32(3.0) if bounds else unit
        assert np.unique(unit).size == len(unit)  # the policy reacts
        assert (np.stack(mine) == raw).all()


def test_one_episode_takes_and_gives_vectors(path: Path) -> None:
    policy = vdt.load_policy(str(path))
    policy.reset(target_return=6.0)
    first = policy.act(np.array([3.0, 1.0]))
    second = policy.act([2.0, 1.5], 0.5, terminated=False)
    assert first.shape == second.shape == (1,) and first.dtype == np.float32
    assert (policy.act([np.nan, 0.0], 0.5, terminated=True) == 0).all()
    assert (policy.act([3.0, 1.0]) == 0).all()  # an ended episode stays ended
    policy.reset(target_return=6.0)
    assert (policy.act(np.array([3.0, 1.0])) == first).all()


def test_the_target_return_and_the_reward_matter(path: Path) -> None:
    policy, seen = vdt.load_policy(path), [[3.0, 1.0], [3.0, 1.0]]

    def act(target: float | None, reward: float) -> Any:
        policy.reset(target, episodes=2)
        return [policy.act(seen), policy.act(seen, [reward, 0.0])]

    default, same, other, richer = act(None, 0.0), act(12.0, 0.0), act(3.0, 0.0), act(12.0, 5.0)
    assert all((a == b).all() for a, b in zip(default, same, strict=True))
    assert (default[0] != other[0]).all()
    assert default[1][0] != richer[1][0] and default[1][1] == richer[1][1]


def test_lookahead_follows_one_given_return_or_chooses_among_several(path: Path) -> None:
    policy, plain, seen = vdt.load_policy(path, lookahead=True), vdt.load_policy(path), [3.0, 1.0]
    policy.reset(3.0)
    plain.reset(3.0)
    assert (policy.act(seen) == plain.act(seen)).all()
    singles = []
    for target in (12.0, 3.0):
        plain.reset(target)
        singles.append(float(plain.act(seen)[0]))
    policy.reset([12.0, 3.0])
    chosen = float(policy.act(seen)[0])
    assert min(abs(chosen - single) for single in singles) < 1e-5 < abs(singles[0] - singles[1])
    with pytest.raises(ValueError, match="2 target returns need look-ahead"):
        plain.reset([12.0, 3.0])


def test_says_what_it_is(tmp_path: Path) -> None:
    policy = vdt.load_policy(save(tmp_path, make_lively_actor_critic(RANGE)))
    assert policy.candidate_returns == (12.0, 6.0, 3.0)
    spaces = policy.spaces
    assert (spaces.observation_size, spaces.action_size, spaces.action_low, spaces.action_high) == (
        2,
        1,
        (-2.0,),
        (1.0,),
    )
    known = policy.metadata
    assert (known["env"], known["method"], known["seed"]) == ("walker2d-medium-v2", "vdt", 0)
    assert (known["preset"], known["versions"]) == ("smoke", {"torch": "2"})
    assert known["config"]["task.environment_id"] == COUNTDOWN
    assert "walker2d-medium-v2" in repr(policy) and vdt.__version__


BAD_INPUTS: list[tuple[tuple[Any, ...], str]] = [
    (([[3.0, 1.0]] * 2,), "reward of the last action is missing"),
    (([3.0, 1.0], [0.0, 0.0]), r"observation must have shape \(2, 2\), a row for each episode, not \(2,\)"),
    (([[3.0, 1.0, 0.0]] * 2, [0.0, 0.0]), r"not \(2, 3\)"),
    (([[3.0, np.nan], [3.0, 1.0]], [0.0, 0.0]), r"observation\[0, 1\] is not a finite float32 number: nan"),
    (([[3.0, 1.0], [1e300, 1.0]], [0.0, 0.0]), r"observation\[1, 0\] is not a finite float32 number: inf"),
    (([[3.0, 1.0], [3.0]], [0.0, 0.0]), "observation must be an array of numbers"),
    (([["a", "b"]] * 2, [0.0, 0.0]), "observation must be numbers"),
    (({"x": 1.0}, [0.0, 0.0]), "observation must be numbers, not dict"),
    ((TWO_STEPS, 0.0), "reward must be a number for each of the 2 episodes"),
    ((TWO_STEPS, [0.0, np.inf]), r"reward\[1\] is not a finite float32 number"),
    (
        (TWO_STEPS, [0.0, 3e38]),
        r"reward\[1\] is too large for the policy: 3e\+38; accepted is -1e\+13 to 1e\+13",
    ),
    ((TWO_STEPS, [0.0, 0.0], True), "terminated must be true or false for each of the 2 episodes"),
    ((TWO_STEPS, [0.0, 0.0], [0, 1]), "terminated must be true or false"),
]


@pytest.mark.parametrize(("wrong", "said"), BAD_INPUTS, ids=[said[:30] for _, said in BAD_INPUTS])
def test_wrong_input_is_named_and_changes_nothing(path: Path, wrong: tuple[Any, ...], said: str) -> None:
    policy, undisturbed = vdt.load_policy(path), vdt.load_policy(path)
    for one in (policy, undisturbed):
        one.reset(episodes=2)
        one.act(TWO_STEPS)
    with pytest.raises(ValueError, match=said):
        policy.act(*wrong)
    assert (policy.act(TWO_STEPS, [1.0, 0.0]) == undisturbed.act(TWO_STEPS, [1.0, 0.0])).all()


def test_order_of_calls_is_checked(path: Path) -> None:
    policy = vdt.load_policy(path)
    with pytest.raises(RuntimeError, match=r"call reset\(\) before act\(\)"):
        policy.act([3.0, 1.0])
    policy.reset()
    with pytest.raises(ValueError, match="no action was taken yet"):
        policy.act([3.0, 1.0], 0.0)
    with pytest.raises(ValueError, match="no episode can end before its first action"):
        policy.act([3.0, 1.0], terminated=True)
    for episodes in (0, -1, 1.5, True, "2"):
        with pytest.raises(ValueError, match="episodes must be a whole number of at least 1"):
            policy.reset(episodes=episodes)  # type: ignore[arg-type]
    for target in (np.nan, np.inf, "12", []):
        with pytest.raises(ValueError, match="target_return must be"):
            policy.reset(target)  # type: ignore[arg-type]


@pytest.mark.parametrize("lookahead", [False, True])
@pytest.mark.parametrize("clip", [0.0, 10.0])
def test_actions_are_finite_for_all_that_is_accepted(tmp_path: Path, clip: float, lookahead: bool) -> None:
    """The return scale is 10: the limit of returns and rewards is 1e13."""
    path = save(tmp_path, make_lively_actor_critic({"data.observation_clip": clip}))
    policy = vdt.load_policy(path, lookahead=lookahead)
    with pytest.raises(ValueError, match=r"target_return is too large for the policy: 1e\+30; accepted is -1e\+13 to"):
        policy.reset(1e30)
    far = 3e38 if clip else float(policy._limits.observations[0])
    for sign in (-1.0, 1.0):
        policy.reset(sign * 1e13)
        for step in range(12):
            assert np.isfinite(policy.act([far, 0.0], sign * -1e13 if step else None)).all()
    if not clip:
        with pytest.raises(ValueError, match=r"observation\[0, 0\] is too large for the policy: 3e\+38"):
            policy.act([3e38, 0.0], 0.0)


def test_a_policy_without_memory_accepts_any_finite_return() -> None:
    policy = vdt.Policy(make_lively_actor_critic(MLP))
    policy.reset(-3e38)
    assert all(np.isfinite(policy.act([3.0, 1.0], reward)).all() for reward in (None, 3e38, 3e38))


def test_a_policy_without_memory_needs_no_reward(tmp_path: Path) -> None:
    policy = vdt.load_policy(save(tmp_path, make_lively_actor_critic(MLP)))
    policy.reset()
    assert (policy.act([3.0, 1.0]) == policy.act([3.0, 1.0])).all()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"normalizer": {"mean": torch.zeros(3), "std": torch.ones(2)}}, "normalizer.mean must be 2 numbers"),
        ({"normalizer": {"mean": torch.zeros(2), "std": torch.zeros(2)}}, "normalizer.std must be positive"),
        ({"reward_scale": float("nan")}, "reward_scale is not finite"),
        ({"policy": {}}, "Missing key"),
        ({"config": "env: [1"}, "is not plain YAML"),
        ({"config": "env: walker"}, "not of this version"),
    ],
)
def test_a_file_of_other_content_is_refused_by_name(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    path = save(tmp_path, make_lively_actor_critic(), **changed)
    with pytest.raises(CheckpointError, match=rf"policy\.pt holds no policy that this version can use: .*{said}"):
        vdt.load_policy(path)


def test_other_checkpoints_devices_and_the_simulator_are_refused(tmp_path: Path, path: Path) -> None:
    torch.save({"critic": {}}, tmp_path / "critic.pt")
    with pytest.raises(CheckpointError, match="it is not a checkpoint of train_actor or tune_online"):
        vdt.load_policy(tmp_path / "critic.pt")
    with pytest.raises(ValueError, match="device must be one of cpu, cuda, auto, not 'tpu'"):
        vdt.load_policy(path, device="tpu")
    simulator = save(tmp_path, make_lively_actor_critic({"planner.env_model": "simulator"}))
    with pytest.raises(ValueError, match="load it with lookahead=False"):
        vdt.load_policy(simulator, lookahead=True)
    assert vdt.load_policy(simulator).spaces.action_size == 1


def test_loads_and_acts_without_what_trains(path: Path) -> None:
    blocked = "metaflow mlflow dvc minari gymnasium gymnasium_robotics mujoco matplotlib pandas h5py scipy typer"
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked.split()!r}));"
        "import vdt; assert 'torch' not in sys.modules and 'numpy' not in sys.modules, 'import vdt is cheap';"
        f"policy = vdt.load_policy({str(path)!r}, lookahead=True); policy.reset(); policy.act([3.0, 1.0]);"
        "print(policy.act([2.0, 1.0], 1.0).shape, vdt.Policy.__name__)"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120, stdout=subprocess.PIPE)
    assert said.stdout.decode().split("\n")[0] == "(1,) Policy"


def test_the_example_acts(tmp_path: Path) -> None:
    settings = {"task.environment_id": "InvertedPendulum-v5", "task.observation_size": 4, "task.horizon": 5}
    actor_critic = make_lively_actor_critic({**settings, "task.action_low": [-3.0], "task.action_high": [3.0]})
    path = save(tmp_path, actor_critic)
    command, variables = [sys.executable, "examples/act.py", str(path), "7"], {**os.environ, "PYTHONPATH": str(ROOT)}
    said = subprocess.run(
        command, check=True, cwd=ROOT, env=variables, timeout=120, stdout=subprocess.PIPE, text=True
    ).stdout
    planner = PlannerSettings.from_config(actor_critic.config).follow(12.0)
    (expected,) = act_as_in_training(actor_critic, planner, [7])
    assert said == f"walker2d-medium-v2: return {expected.episode_return:.4f}\n"
    assert isinstance(make_raw_environment(actor_critic.config.task).action_space, gymnasium.spaces.Box)


def test_final_checkpoints_of_training_are_policies(tmp_path: Path) -> None:
    config, dataset = make_config({"online.environment_steps": 10}), make_dataset()
    critic = pretrain_critic(config, dataset, NullTracker(), make_store(tmp_path / "critic"))
    offline = train_actor(config, dataset, critic, NullTracker(), make_store(tmp_path / "actor"))
    seeded = seed_buffer(config, dataset, tmp_path / "buffer.hdf5")
    online = tune_online(config, offline, seeded, dataset, NullTracker(), make_store(tmp_path / "online"))
    for name, path in (("offline", offline), ("online", online)):
        policy = vdt.load_policy(path)
        assert policy.metadata["gradient_steps"] >= 30 and "torch" in policy.metadata["versions"]
        assert policy.metadata["policy"] == name and policy.metadata["sha256"] == compute_file_digest(path, "sha256")
        assert policy.metadata["data"] == {} == policy.metadata["scores"], "these files say nothing of them"
        assert policy.metadata["environment_steps"] == load_state(path).get("environment_steps", 0)
        policy.reset()
        assert np.isfinite(policy.act([3.0, 1.0])).all()
    with pytest.raises(CheckpointError, match="it is not a checkpoint of train_actor or tune_online"):
        vdt.load_policy(critic)


def test_sums_are_steady_before_a_policy_is_loaded_in_python() -> None:
    program = (
        "import os, vdt, vdt.system.machine as machine\n"
        "machine.read_processor = lambda: 'GenuineIntel'\n"
        "vdt.EpisodeWriter; before = 'MKL_CBWR' in os.environ\n"
        "vdt.load_policy; print(before, os.environ.get('MKL_CBWR'))"
    )
    bare = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
    said = subprocess.run([sys.executable, "-c", program], env=bare, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False", "AUTO,STRICT"]

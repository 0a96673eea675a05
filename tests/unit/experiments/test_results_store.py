"""What makes two cells the same, and one critic for both."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vdt.experiments.results_store
from support.builders import (
    Interrupted,
    InterruptingTracker,
    RecordingTracker,
    assert_identical,
    make_config,
    make_dataset,
    make_store,
)
from vdt.agent.policy_files import PolicyFile, read_scores, write_scores
from vdt.checkpoint.store import CheckpointStore, load_state
from vdt.config.schema import Config
from vdt.data.trajectory import TrajectoryDataset
from vdt.experiments.results_store import (
    COMPUTING,
    SHOWING,
    compute_code_digest,
    compute_identity,
    find_result,
    name_delivered_runs,
    save_result,
)
from vdt.experiments.sharing import Sharing, compute_actor_key, compute_critic_key, share_actor, share_training
from vdt.system.files import compute_file_digest
from vdt.tracking import Tracker
from vdt.training.critic_pretraining import pretrain_critic
from vdt.training.offline import train_actor
from vdt.training.score_curve import TrainingStopped

FACTS = {"data": {"md5": "md5"}}


class TaggedTracker(RecordingTracker):
    """Keeps tags, too."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: dict[str, str] = {}

    def put(self, record: Any) -> None:
        self.tags.update(record.tags)


@pytest.fixture
def dataset() -> TrajectoryDataset:
    return make_dataset()


def share(home: Path, dataset: TrajectoryDataset, run: str, tracker: Any = None, **settings: Any) -> tuple[Path, str]:
    config, tracker = make_config({"checkpoint.interval_steps": 10, **settings}), tracker or TaggedTracker()
    key = compute_critic_key(config, "md5")
    sharing, store = Sharing(home, run, "md5"), make_store(home / run, every=10, facts=FACTS)

    def train(store: CheckpointStore, tracker: Tracker) -> Path:
        return pretrain_critic(config, dataset, tracker, store)

    return share_training("critic", key, config, sharing, tracker, store, train)


def test_a_result_belongs_to_the_versions_that_it_was_computed_with(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": "2.13.0", "numpy": "2.1", "gymnasium": "1.2", "mujoco": "3.3"}
    monkeypatch.setattr("importlib.metadata.version", versions.__getitem__)
    plain = compute_code_digest.__wrapped__()
    versions["torch"] = "2.13.0+cpu"
    assert compute_code_digest.__wrapped__() == plain, "a build of the same version"
    versions["mujoco"] = "3.4"
    assert compute_code_digest.__wrapped__() != plain


def test_identity() -> None:
    config = make_config()
    identity = compute_identity(config, "collected/abc")
    assert identity == compute_identity(make_config({"runtime.threads": 3, "checkpoint.keep": 9}), "collected/abc")
    others = [
        compute_identity(config, "collected/abd"),
        compute_identity(make_config({"critic.expectile": 0.6}), "collected/abc"),
        compute_identity(make_config({"evaluation.episodes": 5}), "collected/abc"),
        compute_identity(config.with_seed(1), "collected/abc"),
    ]
    assert len({identity, *others}) == 5


def test_a_new_key_leaves_the_identities_of_those_that_leave_it_at_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who adds a loss, off by default, still finds the table that it is to extend."""
    config = make_config()
    assert config.actor.warm_start_steps == 0
    flat = config.flatten()
    before = {key: value for key, value in flat.items() if key != "actor.warm_start_steps"}
    monkeypatch.setattr(Config, "flatten", lambda self: before)
    identity = compute_identity(config, "abc")
    monkeypatch.setattr(Config, "flatten", lambda self: flat)
    assert compute_identity(config, "abc") == identity
    monkeypatch.setattr(Config, "flatten", lambda self: {**flat, "actor.warm_start_steps": 5})
    assert compute_identity(config, "abc") != identity


def test_results_are_found_by_identity_and_code(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_result(home, "abc") is None and find_result(home, "abc", any_code=True) is None
    save_result(home, "abc", {"score": 1.5})
    found = find_result(home, "abc")
    assert found is not None and (found["score"], found["code"]) == (1.5, compute_code_digest())
    assert find_result(home, "abd", any_code=True) is None
    monkeypatch.setattr(vdt.experiments.results_store, "compute_code_digest", lambda: "another")
    assert find_result(home, "abc") is None, "other code, other result"
    assert find_result(home, "abc", any_code=True) == found
    newer = save_result(home, "abc", {"score": 2.5})
    os.utime(newer, (2e9, 2e9))
    monkeypatch.setattr(vdt.experiments.results_store, "compute_code_digest", lambda: "a third")
    latest = find_result(home, "abc", any_code=True)
    assert latest is not None and (latest["score"], latest["code"]) == (2.5, "another"), "the newest of several"


def test_delivered_runs_are_named_beside_each_policy(home: Path) -> None:
    local, known = f"local-{'0' * 32}", "f" * 32
    places = ("checkpoints/VDTFlow/1/tune_online/cell/12.0a.pt", "shared/actor-0123/10.0b.pt")
    paths = [home / ".vdt" / place for place in places]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"weights")
        write_scores(PolicyFile(path, "online", compute_file_digest(path, "sha256"), {}, local))
    assert name_delivered_runs(home, lambda: {local: known}) == 2
    assert [read_scores(path).mlflow_run_id for path in paths] == [known, known]


def test_a_result_whose_run_is_named_is_no_newer_than_before(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = f"local-{'0' * 32}"
    for seconds, run_id, code in ((1.0e9, local, "an older"), (1.1e9, "e" * 32, "a newer")):
        monkeypatch.setattr(vdt.experiments.results_store, "compute_code_digest", lambda code=code: code)
        os.utime(save_result(home, "abc", {"mlflow_run_id": run_id}), (seconds, seconds))
    assert name_delivered_runs(home, lambda: {local: "f" * 32}) == 1
    monkeypatch.setattr(vdt.experiments.results_store, "compute_code_digest", lambda: "a third")
    found = find_result(home, "abc", any_code=True)
    assert found is not None and (found["code"], found["mlflow_run_id"]) == ("a newer", "e" * 32)
    older = home / ".vdt" / "results" / "abc-an older.json"
    assert older.stat().st_mtime == 1.0e9 and "f" * 32 in older.read_text()


def test_code_that_only_shows_is_left_out() -> None:
    """Every name is a module, and the ones that compute are not among them."""
    root = Path(vdt.experiments.results_store.__file__).parents[1]
    assert all((root / name).exists() for name in SHOWING | COMPUTING)
    assert (
        not {"agent", "evaluation", "environments", "training", "critic", "policy", "data", "datasets", "acceleration"}
        & SHOWING
    )


def test_only_code_that_computes_changes_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vdt.experiments.results_store, "ROOT", tmp_path)

    def edit(name: str) -> str:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("edited = True")
        return compute_code_digest.__wrapped__()

    before = edit("config/schema.py")
    assert {edit(name) for name in ("cli/data.py", "config/reference.py", "reporting/report.py")} == {before}
    assert {edit(name) for name in ("serving/server.py", "agent/export.py", "experiments/cells.py")} == {before}
    assert len({before, edit("training/cli.py"), edit("experiments/sharing.py"), edit("agent/agent.py")}) == 4


def test_the_critic_is_trained_once(home: Path, dataset: TrajectoryDataset) -> None:
    first, second = TaggedTracker(), TaggedTracker()
    path, owner = share(home, dataset, "run-1", first)
    assert owner == "" and first.tags == {} and len(first.metrics) == 30
    again, taken_from = share(
        home, dataset, "run-2", second, **{"actor.q_coefficient": 0.1, "online.environment_steps": 0}
    )
    assert (again, taken_from) == (path, "run-1")
    assert second.tags == {"critic_shared_from": "run-1"}
    assert second.metrics == first.metrics, "all its points, so that runs can be compared"
    assert share(home, dataset, "run-1") == (path, ""), "the owner's step is run once more"


def test_a_shared_critic_is_the_one_trained_alone(home: Path, dataset: TrajectoryDataset, tmp_path: Path) -> None:
    shared, alone = share(home, dataset, "run-1")[0], make_store(tmp_path / "alone")
    other = pretrain_critic(make_config(), dataset, RecordingTracker(), alone)
    assert_identical(load_state(shared)["critic"], load_state(other)["critic"])


def test_the_next_cell_takes_over_from_a_dead_one(home: Path, dataset: TrajectoryDataset, capsys: Any) -> None:
    with pytest.raises(Interrupted):
        share(home, dataset, "run-1", InterruptingTracker(at=15))
    tracker = TaggedTracker()
    path, owner = share(home, dataset, "run-2", tracker)
    assert owner == "" and tracker.tags == {"critic_continued_from": "run-1"}
    assert "continuing from step 10" in capsys.readouterr().out
    assert [step for step, _ in tracker.metrics] == list(range(1, 31)), "those of the dead one's checkpoint are copied"
    assert share(home, dataset, "run-1") == (path, "run-2")


def test_a_damaged_shared_critic_is_not_taken(home: Path, dataset: TrajectoryDataset) -> None:
    path, _ = share(home, dataset, "run-1")
    good = load_state(path)["critic"]
    path.write_bytes(path.read_bytes()[:-10])
    repaired, owner = share(home, dataset, "run-2")
    assert owner == ""
    assert_identical(load_state(repaired)["critic"], good)


def test_the_actor_is_trained_once(home: Path, dataset: TrajectoryDataset) -> None:
    """For cells that choose their actions in other ways, or go on in other ways; it is the one that each would train."""
    critic = share(home, dataset, "run-1")[0]

    def share_one(run: str, **settings: Any) -> tuple[Path, str, TaggedTracker]:
        config, tracker = make_config(settings), TaggedTracker()
        key = compute_actor_key(config, "md5")
        sharing, store = Sharing(home, run, "md5"), make_store(home / run, facts=FACTS)

        def train(store: CheckpointStore, tracker: Tracker) -> Path:
            return train_actor(config, dataset, critic, tracker, store)

        path, owner = share_training("actor", key, config, sharing, tracker, store, train)
        return path, owner, tracker

    path, owner, _ = share_one("run-1")
    assert owner == ""
    again, taken_from, tracker = share_one("run-2", **{"planner.candidates": 1, "evaluation.episodes": 3})
    assert (again, taken_from, tracker.tags) == (path, "run-1", {"actor_shared_from": "run-1"})
    other, owner, _ = share_one("run-3", **{"actor.q_coefficient": 0.1})
    assert other != path and owner == ""
    config = make_config()
    alone = train_actor(config, dataset, critic, RecordingTracker(), make_store(home / "alone"))
    assert_identical(load_state(path)["actor_critic"]["policy"], load_state(alone)["actor_critic"]["policy"])
    assert load_state(path)["data"] == FACTS["data"] and "data" not in load_state(alone)


def test_scores_of_a_shared_actor_are_watched_by_each_cell(home: Path, dataset: TrajectoryDataset) -> None:
    """A search prunes by them, so a trial that takes another's actor must see what that one saw."""
    critic = share(home, dataset, "run-1")[0]

    def watch(run: str, stop: int = 0, **settings: Any) -> list[int]:
        seen: list[int] = []

        def note(step: int, score: float) -> None:
            seen.append(step)
            if step == stop:
                raise TrainingStopped(step)

        config = make_config({"evaluation.curve_points": 2, **settings})
        sharing, store = Sharing(home, run, "md5"), make_store(home / run, every=15, facts=FACTS)
        with contextlib.suppress(TrainingStopped):
            share_actor(config, dataset, critic, RecordingTracker(), store, sharing, note)
        return seen

    assert watch("run-1", stop=20) == [10, 20]
    assert watch("run-2", **{"planner.candidates": 1})[0] == 10, "measured before the checkpoint that it goes on from"
    assert watch("run-3", **{"planner.candidates": 2}) == [10, 20]
    assert watch("run-4", stop=10, **{"planner.select": "margin"}) == [10]


def test_a_critic_depends_on_the_limit_of_its_test_where_another_may_follow() -> None:
    limits = [{"critic.second_weighting": "return", "actor.max_history_correlation": limit} for limit in (0.1, 0.2)]
    assert len({compute_critic_key(make_config(given), "md5") for given in limits}) == 2


def test_an_actor_depends_on_the_acting_context_where_a_critic_follows_it() -> None:
    follows = {"critic.bootstrap": "policy", "actor.inverse_temperature": 0, "actor.max_history_correlation": 1}
    contexts = [{**follows, "planner.context_length": steps} for steps in (1, 2)]
    assert len({compute_actor_key(make_config(given), "md5") for given in contexts}) == 2


@pytest.mark.parametrize(
    ("compute_key", "settings", "same"),
    [
        (compute_critic_key, {"actor.gradient_steps": 3, "policy.context_length": 2, "planner.candidates": 1}, True),
        (compute_critic_key, {"actor.max_history_correlation": 0.1}, True),
        (compute_critic_key, {"critic.second_weighting": "return"}, False),
        (compute_critic_key, {"task.candidate_returns": [1], "task.return_scale": 3.0}, True),
        (compute_critic_key, {"runtime.precision": "bfloat16"}, True),
        (compute_critic_key, {"runtime.acceleration": "off"}, False),
        (compute_critic_key, {"critic.expectile": 0.6}, False),
        (compute_critic_key, {"task.reward_shift": -1.0}, False),
        (compute_critic_key, {"data.trajectory_weighting": "uniform"}, False),
        (compute_critic_key, {"data.keep_best_fraction": 0.5}, False),
        (compute_critic_key, {"data.window_start": "inside"}, True),
        (compute_actor_key, {"data.window_start": "inside"}, False),
        (compute_critic_key, {"data.observation_clip": 5.0}, False),
        (
            compute_actor_key,
            {
                "planner.returns": "data",
                "planner.return_quantiles": [0.5],
                "planner.select": "margin",
                "planner.select_steps": 2,
            },
            True,
        ),
        (
            compute_actor_key,
            {"planner.candidates": 1, "planner.env_model": "learned", "planner.planning_horizon": 2},
            True,
        ),
        (
            compute_actor_key,
            {"online.environment_steps": 7, "evaluation.seed": 3, "checkpoint.keep": 9, "runtime.threads": 3},
            True,
        ),
        (compute_actor_key, {"evaluation.curve_points": 2}, False),
        (compute_actor_key, {"planner.context_length": 1, "planner.forget_steps": 2}, True),
        (compute_actor_key, {"runtime.precision": "bfloat16"}, False),
        (compute_actor_key, {"runtime.acceleration": "off"}, False),
        (compute_actor_key, {"actor.gradient_steps": 3}, False),
        (compute_actor_key, {"policy.context_length": 2}, False),
        (compute_actor_key, {"critic.expectile": 0.6}, False),
        (compute_actor_key, {"task.return_scale": 3.0}, False),
        (compute_actor_key, {"data.keep_best_fraction": 0.5}, False),
    ],
)
def test_what_a_training_depends_on(
    compute_key: Callable[[Config, str], str], settings: dict[str, Any], same: bool
) -> None:
    keys = {compute_key(make_config(given), "md5") for given in ({}, settings)}
    assert len(keys) == (1 if same else 2)
    config = make_config()
    assert len({compute_key(config, md5) for md5 in "ab"} | {compute_key(config.with_seed(1), "a")}) == 3


def test_a_score_curve_depends_on_its_episodes_and_not_on_the_evaluation_afterwards() -> None:
    curve, after = {"evaluation.curve_points": 2}, {"evaluation.episodes": 7, "evaluation.requested_episodes": 9}
    acts = {"returns": "data", "return_quantiles": [0.5], "context_length": 1, "forget_steps": 2}
    others = [{"evaluation.seed": 3}, *({f"planner.{name}": value} for name, value in acts.items())]
    first, same, *rest = (compute_actor_key(make_config({**curve, **m}), "md5") for m in ({}, after, *others))
    assert first == same and len({first, *rest}) == 1 + len(others), "each asks or acts otherwise"


def test_an_actor_depends_on_whether_its_critic_is_tested() -> None:
    """Where the choice of a return alone asks the critic, one candidate leaves the critic untested."""
    off = {"actor.inverse_temperature": 0, "actor.q_coefficient": 0, "actor.max_history_correlation": 0.25}
    keys = {compute_actor_key(make_config({**off, "planner.candidates": m}), "md5") for m in (1, 2)}
    assert len(keys) == 2
    asked = {"actor.max_history_correlation": 0.25}
    assert len({compute_actor_key(make_config({**asked, "planner.candidates": m}), "md5") for m in (1, 2)}) == 1


def test_a_critic_depends_on_the_horizon_where_steps_beyond_are_dropped() -> None:
    for beyond, different in (("drop", 2), ("keep", 1)):
        configs = (make_config({"data.beyond_horizon": beyond, "task.horizon": steps}) for steps in (8, 12))
        assert len({compute_critic_key(config, "md5") for config in configs}) == different

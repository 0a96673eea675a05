"""Study files: what they expand to, and what is refused by name before any work."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from vdt.config.errors import ConfigError
from vdt.config.schema import Config
from vdt.experiments.cells import resolve_cells
from vdt.experiments.opened import make_labels
from vdt.experiments.ranges import format_numbers, parse_numbers
from vdt.experiments.resolve import resolve_config
from vdt.experiments.study import STUDIES, Study, count_cells, expand, load_study

ENVS = ["walker2d-medium-v2", "hopper-medium-v2"]


def write_study(folder: Path, name: str = "mine", **content: Any) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"preset": "smoke", "envs": ENVS, **content}, sort_keys=False))
    return str(path)


def test_cells_are_env_by_method_by_patch_by_seed(tmp_path: Path) -> None:
    patches = {"small": {"policy": {"context_length": 2}}, "large": {"policy": {"context_length": 4}}}
    given = write_study(tmp_path, methods=["vdt", "dt"], seeds=[3, 1], patches=patches, set={"data": {"steps": 500}})
    plans, study = resolve_cells({"study": given})
    assert study is not None and study.name == "mine"
    assert [plan.key for plan in plans] == [
        f"{env}-{method}-{patch}-s{seed}"
        for env in ENVS
        for method in ("vdt", "dt")
        for patch in ("small", "large")
        for seed in (3, 1)
    ]
    assert {plan.config.data.steps for plan in plans} == {500}
    assert [plan.config.policy.context_length for plan in plans[:4]] == [2, 2, 4, 4]
    alone = resolve_config(ENVS[0], preset="smoke", seed=3, overrides="data.steps=500 policy.context_length=2")
    assert plans[0].config == alone


def test_data_seeds_are_cells_of_their_own(tmp_path: Path) -> None:
    given = write_study(tmp_path, source="collected", methods=["vdt", "dt"], seeds=[3, 1], data_seeds=[0, 2])
    plans, _ = resolve_cells({"study": given, "env": ENVS[0]})
    assert [(plan.config.method, plan.config.data.seed, plan.config.seed) for plan in plans] == [
        (method, data_seed, seed) for method in ("vdt", "dt") for data_seed in (0, 2) for seed in (3, 1)
    ]
    assert [plan.key for plan in plans[:3]] == [f"{ENVS[0]}-vdt-s3", f"{ENVS[0]}-vdt-s1", f"{ENVS[0]}-vdt-d2-s3"]
    assert make_labels(plans)[2] == "3/8 vdt d2 s3"
    second, _ = resolve_cells({"study": given, "env": ENVS[0], "set": "data.ladder=second"})
    assert [plan.key for plan in second[1:3]] == [f"{ENVS[0]}-vdt-second-s1", f"{ENVS[0]}-vdt-second-d2-s3"]


def test_data_seeds_of_the_command_line(tmp_path: Path) -> None:
    """Instead of a study's, and of a run without one."""
    words = {"env": "walker2d-medium-v2", "source": "collected", "data_seeds": "5-6", "seeds": "0,1"}
    mine = write_study(tmp_path, source="collected", data_seeds=[1, 2])
    for given in (words, {"study": mine, "data_seeds": "5,6", "seeds": "0,1"}):
        cells, _ = resolve_cells(given)
        assert {(c.config.data.seed, c.config.seed) for c in cells} == {(5, 0), (5, 1), (6, 0), (6, 1)}
    with pytest.raises(ConfigError, match=r"^--data-seeds: data_seeds needs source collected, not auto"):
        resolve_cells({**words, "source": ""})


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        ({}, {}, "data_seeds needs source collected, not auto: other data has no seed"),
        ({"source": "collected", "set": {"data": {"seed": 1}}}, {}, "data_seeds and set both give data.seed"),
        ({"source": "collected", "patches": {"a": {"data": {"seed": 1}}}}, {}, "data_seeds and patch a both give"),
        ({"source": "collected"}, {"set": "data.seed=3"}, "data_seeds and --set both give data.seed"),
    ],
)
def test_data_seeds_that_would_be_lost_are_refused(
    tmp_path: Path, content: dict[str, Any], words: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_cells({"study": write_study(tmp_path, data_seeds=[1, 2], **content), **words})


def test_the_command_line_overrides(tmp_path: Path) -> None:
    given = write_study(tmp_path, methods=["vdt", "dt"], seeds=[0], set={"data": {"steps": 500}})
    words = {
        "study": given,
        "env": ENVS[1],
        "method": "dt",
        "seeds": "4,5",
        "set": "data.steps=700",
        "source": "collected",
    }
    plans, _ = resolve_cells(words)
    assert [plan.key for plan in plans] == [f"{ENVS[1]}-dt-s4", f"{ENVS[1]}-dt-s5"]
    assert {(plan.config.data.steps, plan.config.data.source) for plan in plans} == {(700, "collected")}


def test_a_study_is_run_on_other_envs_and_methods() -> None:
    """The paper's ablation on data that we can collect: all eight combinations of the same parts, env by env."""
    envs = ("hopper-medium-v2", "walker2d-medium-replay-v2")
    plans, study = resolve_cells({"study": "ablation", "env": ",".join(envs), "source": "collected", "seeds": "0,1,2"})
    assert study is not None and study.envs == envs != load_study("ablation").envs
    assert [plan.key for plan in plans] == [
        f"{e}-vdt-{p}-second-d1-s{s}" for e in envs for p in study.patches for s in range(3)
    ]
    for plan in plans:
        assert get_parts(plan.config) == name_parts(plan.patch), plan.key
    assert {plan.config.online.environment_steps for plan in plans} == {0}
    others, _ = resolve_cells({"study": "quick", "method": "awac,vdt"})
    assert [plan.config.method for plan in others[::2]] == ["awac", "vdt"] * 2


def test_without_a_study_the_defaults_hold() -> None:
    plans, study = resolve_cells({"env": ENVS[0]})
    assert study is None
    assert [(p.config.preset, p.config.method, p.config.seed, p.patch) for p in plans] == [("laptop", "vdt", 0, "")]


def test_patches_stay_mappings(tmp_path: Path) -> None:
    """What a shell would take apart: lists, spaces, quotes, mappings as values."""
    patch = {"task": {"candidate_returns": [3.5, 1], "environment_kwargs": {"a": "b 'c"}}, "runtime": {"device": "cpu"}}
    plans, _ = resolve_cells({"study": write_study(tmp_path, patches={"one": patch}, envs=ENVS[:1])})
    task = plans[0].config.task
    assert (task.candidate_returns, json.loads(task.environment_kwargs)) == ((3.5, 1.0), {"a": "b 'c"})
    assert plans[0].config.runtime.device == "cpu"


PARTS = ("weighting", "regularisation", "sampling")


def get_parts(config: Config) -> set[str]:
    """Parts of the method (Table 3) that a configuration has switched on."""
    on = (config.actor.inverse_temperature > 0, config.actor.q_coefficient > 0, config.planner.candidates > 1)
    return set(itertools.compress(PARTS, on))


def name_parts(patch: str) -> set[str]:
    """Parts that a patch of the ablation is named by."""
    return {"all": set(PARTS), "none": set()}.get(patch, set(patch.split("-")))


@pytest.mark.parametrize(
    ("name", "odd"), [("my study", " "), ("History", "H"), ("-a", "-a"), ("a" * 41, "a" * 41)], ids=repr
)
def test_a_name_that_is_refused_names_the_character(tmp_path: Path, name: str, odd: str) -> None:
    path = tmp_path / f"{name}.yaml"
    path.write_text("envs: [walker2d-medium-v2]\n")
    with pytest.raises(ConfigError, match=rf"named by its file: at most 40 small letters, .* first, not '{odd}'$"):
        load_study(str(path))


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_studies_that_come_with_it(path: Path) -> None:
    study = load_study(path.stem)
    plans = expand(study)
    data_seeds = max(1, len(study.data_seeds))
    points = math.prod(map(len, study.grid.values()))
    assert len(plans) == len(study.envs) * len(study.methods) * len(study.patches) * points * data_seeds * len(
        study.seeds
    )
    if path.stem == "ablation":
        assert len({frozenset(get_parts(plan.config)) for plan in plans}) == 8 == len(study.patches)
        assert all(get_parts(plan.config) == name_parts(plan.patch) for plan in plans)
    if path.stem == "context":
        assert {p.patch: p.config.policy.context_length for p in plans} == {"k8": 8, "k20": 20, "k60": 60, "k120": 120}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"method": ["vdt"]}, "unknown key 'method'; did you mean 'methods'"),
        (
            {"envs": ["walker2d-medum-v2"]},
            "env walker2d-medum-v2, method vdt: unknown env 'walker2d-medum-v2'; did you",
        ),
        ({"methods": ["vtd"]}, "unknown method 'vtd'; did you mean 'vdt'"),
        ({"envs": []}, "envs is empty or absent, so the study has no cells"),
        ({"seeds": []}, "seeds is empty or absent"),
        ({"patches": {}}, "patches is empty or absent"),
        ({"seeds": ["one"]}, "seeds must be a whole number, not 'one'"),
        ({"seeds": [1, 1]}, "seeds names something twice: 1, 1"),
        ({"seeds": [-1]}, "seed must be at least 0"),
        ({"seeds": [0, -1]}, "seed must be at least 0"),
        ({"preset": "big"}, "unknown preset 'big'"),
        ({"set": {"critic": {"expectil": 0.8}}}, "unknown key 'critic.expectil'; did you mean 'critic.expectile'"),
        ({"set": 3}, "set must hold a mapping"),
        ({"set": {"critic": {"expectile": 2}}}, "method vdt: set: critic.expectile must be between"),
        ({"set": {"seed": 3}}, "set: seed is given by --seeds, not by a change of settings"),
        ({"patches": {"a": {"critic": {"expectile": 2}}}}, "patch a: patches.a: critic.expectile must be between"),
        ({"patches": {"A/../b": {}}}, "patches: 'A/../b' is no name"),
        ({"patches": {"a": {}, "b": {}}}, "patches 'a' and 'b' give vdt on walker2d-medium-v2 the same configuration"),
        (
            {"methods": ["bc", "bc-10"], "patches": {"10-x": {"actor.batch_size": 32}, "x": {"actor.batch_size": 64}}},
            "bc with patch '10-x' and bc-10 with patch 'x' on walker2d-medium-v2 would both be called "
            "walker2d-medium-v2-bc-10-x-s0; rename a patch",
        ),
        ({"published": "offlin"}, "there is no table 'offlin'; did you mean 'offline'"),
        ({"share_training": "perhaps"}, "share_training must be true or false"),
        ({"source": "path:nowhere.hdf5"}, "there is no file or folder nowhere.hdf5"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    given = write_study(tmp_path, **content)
    with pytest.raises(ConfigError) as caught:
        resolve_cells({"study": given})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"study": "offlin"}, "there is no file offlin; did you mean 'offline'"),
        ({"study": "../offline"}, "there is no file ../offline; did you mean 'offline'"),
        ({"study": "params"}, "there is no file params"),
        ({"study": "quick", "env": "hopper-medum-v2"}, "unknown env 'hopper-medum-v2'; did you mean"),
        ({"study": "quick", "method": "awak"}, "unknown method 'awak'; did you mean 'awac'"),
        ({"study": "quick", "env": "hopper-medium-v2,"}, "--env needs at least one name"),
        ({"study": "quick", "reuse": "all"}, "--reuse must be exact, settings or none, not 'all'"),
        ({"study": "quick", "seeds": "x"}, "--seeds takes whole numbers"),
        ({"study": "quick", "seeds": "4-0"}, "--seeds: the range 4-0 falls; 0-4 is accepted"),
        ({"study": "quick", "seeds": "0-"}, "--seeds takes whole numbers from 0, and ranges such as 0-4, separated by"),
        ({"study": "quick", "seeds": "0-100000"}, "the range 0-100000 has 100,001 seeds; at most 10,000 are accepted"),
        (
            {"env": ENVS[0], "seeds": "0,9007199254740993"},
            "--seeds takes whole numbers up to 9,007,199,254,740,992, not 9007199254740993",
        ),
        ({"env": ENVS[0], "data_seeds": "9007199254740992-9007199254740993"}, "--data-seeds takes whole numbers up to"),
        ({"env": ENVS[0], "seeds": "1" * 19}, "--seeds takes whole numbers up to 9,007,199,254,740,992, not 1111111"),
        ({"study": "quick", "seeds": "1,0-2"}, "--seeds names something twice: '1,0-2'"),
        (
            {"env": ",".join(ENVS), "seeds": "0-9999"},
            "2 envs x 10,000 seeds are 20,000 cells; at most 10,000 are accepted",
        ),
        ({"study": "zzz"}, "there is no file zzz. Known: ablation, "),
        ({"env": "nothing"}, "unknown env 'nothing'. Known: "),
        ({"env": ENVS[0], "method": "foo"}, "unknown method 'foo'. Known: awac, "),
        ({"env": ENVS[0], "preset": "foo"}, "unknown preset 'foo'. Known: equal-time, fair, laptop, "),
    ],
)
def test_wrong_words_are_refused(words: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_cells(words)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seeds"), [("0", (0,)), ("0-4", (0, 1, 2, 3, 4)), ("7,0-2,5-5", (7, 0, 1, 2, 5)), (" 3 , 1", (3, 1))]
)
def test_seeds_are_numbers_and_ranges(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_numbers(text, "--seeds") == seeds
    assert [plan.config.seed for plan in resolve_cells({"env": ENVS[0], "seeds": text})[0]] == list(seeds)


@pytest.mark.parametrize("text", ["0", "0,1", "0-2", "0,1,5", "0-2,5-7,20261129"])
def test_numbers_are_written_as_they_are_read(text: str) -> None:
    assert format_numbers(reversed(parse_numbers(text, "--seeds"))) == text


def test_a_study_is_named_by_its_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="small letters"):
        load_study(write_study(tmp_path, name="My Study"))


def test_a_cell_by_number_is_resolved_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job per cell would else cost the square of their number."""
    study = Study(
        name="a",
        place="a.yaml",
        preset="smoke",
        envs=("hopper-medium-v2", "walker2d-medium-v2"),
        methods=("vdt", "bc"),
        seeds=(4, 2, 7),
        patches={"one": {"evaluation": {"episodes": 3}}, "two": {"evaluation": {"episodes": 4}}},
    )
    everything, resolved = expand(study), list[str]()

    def count(env: str, **more: Any) -> Any:
        resolved.append(env)
        return resolve_config(env, **more)

    monkeypatch.setattr("vdt.experiments.study.resolve_config", count)
    assert [expand(study, numbers=[number])[0] for number in range(1, len(everything) + 1)] == everything
    assert len(everything) == count_cells(study) == 24
    resolved.clear()
    assert expand(study, numbers=[2, 3, 24]) == [everything[1], everything[2], everything[23]]
    assert len(resolved) == 2

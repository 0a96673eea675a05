"""Studies through the real flow: a shared critic whose trainer is killed, a resume, another seed, a second report."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from support.flow import ENV, LIMIT, make_variables, run_flow, start_flow
from vdt.experiments.cells import order_by_critic, resolve_cells, split_finished
from vdt.tracking import open_store

STUDY = f"""
title: Two strengths of the Q term
published: offline
preset: smoke
source: collected
envs: [{ENV}]
methods: [vdt]
set:
  critic: {{gradient_steps: 3000}}
  online: {{environment_steps: 0}}
  evaluation: {{lookahead_horizon: 0, requested_episodes: 1, max_episode_steps: 0}}
  checkpoint: {{interval_steps: 300, interval_seconds: 10000}}
patches:
  strong: {{}}
  weak: {{actor: {{q_coefficient: 0.1}}}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    (folder / "strength.yaml").write_text(STUDY)
    return folder


def get_runs(folder: Path) -> dict[str, Any]:
    """MLflow runs of cells by name."""
    client = open_store(folder / "home")
    experiment = client.get_experiment_by_name("vdt")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], "tags.env != ''")
    return {run.info.run_name: run for run in found}


def read_report(folder: Path) -> Any:
    return json.loads((folder / "home" / "reports" / "study-strength" / "report.json").read_text())


def find_critics(folder: Path) -> list[Path]:
    return sorted((folder / "home" / ".vdt" / "shared").glob("critic-*"))


def kill_with_a_checkpoint(folder: Path, pid: int) -> None:
    deadline = time.monotonic() + 60
    while not any(list(path.glob("*.pt")) for path in find_critics(folder)):
        assert time.monotonic() < deadline, "no checkpoint of the shared critic"
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)


def test_study(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("run", "--study", str(folder / "strength.yaml"))
    killed = check_a_killed_trainer(folder, words)
    check_the_resume(folder, killed)
    check_another_seed(folder, words)
    check_the_second_report(folder, words)
    for name, value in make_variables(folder).items():
        monkeypatch.setenv(name, value)
    check_what_counts_as_finished(folder)


def check_a_killed_trainer(folder: Path, words: tuple[str, ...]) -> str:
    """Killed with a checkpoint, while the other cell waits for its critic. Returns what was printed."""
    lines, killed = [], 0
    with start_flow(folder, *words) as flow:
        assert flow.stdout is not None
        for line in flow.stdout:
            lines.append(line)
            training = re.search(r"pretrain_critic/\d+ \(pid (\d+)\)\] [^|]+ \| critic: 3,000 gradient steps", line)
            if training and not killed:
                killed = int(training[1])
                kill_with_a_checkpoint(folder, killed)
    output = "".join(lines)
    assert flow.returncode == 1 and killed, output
    assert "study strength: 0 cells are finished, 2 are run" in output
    return output


def check_the_resume(folder: Path, killed: str) -> None:
    (command,) = re.findall(r"^\s+(VDT_HOME=\S+ .* resume --origin-run-id \d+)$", killed, re.MULTILINE)
    resumed = subprocess.run(
        f"env {command}", shell=True, cwd="/", env=make_variables(folder), capture_output=True, text=True, timeout=LIMIT
    )
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert len(re.findall("critic: taken from MLflow run", resumed.stdout)) == 1, "one trains, the other takes"
    assert re.search(r"continuing from step [1-9]", killed + resumed.stdout), "the waiting cell may be quicker"
    (critic,) = find_critics(folder)
    assert (critic / "DONE").exists()
    runs = get_runs(folder)
    assert sorted(runs) == [f"vdt-{patch}-s0-{ENV}-collected" for patch in ("strong", "weak")]
    (shared,) = (run for run in runs.values() if "critic_shared_from" in run.data.tags)
    (trained,) = (run for run in runs.values() if run is not shared)
    assert shared.data.tags["critic_shared_from"] == trained.info.run_id
    for run in runs.values():
        assert run.info.status == "FINISHED"
        assert run.data.metrics["critic/q_loss"] == trained.data.metrics["critic/q_loss"]
        tags = run.data.tags
        assert (tags["study"], tags["env"], tags["method"], tags["seed"]) == ("strength", ENV, "vdt", "0")
        assert run.info.run_name == f"vdt-{tags['patch']}-s0-{ENV}-collected"
        assert tags["data_source"] == "collected" and len(tags["data_md5"]) == 32
    report = read_report(folder)
    assert [cell["patch"] for cell in report["cells"]] == ["strong", "weak"]
    assert [cell["shared_from"]["pretrain_critic"] for cell in report["cells"]].count("") == 1
    assert [cell["shared_from"]["train_actor"] for cell in report["cells"]] == ["", ""], "other actors"
    for cell in report["cells"]:
        assert set(cell["seconds"]) == {"fetch_dataset", "pretrain_critic", "train_actor", "evaluate"}, (
            "nothing else to do"
        )
    assert [a["method"] for a in report["aggregates"]] == ["vdt + strong", "vdt + weak"]


def is_trainer(run: Any) -> bool:
    return "critic_shared_from" not in run.data.tags


def check_another_seed(folder: Path, words: tuple[str, ...]) -> None:
    """Only the new seed's cells are run; the old ones stand beside them."""
    before = get_runs(folder)
    code, output = run_flow(folder, *words, "--seeds", "0,1")
    assert code == 0, output
    assert "study strength: 2 cells are finished, 2 are run" in output
    after = get_runs(folder)
    assert sorted(set(after) - set(before)) == [f"vdt-{patch}-s1-{ENV}-collected" for patch in ("strong", "weak")]
    for name, run in before.items():
        assert after[name].info.to_proto() == run.info.to_proto(), "a finished run is not touched"
        assert after[name].data.metrics == run.data.metrics
    client = open_store(folder / "home")
    its, theirs = (
        {(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "critic/q_loss")}
        for run in sorted((after[name] for name in set(after) - set(before)), key=is_trainer)
    )
    assert its <= theirs and len(its) > 100, "the curve comes with the critic"
    assert len(find_critics(folder)) == 2, "one critic per seed"
    report = read_report(folder)
    assert [(cell["patch"], cell["config"]["seed"]) for cell in report["cells"]] == [
        *(("strong", 0), ("strong", 1), ("weak", 0), ("weak", 1))
    ]
    assert {tuple(result["seeds"]) for result in report["results"]} == {(0, 1)}


def check_the_second_report(folder: Path, words: tuple[str, ...]) -> None:
    """Nothing is left to run: another flow reports, with a card, and leaves the runs as they are."""
    before, first = get_runs(folder), read_report(folder)
    code, output = run_flow(folder, *words, "--seeds", "0,1")
    assert code == 0, output
    assert "all 4 cells are finished; nothing is trained, only reported" in output
    assert re.findall(r"/(\w+)/\d+ \(pid \d+\)\] Task is starting", output) == ["start", "end"]
    after, second = get_runs(folder), read_report(folder)
    assert {name: run.info.to_proto() for name, run in after.items()} == {
        name: run.info.to_proto() for name, run in before.items()
    }
    assert second["results"] == first["results"] and second["aggregates"] == first["aggregates"]
    assert list((folder / "home" / ".metaflow" / "mf.cards" / "ReportFlow").rglob("*.html"))
    client = open_store(folder / "home")
    kept = client.search_runs([next(iter(after.values())).info.experiment_id], "tags.report_of = 'strength'")
    assert len(kept) == 1, "one run holds a study's reports"
    names = {Path(file.path).name for file in client.list_artifacts(kept[0].info.run_id, "report")}
    assert {"report.md", "report.json", f"curves-{ENV}-collected.png", "profiles.png"} <= names


def check_what_counts_as_finished(folder: Path) -> None:
    """Other settings make other cells; other words for the same ones do not."""

    def count_missing(**words: str) -> int:
        plans, _ = resolve_cells({"study": str(folder / "strength.yaml"), **words})
        missing, finished = split_finished(plans, words.get("reuse", "exact"))
        assert len(missing) + len(finished) == len(plans)
        return len(missing)

    assert count_missing() == 0
    assert count_missing(source="auto") == 0, "the same data by another name"
    assert count_missing(set="checkpoint.keep=1 runtime.threads=1") == 0, "the machine's affair"
    assert count_missing(set="actor.batch_size=17") == 2
    assert count_missing(set="data.seed=1") == 2
    assert count_missing(seeds="0,2") == 2
    assert count_missing(reuse="none") == 2
    plans, _ = resolve_cells({"study": str(folder / "strength.yaml"), "seeds": "0,1"})
    assert [(plan.patch, plan.config.seed) for plan in order_by_critic(plans)] == [
        *(("strong", 0), ("strong", 1), ("weak", 0), ("weak", 1))
    ]

"""Tasks whose environment goes through a bridge, on their official file."""

import json
import shutil
from pathlib import Path

from support.data import find_real_file
from support.flow import run_flow
from support.isolation import make_environment_variables
from support.recordings import fill
from vdt.tracking import open_store


def test_kitchen_from_its_official_file(tmp_path: Path) -> None:
    official = find_real_file("d4rl/mini_kitchen_microwave_kettle_light_slider-v0.hdf5")
    cache = Path(make_environment_variables(tmp_path)["D4RL_DATASET_DIR"])
    cache.mkdir(parents=True)
    shutil.copy(official, cache)
    code, output = run_flow(tmp_path, "run", "--env", "kitchen-complete-v0", "--preset", "smoke")
    assert code == 0, output
    assert "DATA  kitchen-complete-v0  from source D4RL" in output and "mean normalized_score 100.0" in output
    (report,) = (tmp_path / "home" / "reports").glob("*/report.md")
    (cell,) = json.loads(report.with_suffix(".json").read_text())["cells"]
    assert cell["snapshot"]["card"]["return_quantiles"] == dict.fromkeys(
        cell["snapshot"]["card"]["return_quantiles"], 4.0
    )
    for settings in cell["evaluation"]["policies"].values():
        for evaluation in settings.values():
            assert evaluation["success_rate"] == 0.0 and evaluation["successes"] == [False, False]
            assert all(0 <= subtasks <= 4 for subtasks in evaluation["episode_returns"])
    assert "| 0% (0-66%) |" in report.read_text()


def test_a_maze_collected_by_its_controller(tmp_path: Path) -> None:
    code, output = run_flow(tmp_path, "run", "--env", "maze2d-umaze-v1", "--preset", "smoke", "--source", "collected")
    assert code == 0, output
    (report,) = (tmp_path / "home" / "reports").glob("*/report.md")
    cell = json.loads(report.with_suffix(".json").read_text())["cells"][0]
    assert cell["snapshot"]["card"]["recipe"]["controller"] == "waypoints"
    evaluation = cell["evaluation"]["policies"]["online"]["single"]
    assert [len(path) for path in evaluation["trace"]["paths"]] == [11, 11]  # 50 steps, and the last observation
    assert evaluation["successes"] == [score > 0 for score in evaluation["episode_returns"]]
    figure = "maze-maze2d-umaze-v1-collected.png"
    assert figure in report.read_text() and (report.parent / figure).is_file()
    client, run_id = open_store(tmp_path / "home"), cell["mlflow_run_id"]
    assert figure in {Path(file.path).name for file in client.list_artifacts(run_id, "report")}


def test_a_hand_and_an_ant(tmp_path: Path) -> None:
    """Door on its official file, AntMaze on a recording of the ant behind D4RL's data, led through the maze."""
    files = find_real_file("d4rl/door-human-v1.hdf5").parent
    envs = ["door-human-v1", "antmaze-umaze-v0"]
    made = fill(
        Path(make_environment_variables(tmp_path)["D4RL_DATASET_DIR"]), files.parent / "policies", files, envs, 300
    )
    assert made[envs[0]] == "D4RL's own file" and "recorded: 10 episodes" in made[envs[1]]
    code, output = run_flow(tmp_path, "run", "--env", ",".join(envs), "--preset", "smoke", "--source", "d4rl")
    assert code == 0, output
    (report,) = (tmp_path / "home" / "reports").glob("*/report.json")
    door, ant = json.loads(report.read_text())["cells"]
    assert (door["snapshot"]["source"], ant["snapshot"]["source"]) == ("d4rl", "d4rl")
    assert door["snapshot"]["card"]["clipped_actions"] > 0, "human actions leave the range"
    for cell in (door, ant):
        single = cell["evaluation"]["policies"]["offline"]["single"]
        assert len(single["successes"]) == 2 and min(single["episode_lengths"]) > 0
    assert ant["evaluation"]["policies"]["offline"]["single"]["episode_returns"] == [0.0, 0.0]
    assert ant["evaluation"]["policies"]["offline"]["single"]["normalized_scores"] == [None, None], "cut at 50 steps"

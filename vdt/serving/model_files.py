"""Files that make a checkpoint an MLflow model: its signature, an example, its requirements and the code that loads it."""

from __future__ import annotations

import importlib.metadata
import logging
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdt.agent.spaces import Spaces
from vdt.config.schema import Config
from vdt.tracking import LoadableModel, ModelFiles

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

CODE = Path(__file__).with_name("code_model.py")
CHECKPOINT = "artifacts/policy.pt"  # its place in a model
CONFIG = "artifacts/config.yaml"
NEEDED = ("mlflow", "torch", "numpy", "pandas", "pydantic", "pyyaml", "filelock")  # to load a policy and to act
HEADER = (
    "# {package} {version} must be installed, too: from its repository or its wheel, as for training.\n"
    "# It stands in no line here, for no index is known to hold this package under that name.\n"
)


def looks_ahead(config: Config) -> bool:
    """Return whether a served policy chooses among candidate returns: as it was tuned, where a history is enough for it.

    It is not enough for a simulator, nor for a choice that depends on earlier ones (`planner.select`).
    """
    planner = config.planner
    known = config.task.candidate_returns if planner.returns == "task" else planner.return_quantiles
    chooses = len(known[: planner.candidates]) > 1
    return chooses and planner.env_model != "simulator" and planner.select == "per_step"


def make_model(config: Config, agent: str) -> LoadableModel:
    """Return the model that an agent's checkpoint becomes.

    Args:
        config: that the policy was trained with.
        agent: "offline", "online" or "online_best".
    """
    name = f"policy-{agent.replace('_', '-')}"
    return LoadableModel(name, lambda: describe_model(config, lookahead=looks_ahead(config)))


def describe_model(config: Config, *, lookahead: bool) -> ModelFiles:
    """Return the files that make a checkpoint an MLflow model.

    Args:
        config: of its cell.
        lookahead: whether the model chooses among candidate returns.
    """
    return ModelFiles({**_make_texts(Spaces.from_config(config), lookahead), CONFIG: config.to_yaml()}, CHECKPOINT)


def make_example(spaces: Spaces) -> dict[str, list[dict[str, Any]]]:
    """Return a request of two episodes, at their first and at their second step."""
    seen, taken = [0.0] * spaces.observation_size, [0.0] * spaces.action_size
    first = {"observations": [seen], "actions": [], "rewards": []}
    second = {"observations": [seen, seen], "actions": [taken], "rewards": [1.0]}
    return {"dataframe_records": [first, second]}


def make_signature() -> ModelSignature:
    """Return the columns of a request and the form of the answer.

    Numbers have the type "any": for "double", MLflow refuses a list of whole numbers. The policy checks them itself.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType, Array, TensorSpec

    number = AnyType()
    columns: list[ColSpec | TensorSpec] = [
        ColSpec(Array(Array(number)), "observations"),
        ColSpec(Array(Array(number)), "actions", required=False),
        ColSpec(Array(number), "rewards", required=False),
        ColSpec(number, "target_return", required=False),
        ColSpec(number, "skipped_steps", required=False),
    ]
    return ModelSignature(inputs=Schema(columns), outputs=Schema([ColSpec(Array(DataType.double))]))


@cache
def _make_texts(spaces: Spaces, lookahead: bool) -> dict[str, str]:
    """Return the texts, by name, that MLflow writes for a model; its artifacts are empty files meanwhile."""
    import pandas as pd
    from mlflow.models import Model
    from mlflow.pyfunc import save_model

    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)  # it says what it validates
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on type hints, which would replace this signature
        folder = Path(temporary, "model")
        artifacts = {Path(place).stem: Path(temporary, Path(place).name) for place in (CHECKPOINT, CONFIG)}
        for path in artifacts.values():
            path.touch()
        save_model(
            folder,
            python_model=str(CODE),
            artifacts={name: str(path) for name, path in artifacts.items()},
            signature=make_signature(),
            input_example=pd.DataFrame(make_example(spaces)["dataframe_records"]),
            pip_requirements=[f"{name}=={_get_release(name)}" for name in NEEDED],
            model_config={"lookahead": lookahead},
        )
        model = Model.load(folder)
        flavor = model.flavors["python_function"]
        flavor["model_code_path"] = CODE.name  # MLflow writes where the files lay on this machine
        for artifact in flavor["artifacts"].values():
            artifact["uri"] = artifact["path"]
        model.model_size_bytes = None
        texts = {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}
    header = HEADER.format(package="vdt", version=_get_release("vdt"))
    return {**texts, "requirements.txt": header + texts["requirements.txt"], "MLmodel": model.to_yaml()}


def _get_release(package: str) -> str:
    """Return a package's version without the name of its build, such as +cpu, which indexes do not hold."""
    return importlib.metadata.version(package).partition("+")[0]

"""Policy as an MLflow model: tables in, actions out. Loading it runs no code but this package's."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from vdt.agent.policy import Policy, load_policy
from vdt.config.layers import config_from_yaml
from vdt.data.trajectory import FloatArray
from vdt.serving.requests import expect_one_return, read_histories

POLICY, CONFIG = "policy", "config"  # names of the checkpoint and its cell's configuration among the model's artifacts
LOOKAHEAD = "lookahead"  # setting of the model: whether it chooses among candidate returns


class RefusedRequest(MlflowException):
    """Refusal of a request, status 400. MLflow's server answers with the sentence alone, not with the request in front of it."""

    def __init__(self, sentence: str) -> None:
        """Refuse with a sentence for the client."""
        super().__init__(sentence, error_code=BAD_REQUEST)
        self.sentence = sentence

    def serialize_as_json(self) -> str:
        """Return the body of the answer."""
        return json.dumps({"error_code": self.error_code, "message": self.sentence})


class PolicyModel(PythonModel):
    """Trained policy without a memory; `docs/serving.md` describes its input and output."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the checkpoint of the model."""
        settings: dict[str, Any] = context.model_config or {}
        config = config_from_yaml(Path(context.artifacts[CONFIG]).read_text())
        self._lookahead = bool(settings.get(LOOKAHEAD))
        self._policy: Policy = load_policy(context.artifacts[POLICY], lookahead=self._lookahead, config=config)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> FloatArray:
        """Return the next action of each episode, (N, A).

        Args:
            context: of the model, which `load_context` has read.
            model_input: a row for each of N episodes.
            params: none are known.

        Raises:
            RefusedRequest: if a row cannot be answered.
        """
        try:
            histories = read_histories(model_input.to_dict("records"))
            if not self._lookahead:
                expect_one_return(histories)
            return self._policy.act_after(histories)
        except ValueError as error:
            raise RefusedRequest(str(error)) from None

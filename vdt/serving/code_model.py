"""Code of a policy's MLflow model: MLflow copies this file into each model and runs it where the model is loaded.

The package vdt must be installed there; `requirements.txt` beside this file says which release.
"""

from vdt.system.machine import limit_spinning

limit_spinning()  # before torch is imported: a server shares its cores with other programs

from mlflow.models import set_model  # noqa: E402

from vdt.serving.model import PolicyModel  # noqa: E402

set_model(PolicyModel())

"""Loggers of Ray Tune that a user may ask for by name: MLflow, Weights & Biases."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from loraland.errors import InvalidConfiguration

KINDS = {"mlflow": "mlflow", "wandb": "wandb"}  # name -> module it needs


def callback(asked: str, experiment: str) -> Any:
    """Tune's callback for `mlflow`, `mlflow=URI`, `wandb` or `wandb=PROJECT`.

    The experiment is named after the space. Secrets come from the environment (MLFLOW_TRACKING_*,
    WANDB_API_KEY), never from here. Raises InvalidConfiguration.
    """
    kind, _, place = asked.partition("=")
    if kind not in KINDS:
        raise InvalidConfiguration(
            f"--log is '{asked}'; possible: mlflow, mlflow=TRACKING_URI, wandb, wandb=PROJECT"
        )
    if find_spec(KINDS[kind]) is None:
        raise InvalidConfiguration(
            f"--log {kind} needs the package {KINDS[kind]}: pip install {KINDS[kind]}"
        )
    if kind == "mlflow":
        _require_mlflow(place)
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        return MLflowLoggerCallback(
            tracking_uri=place or None, experiment_name=experiment, save_artifact=False
        )
    from ray.air.integrations.wandb import WandbLoggerCallback

    return WandbLoggerCallback(project=place or "lora-land", group=experiment)


def _require_mlflow(place: str) -> None:
    """Raises InvalidConfiguration when the tracking server, or folder, does not answer."""
    import mlflow

    try:
        mlflow.MlflowClient(place or None).search_experiments(max_results=1)
    except mlflow.MlflowException as error:
        raise InvalidConfiguration(
            f"MLflow at {place or 'its default place'} cannot be used: {error}"
        ) from error

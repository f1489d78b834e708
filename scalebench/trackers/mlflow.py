"""MLflow: a local database, or what `MLFLOW_TRACKING_URI` names."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

if TYPE_CHECKING:
    from scalebench.trackers.base import Pictures, Run

ID_TAG = "scalebench.id"
AT_ONCE = 100
"""Parameters that MLflow takes in one call."""
LONGEST_VALUE = 500
STATUS = {"ok": "FINISHED", "interrupted": "KILLED"}


class Mlflow:
    """A run in the experiment that is the project's namesake, in `DIR/mlflow.db`. A resumed training goes on in it."""

    def __init__(self, run: Run) -> None:
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        run.folder.mkdir(parents=True, exist_ok=True)
        self._uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run.folder}/mlflow.db"
        self._client = MlflowClient(tracking_uri=self._uri)
        self._experiment = self._experiment_of(run)
        self._run = self._found(run) or self._begun(run)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        now = round(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def images(self, name: str, images: Pictures, step: int) -> None:
        for number, image in enumerate(images.transpose(0, 2, 3, 1)):
            self._client.log_image(self._run, image, artifact_file=f"images/{name}/step-{step:08d}-{number}.png")

    def checkpoint(self, path: Path) -> None:
        self._client.log_artifacts(self._run, str(path), artifact_path=f"checkpoints/{path.name}")

    def end(self, status: str) -> str:
        self._client.set_terminated(self._run, STATUS.get(status, "FAILED"))
        return f"mlflow ui --backend-store-uri {self._uri}" if self._uri.startswith("sqlite:") else self._uri

    def _experiment_of(self, run: Run) -> str:
        found = self._client.get_experiment_by_name(run.options.project)
        if found:
            return str(found.experiment_id)
        place = str(run.folder / "mlflow-artifacts") if self._uri.startswith("sqlite:") else None
        return str(self._client.create_experiment(run.options.project, artifact_location=place))

    def _found(self, run: Run) -> str | None:
        """The run of the part before, where this one goes on."""
        wanted = f"tags.`{ID_TAG}` = '{run.id}'"
        found = self._client.search_runs([self._experiment], filter_string=wanted) if run.first_step else []
        return str(found[0].info.run_id) if found else None

    def _begun(self, run: Run) -> str:
        tags = {ID_TAG: run.id, **dict.fromkeys(run.options.tags, "true")}
        created = self._client.create_run(self._experiment, run_name=run.name, tags=tags)
        parameters = [Param(name, str(value)[:LONGEST_VALUE]) for name, value in run.parameters.items()]
        for first in range(0, len(parameters), AT_ONCE):
            self._client.log_batch(created.info.run_id, params=parameters[first : first + AT_ONCE])
        return str(created.info.run_id)

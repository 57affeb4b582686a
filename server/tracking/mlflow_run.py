"""A run in MLflow: a folder of plain files, a database, or a server.

Credentials of a server are MLflow's own business: ``MLFLOW_TRACKING_USERNAME``, ``MLFLOW_TRACKING_PASSWORD`` and
``MLFLOW_TRACKING_TOKEN`` are read by its client, and never by us.
"""

import time
from collections.abc import Sequence
from itertools import islice
from typing import final

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from fedrelease.server.tracking.choice import Choice
from fedrelease.server.tracking.measured import Measured
from fedrelease.server.tracking.runs import Beginning, Ending

__all__ = ["MlflowRun"]

MOST_PARAMS = 100
"""That MLflow takes at once."""
LONGEST = 5000
"""Of a parameter's or a tag's text that MLflow takes."""
RELEASE_TAG = "release."


@final
class MlflowRun:
    """One run of MLflow, in the experiment with the federation's name."""

    def __init__(self, choice: Choice, beginning: Beginning) -> None:
        """Find the run to go on with, or make one with the experiment's keys as parameters."""
        uri = choice.place if choice.is_address else choice.folder.as_uri()
        self._client = MlflowClient(uri)
        earlier = self._there(beginning.run)
        self.id = earlier or self._made(beginning)
        if earlier:
            self._client.update_run(self.id, status="RUNNING")

    def _there(self, run: str | None) -> str | None:
        """The run to go on with, unless somebody has deleted it."""
        try:
            info = None if run is None else self._client.get_run(run).info
            return run if info is not None and info.lifecycle_stage == "active" else None
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def _made(self, beginning: Beginning) -> str:
        experiment = self._experiment(beginning.federation)
        run = str(self._client.create_run(experiment, run_name=beginning.name).info.run_id)
        params = iter([Param(key, str(value)[:LONGEST]) for key, value in beginning.parameters.items()])
        while batch := list(islice(params, MOST_PARAMS)):
            self._client.log_batch(run, params=batch)
        return run

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(name))
        except MlflowException:  # another run made it just now
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)

    def release(self, told: Measured) -> None:
        """Each number is a metric at the step of its round; a tag has the digest."""
        now_ms = time.time_ns() // 1_000_000
        metrics = [Metric(name, value, now_ms, told.step) for name, value in told.numbers.items()]
        for begin in range(0, len(metrics), MOST_PARAMS * 10):
            self._client.log_batch(self.id, metrics=metrics[begin : begin + MOST_PARAMS * 10])
        self._tag([(f"{RELEASE_TAG}{told.version}", told.digest), (f"verdict.{told.version}", told.words["verdict"])])

    def end(self, ending: Ending) -> None:
        """Tags have the store, the head and its digest."""
        self._tag(list(ending.facts.items()))
        self._client.set_terminated(self.id, status="FINISHED" if ending.complete else "FAILED")

    def _tag(self, tags: Sequence[tuple[str, str]]) -> None:
        self._client.log_batch(self.id, tags=[RunTag(name, value[:LONGEST]) for name, value in tags])

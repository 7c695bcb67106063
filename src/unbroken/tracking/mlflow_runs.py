"""A run in MLflow, at the place that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import posixpath
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from unbroken.errors import StorageError
from unbroken.tracking.forwarder import Row, TrackedRun

_TOKEN = "unbroken.token"
_MOST_METRICS, _MOST_PARAMETERS = 1000, 100
_LONGEST_NAME, _LONGEST_VALUE = 250, 500
_NOT_ALLOWED = re.compile(r"[^\w.\- :/]")


class MLflow:
    """Fulfils `forwarder.Tracker`. MLflow keeps whatever is sent twice, so its own store is asked for what it has."""

    name = "mlflow"

    def __init__(self, experiment: str) -> None:
        self._experiment = experiment
        self._client: Any = None
        self._run_id = ""
        self._last: dict[str, int] = {}

    def begin(self, run: TrackedRun) -> int | None:
        """As the protocol says. The run is found by a tag, also where the process died right after making it."""
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        experiment = self._client.get_experiment_by_name(self._experiment)
        place = self._client.create_experiment(self._experiment) if experiment is None else experiment.experiment_id
        try:
            found = self._client.search_runs([place], filter_string=f"tags.`{_TOKEN}` = '{run.token}'")
        except Exception as error:
            _name_empty_file(place, error)
            raise
        if found:
            self._continue(found[0])
            # the process may have died before it had sent all of them
            self._log_parameters(run.config, found[0].data.params)
            return max(self._last.values(), default=-1)
        made = self._client.create_run(place, tags={_TOKEN: run.token}, run_name=run.name)
        self._run_id = made.info.run_id
        self._log_parameters(run.config, {})
        return -1

    def log(self, rows: Sequence[Row]) -> None:
        """As the protocol says."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(key, value, now, step)
            for step, values in rows
            for key, value in _with_allowed_names(values).items()
            if step > self._last.get(key, -1)
        ]
        for start in range(0, len(metrics), _MOST_METRICS):
            part = metrics[start : start + _MOST_METRICS]
            self._client.log_batch(self._run_id, metrics=part)
            self._last.update((metric.key, metric.step) for metric in part)

    def finish(self, complete: bool) -> None:
        """As the protocol says; a run that is not complete stays running, for the next leg."""
        if complete:
            self._client.set_terminated(self._run_id, "FINISHED")

    def _continue(self, run: Any) -> None:
        self._run_id = run.info.run_id
        # its file store writes the run's description in place: a kill in between empties it, so not without need
        if run.info.status != "RUNNING":
            self._client.update_run(self._run_id, status="RUNNING")
        for key in run.data.metrics:
            history = self._client.get_metric_history(self._run_id, key)
            self._last[key] = max((metric.step for metric in history), default=-1)

    def _log_parameters(self, config: Mapping[str, Any], there: Mapping[str, str]) -> None:
        """Send those that are not there: MLflow takes no other value for a parameter that it has."""
        from mlflow.entities import Param

        named = _with_allowed_names(_flat(config))
        flat = [Param(key, str(value)[:_LONGEST_VALUE]) for key, value in named.items() if key not in there]
        for start in range(0, len(flat), _MOST_PARAMETERS):
            self._client.log_batch(self._run_id, params=flat[start : start + _MOST_PARAMETERS])


def _name_empty_file(experiment_id: str, error: Exception) -> None:
    """Raises StorageError where a process died while MLflow's file store wrote a run's description: MLflow says nothing of it."""
    import mlflow

    uri = mlflow.get_tracking_uri()
    if uri.partition(":")[0] not in ("file", uri):
        return
    folder = Path(url2pathname(urlsplit(uri).path)) / experiment_id
    for path in sorted(folder.glob("*/meta.yaml")):
        if path.stat().st_size == 0:
            raise StorageError(
                f"{path} is empty, a process died while MLflow wrote it, and no run of the experiment can be read; move the "
                f"folder {path.parent.name} away, and what it had is sent again"
            ) from error


def _with_allowed_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """MLflow refuses a whole batch for one name that it does not take; of names that become the same, the last stays."""
    return {_allowed_name(key): value for key, value in values.items()}


def _allowed_name(name: str) -> str:
    """Names are paths too in MLflow: relative ones, in their shortest form."""
    path = posixpath.normpath(_NOT_ALLOWED.sub("_", name)[:_LONGEST_NAME]).lstrip("/")
    return "_" if path in ("", ".") else re.sub(r"^\.\.", "__", path)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found.update(_flat(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found

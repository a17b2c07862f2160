"""What tracking asks of MLflow, through its REST API for servers and through its library for local paths and databases.

The library takes three seconds to import, as long as torch; a server needs five requests.
"""

import base64
import json
import os
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

TIMEOUT_SECONDS = 10.0
_PARAMS_AT_ONCE = 100  # MLflow's limit


@dataclass(frozen=True)
class Metric:
    """A value at a step; timestamp in milliseconds."""

    key: str
    value: float
    timestamp: int
    step: int


class Refused(Exception):
    """The server answered, and will answer alike again: trying again is pointless."""


class Store(Protocol):
    """The part of MLflow that a run needs. Runs are (experiment id, run id)."""

    def experiment(self, name: str) -> str: ...
    def find(self, experiment: str, tag: str, value: str) -> tuple[str, str] | None: ...
    def create(self, experiment: str, name: str, tags: dict[str, str]) -> tuple[str, str]: ...
    def resume(self, run_id: str) -> tuple[str, str]: ...
    def describe(self, run_id: str, params: dict[str, str], tags: dict[str, str]) -> None: ...
    def log(self, run_id: str, metrics: list[Metric]) -> None: ...
    def put(self, run_id: str, path: str, text: str) -> None: ...
    def upload(self, run_id: str, folder: Path) -> None: ...
    def end(self, run_id: str, status: str) -> None: ...


def open_store(uri: str) -> Store:
    """The store behind a tracking URI."""
    return RestStore(uri) if uri.startswith(("http://", "https://")) else LibraryStore(uri)


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")


class RestStore:
    """A tracking server. Credentials come from the variables that MLflow's own client reads."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        parts = urllib.parse.urlsplit(uri)
        self._base = urllib.parse.urlunsplit(
            (parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", "")
        )
        self._headers = {"Content-Type": "application/json", **_authorization(parts)}
        self._context = _tls() if parts.scheme == "https" else None
        self._files: LibraryStore | None = None

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        url = f"{self._base}/api/2.0/mlflow/{path}"
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(url, data=data, headers=self._headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS, context=self._context) as response:
                return dict(json.loads(response.read() or b"{}"))
        except urllib.error.HTTPError as error:
            answer = error.read().decode(errors="replace")
            if error.code == 429 or error.code >= 500:
                raise ConnectionError(f"HTTP {error.code}") from None
            raise _refusal(self._base, error.code, answer) from None

    def experiment(self, name: str) -> str:
        quoted = urllib.parse.quote(name)
        try:
            found = self._call("GET", f"experiments/get-by-name?experiment_name={quoted}")["experiment"]
            if found.get("lifecycle_stage") == "deleted":
                raise Refused(
                    f"MLflow's experiment {name!r} is deleted; restore it or name another in tracking.experiment_name"
                )
            return str(found["experiment_id"])
        except _Missing:
            pass
        try:
            return str(self._call("POST", "experiments/create", {"name": name})["experiment_id"])
        except _Exists:  # another job made it meanwhile
            return str(
                self._call("GET", f"experiments/get-by-name?experiment_name={quoted}")["experiment"]["experiment_id"]
            )

    def find(self, experiment: str, tag: str, value: str) -> tuple[str, str] | None:
        query = {"experiment_ids": [experiment], "filter": f"tags.`{tag}` = '{_quoted(value)}'", "max_results": 1}
        runs = self._call("POST", "runs/search", query).get("runs") or []
        return (experiment, str(runs[0]["info"]["run_id"])) if runs else None

    def create(self, experiment: str, name: str, tags: dict[str, str]) -> tuple[str, str]:
        body = {
            "experiment_id": experiment,
            "run_name": name,
            "start_time": int(time.time() * 1000),
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
        }
        return experiment, str(self._call("POST", "runs/create", body)["run"]["info"]["run_id"])

    def resume(self, run_id: str) -> tuple[str, str]:
        try:
            info = self._call("POST", "runs/update", {"run_id": run_id, "status": "RUNNING"})["run_info"]
        except _Missing:
            raise Refused(f"MLflow at {self._base} has no run {run_id}; check tracking.run_id") from None
        return str(info["experiment_id"]), run_id

    def describe(self, run_id: str, params: dict[str, str], tags: dict[str, str]) -> None:
        listed = [{"key": key, "value": value} for key, value in params.items()]
        self._call(
            "POST", "runs/log-batch", {"run_id": run_id, "tags": [{"key": k, "value": v} for k, v in tags.items()]}
        )
        for at in range(0, len(listed), _PARAMS_AT_ONCE):
            try:
                self._call("POST", "runs/log-batch", {"run_id": run_id, "params": listed[at : at + _PARAMS_AT_ONCE]})
            except Refused:
                pass  # parameters are logged once; a later attempt may differ, e.g. in what it resumes

    def log(self, run_id: str, metrics: list[Metric]) -> None:
        self._call("POST", "runs/log-batch", {"run_id": run_id, "metrics": [vars(metric) for metric in metrics]})

    def put(self, run_id: str, path: str, text: str) -> None:
        self._library().put(run_id, path, text)

    def upload(self, run_id: str, folder: Path) -> None:
        self._library().upload(run_id, folder)

    def _library(self) -> "LibraryStore":
        """Files may lie in any store that the server names: the library's business."""
        if self._files is None:
            self._files = LibraryStore(self._uri)
        return self._files

    def end(self, run_id: str, status: str) -> None:
        self._call("POST", "runs/update", {"run_id": run_id, "status": status, "end_time": int(time.time() * 1000)})


class _Missing(Refused):
    """There is no such thing."""


class _Exists(Refused):
    """There is one already."""


def _refusal(base: str, code: int, answer: str) -> Refused:
    if "RESOURCE_DOES_NOT_EXIST" in answer:
        return _Missing(answer[:300])
    if "RESOURCE_ALREADY_EXISTS" in answer:
        return _Exists(answer[:300])
    if code in (401, 403):
        hint = (
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in env from a Secret"
        )
        if "host" in answer.lower():
            hint = "name its host in the server's MLFLOW_SERVER_ALLOWED_HOSTS"
        return Refused(f"MLflow at {base} refuses access (HTTP {code}); {hint}")
    return Refused(f"MLflow at {base} answered HTTP {code}: {answer[:300]}")


def _authorization(parts: urllib.parse.SplitResult) -> dict[str, str]:
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    user = parts.username or os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = parts.password or os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if user and password is not None:
        return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
    return {"Authorization": f"Bearer {token}"} if token else {}


def _tls() -> ssl.SSLContext:
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS") == "true":
        return ssl._create_unverified_context()
    return ssl.create_default_context(cafile=os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or None)


class LibraryStore:
    """A folder, a database or any other store that MLflow's library knows."""

    def __init__(self, uri: str) -> None:
        # Otherwise the library asks git and the network about the environment, and prints.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        if "://" not in uri or uri.startswith("file:"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=uri)
        # A database keeps no files; the library would put them below the working directory, which pods cannot write.
        database = uri.partition("sqlite:///")[2]
        self._artifacts = str(Path(database).absolute().parent / "mlartifacts") if database else None

    def experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(name, artifact_location=self._artifacts))
        except MlflowException:
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)

    def find(self, experiment: str, tag: str, value: str) -> tuple[str, str] | None:
        runs = self._client.search_runs([experiment], f"tags.`{tag}` = '{_quoted(value)}'", max_results=1)
        return (experiment, str(runs[0].info.run_id)) if runs else None

    def create(self, experiment: str, name: str, tags: dict[str, str]) -> tuple[str, str]:
        run = self._client.create_run(experiment, run_name=name, tags=tags)
        return str(run.info.experiment_id), str(run.info.run_id)

    def resume(self, run_id: str) -> tuple[str, str]:
        from mlflow.exceptions import MlflowException

        try:
            self._client.update_run(run_id, status="RUNNING")
            return str(self._client.get_run(run_id).info.experiment_id), run_id
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                raise Refused(f"MLflow has no run {run_id}; check tracking.run_id") from None
            raise

    def describe(self, run_id: str, params: dict[str, str], tags: dict[str, str]) -> None:
        from mlflow.entities import Param, RunTag
        from mlflow.exceptions import MlflowException

        self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        listed = [Param(key, value) for key, value in params.items()]
        for at in range(0, len(listed), _PARAMS_AT_ONCE):
            try:
                self._client.log_batch(run_id, params=listed[at : at + _PARAMS_AT_ONCE])
            except MlflowException:
                pass  # parameters are logged once; a later attempt may differ

    def log(self, run_id: str, metrics: list[Metric]) -> None:
        from mlflow.entities import Metric as Entity

        entities = [Entity(metric.key, metric.value, metric.timestamp, metric.step) for metric in metrics]
        self._client.log_batch(run_id, metrics=entities)

    def put(self, run_id: str, path: str, text: str) -> None:
        self._client.log_text(run_id, text, path)

    def upload(self, run_id: str, folder: Path) -> None:
        self._client.log_artifacts(run_id, str(folder), artifact_path="model")

    def end(self, run_id: str, status: str) -> None:
        self._client.set_terminated(run_id, status=status)

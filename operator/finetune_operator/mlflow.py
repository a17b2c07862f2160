"""The REST calls that find or make a job's MLflow run on the operator's own server; no mlflow import (3 s, 100 MB).

A run carries the FineTuneJob's uid as a tag, as the trainer's own runs do, and is searched by it first: a crash between
making the run and writing it down leads to the same run, not to a second one.
"""

import time
from typing import Any

import aiohttp

from finetune_api import constants

from .plan.types import TrackedRun

TIMEOUT_SECONDS = 4.0
API = "/api/2.0/mlflow"


class TrackingError(Exception):
    """The server did not answer, or refused; the message says which."""


class MlflowClient:
    """One MLflow server."""

    def __init__(self, session: aiohttp.ClientSession, uri: str, public_url: str) -> None:
        self._session = session
        self._uri = uri.rstrip("/")
        self._public_url = (public_url or uri).rstrip("/")

    async def ensure_run(self, experiment: str, run_name: str, identity: str, tags: dict[str, str]) -> TrackedRun:
        """The run of this training, found by its tag or made. `identity`: Request.identity. Raises TrackingError."""
        try:
            experiment_id = await self._experiment(experiment)
            run_id = await self._find(experiment_id, identity)
            run_id = run_id or await self._create(experiment_id, run_name, identity, tags)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise TrackingError(f"{self._uri} does not answer: {error or type(error).__name__}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise TrackingError(f"{self._uri} does not answer as an MLflow server does ({error!r})") from error
        return TrackedRun(experiment_id, run_id, self.url(experiment_id, run_id))

    def url(self, experiment_id: str, run_id: str) -> str:
        """The page of a run."""
        return f"{self._public_url}/#/experiments/{experiment_id}/runs/{run_id}"

    async def _experiment(self, name: str) -> str:
        for attempt in range(2):  # twice: another job may make the same experiment at the same time
            answer = await self._call("GET", "/experiments/get-by-name", {"experiment_name": name}, missing_ok=True)
            if answer is not None:
                found = answer["experiment"]
                if found.get("lifecycle_stage") == "deleted":
                    raise TrackingError(f"experiment {name!r} is deleted in MLflow; restore it, or name another")
                return str(found["experiment_id"])
            made = await self._call("POST", "/experiments/create", {"name": name}, missing_ok=attempt == 0)
            if made is not None:
                return str(made["experiment_id"])
        raise TrackingError(f"experiment {name!r} can be neither found nor made")

    async def _find(self, experiment_id: str, identity: str) -> str | None:
        query = {
            "experiment_ids": [experiment_id],
            "filter": f"tags.`{constants.LABEL_JOB_UID}` = '{identity}'",
            "max_results": 1,
            "order_by": ["attributes.start_time ASC"],
        }
        answer = await self._call("POST", "/runs/search", query) or {}
        runs = answer.get("runs") or []
        return str(runs[0]["info"]["run_id"]) if runs else None

    async def _create(self, experiment_id: str, name: str, identity: str, tags: dict[str, str]) -> str:
        marked = {**tags, constants.LABEL_JOB_UID: identity}
        body = {
            "experiment_id": experiment_id,
            "run_name": name,
            "start_time": int(time.time() * 1000),
            "tags": [{"key": key, "value": value} for key, value in marked.items()],
        }
        answer = await self._call("POST", "/runs/create", body) or {}
        return str(answer["run"]["info"]["run_id"])

    async def _call(self, method: str, path: str, values: dict[str, Any], missing_ok: bool = False) -> Any:
        """The answer; None for one that says missing or already there, if that is fine."""
        where: dict[str, Any] = {"params": values} if method == "GET" else {"json": values}
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        url = f"{self._uri}{API}{path}"
        async with self._session.request(method, url, timeout=timeout, allow_redirects=False, **where) as response:
            if response.status == 200:
                return await response.json(content_type=None)
            text = (await response.text())[:300]
            if missing_ok and ("RESOURCE_DOES_NOT_EXIST" in text or "RESOURCE_ALREADY_EXISTS" in text):
                return None
            raise TrackingError(f"{self._uri} answered {response.status} to {path}: {text}")

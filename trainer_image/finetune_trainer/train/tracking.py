"""MLflow: one run for a job through all its attempts. Logging never stops training.

A background thread sends what a queue holds. A server that does not answer is tried again and again; what it missed is
sent once it is back, and at the end the report says what was lost.
"""

import math
import os
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_api import constants
from finetune_api.status import MlflowReport
from finetune_trainer.train.mlflow_store import Metric, Refused, Store, open_store
from finetune_trainer.train.settings import Settings

TAG_JOB_UID = constants.LABEL_JOB_UID
FLUSH_SECONDS = 2.0
RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)
PARTING_SECONDS = 30.0  # how long the end of a job waits for a server that does not answer
BATCH = 500  # metrics in one request; MLflow takes 1000
BUFFER = 100_000  # metrics kept for a server that is away
FILES = 100  # small files kept, likewise
FILE_TRIES = 6  # a server may take metrics and yet have no place for files


@dataclass
class SmallFile:
    """A text to be stored with the run under a path, and how often that was tried."""

    path: str
    text: str
    tries: int = 0


@dataclass(frozen=True)
class TrackingSettings:
    """Where to log. run_id: continue that run; else the job's run is looked up by its tag, or made."""

    uri: str
    experiment: str | None
    experiment_id: str | None
    run_id: str | None
    run_name: str
    job_uid: str
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    artifacts: bool = False


class Tracker:
    """Takes metrics at any time; sends them when it can."""

    def __init__(self, settings: TrackingSettings) -> None:
        self._settings = settings
        self._queue: deque[Metric] = deque()
        self._files: deque[SmallFile] = deque()
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._closing_at: float | None = None
        self._status: str | None = None
        self._artifacts: Path | None = None
        self._store: Store | None = None
        self._run: tuple[str, str] | None = None
        self._error: str | None = None
        self._lost = 0
        self._lost_files = 0
        self._sent_artifacts = False
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def start(self) -> None:
        """Begins sending."""
        self._thread.start()

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Queues metrics of a step; never waits."""
        now = int(time.time() * 1000)
        with self._lock:
            for name, value in metrics.items():
                if math.isfinite(value):
                    self._queue.append(Metric(name, float(value), now, step))
            while len(self._queue) > BUFFER:
                self._queue.popleft()
                self._lost += 1

    def keep(self, path: str, text: str) -> None:
        """Queues a small file to be stored with the run; never waits."""
        with self._lock:
            self._files.append(SmallFile(path, text))
            while len(self._files) > FILES:
                self._files.popleft()
                self._lost_files += 1

    def close(
        self, status: str | None, artifacts: Path | None = None, patience: float = PARTING_SECONDS
    ) -> MlflowReport:
        """Sends the rest, ends the run with a status of MLflow's (None: it goes on later), and says how it went.

        artifacts: a folder to store with the run, if the settings want that; its copying has no limit in time.
        """
        self._status = status
        self._artifacts = artifacts if self._settings.artifacts else None
        self._closing_at = time.monotonic() + patience
        self._wake.set()
        self._thread.join(patience + 5.0)
        while self._thread.is_alive() and self._artifacts is not None and self._error is None:
            self._thread.join(1.0)
        return self.report()

    def report(self) -> MlflowReport:
        """The run and whether the server answers."""
        with self._lock:
            waiting = len(self._queue)
        experiment_id, run_id = self._run or (self._settings.experiment_id, self._settings.run_id)
        return MlflowReport(
            experiment_id=experiment_id,
            run_id=run_id,
            url=self._url(experiment_id, run_id),
            reachable=self._error is None if (self._run or self._error) else None,
            message=self._message(waiting),
        )

    def _url(self, experiment_id: str | None, run_id: str | None) -> str | None:
        if not (self._settings.uri.startswith(("http://", "https://")) and experiment_id and run_id):
            return None
        return f"{without_credentials(self._settings.uri).rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"

    def _message(self, waiting: int) -> str | None:
        over = self._closing_at is not None and not self._thread.is_alive()
        missing = self._lost + (waiting if over else 0)
        parts = [self._error] if self._error else []
        if missing:
            parts.append(f"{missing} metrics were lost")
        elif waiting and self._error:
            parts.append(f"{waiting} metrics wait to be sent")
        files = self._lost_files + (len(self._files) if over else 0)
        if files:
            parts.append(f"{files} files were lost")
        return "; ".join(parts) or None

    # --- the thread -------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        failures = 0
        while True:
            try:
                self._open()
                self._send()
                if self._closing_at is not None:
                    self._part()
                    self._error = None
                    return
                self._error, failures = None, 0
                pause = FLUSH_SECONDS
            except Refused as error:
                self._error = str(error)
                return
            except Exception as error:
                where = without_credentials(self._settings.uri)
                self._error = f"{where} does not answer: {type(error).__name__}: {error}"[:500]
                pause = RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)]
                failures += 1
            if self._closing_at is not None:
                pause = min(1.0, self._closing_at - time.monotonic())
                if pause <= 0:
                    return
                time.sleep(pause)
            else:
                self._wake.wait(pause)

    def _open(self) -> None:
        """Finds or makes the run, and says what it is about."""
        settings = self._settings
        if self._store is None:
            self._store = open_store(settings.uri)
        if self._run is None:
            store = self._store
            found = None
            if settings.run_id:
                found = store.resume(settings.run_id)
            else:
                experiment = settings.experiment_id or store.experiment(settings.experiment or "Default")
                if settings.job_uid:
                    found = store.find(experiment, TAG_JOB_UID, settings.job_uid)
                found = store.resume(found[1]) if found else store.create(experiment, settings.run_name, settings.tags)
            store.describe(found[1], settings.params, settings.tags)
            self._run = found

    def _send(self) -> None:
        assert self._store is not None
        assert self._run is not None
        while True:
            with self._lock:
                batch = [self._queue[at] for at in range(min(BATCH, len(self._queue)))]
            if not batch:
                break
            self._store.log(self._run[1], batch)
            with self._lock:
                for _ in batch:
                    self._queue.popleft()
        while self._files:
            self._send_file(self._files[0])

    def _send_file(self, file: SmallFile) -> None:
        """Stores the first file. One that cannot be stored is given up, since metrics wait behind its retries."""
        assert self._store is not None
        assert self._run is not None
        file.tries += 1
        lost = False
        try:
            self._store.put(self._run[1], file.path, file.text)
        except Exception:
            if file.tries < FILE_TRIES:
                raise
            lost = True
        with self._lock:
            if self._files and self._files[0] is file:
                self._files.popleft()
            self._lost_files += lost

    def _part(self) -> None:
        assert self._store is not None
        assert self._run is not None
        if self._artifacts is not None and not self._sent_artifacts:
            self._store.upload(self._run[1], self._artifacts)
            self._sent_artifacts = True
        if self._status is not None:
            self._store.end(self._run[1], self._status)


def without_credentials(uri: str) -> str:
    """A URI that may be shown."""
    scheme, separator, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}" if separator else uri


def flatten(document: Any, prefix: str = "") -> dict[str, str]:
    """A nested document as dotted keys and text, as MLflow's parameters want it."""
    if isinstance(document, dict) and document:
        flat: dict[str, str] = {}
        for key, value in document.items():
            flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
        return flat
    return {prefix[:250]: str(document)[:500]}


# Sections that say nothing about training, or might hold what is nobody's business.
UNTRACKED = (
    *("env", "bucketCredentialsSecret", "hfTokenSecret", "imagePullSecrets", "tolerations", "affinity", "nodeSelector"),
    *("labels", "annotations", "caBundleConfigMap", "httpProxy", "httpsProxy", "noProxy", "tracking"),
    "serviceAccountName",
)


def tracked_params(spec: dict[str, Any]) -> dict[str, str]:
    """The parameters of a run: the resolved spec without what could be secret."""
    return flatten({key: value for key, value in spec.items() if key not in UNTRACKED})


def tracking_settings(settings: Settings) -> TrackingSettings | None:
    """Where a job logs to: the operator's run, else the spec's section, else nowhere."""
    job, spec = settings.job, settings.resolved.spec
    given, tracked = spec.tracking, job.tracked_run
    uri = given.mlflow_server_uri if given else (tracked.uri if tracked else os.environ.get(constants.ENV_MLFLOW_URI))
    if not uri:
        return None
    run_id = os.environ.get(constants.ENV_MLFLOW_RUN_ID) or (tracked.run_id if tracked else None)
    return TrackingSettings(
        uri=uri,
        experiment=given.experiment_name if given else None,
        experiment_id=tracked.experiment_id if tracked else None,
        run_id=run_id or (given.run_id if given else None),
        run_name=(given.run_name if given else None) or job.name,
        job_uid=job.uid,
        tags={TAG_JOB_UID: job.uid, f"{constants.GROUP}/job": job.name, f"{constants.GROUP}/namespace": job.namespace},
        params=tracked_params(spec.to_dict()) | {"effective_learning_rate": str(settings.optimizer.learning_rate)},
        artifacts=bool(given and given.hf_mlflow_log_artifacts.lower() in ("true", "1")),
    )

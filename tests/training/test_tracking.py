"""MLflow gets one run for a job, whole, through restarts of the job and of the server; training never waits for it."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.train.tracking import (
    TAG_JOB_UID,
    Tracker,
    TrackingSettings,
    flatten,
    tracked_params,
    without_credentials,
)


def _settings(uri: str, **changes: Any) -> TrackingSettings:
    given = {
        "uri": uri,
        "experiment": "tests",
        "experiment_id": None,
        "run_id": None,
        "run_name": "job",
        "job_uid": "uid-1",
        "tags": {TAG_JOB_UID: "uid-1"},
        "params": {"training_args.seed": "42"},
    }
    return TrackingSettings(**{**given, **changes})


class Server:
    """A real MLflow server that can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        limit = time.monotonic() + 300
        while True:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return
            except OSError:
                assert time.monotonic() < limit, (self.folder / "log").read_text()
                assert self.process.poll() is None, (self.folder / "log").read_text()
                time.sleep(0.2)

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, 9)
            self.process.wait()
            self.process = None

    def runs(self, uid: str) -> list[Any]:
        from mlflow.tracking import MlflowClient

        client = MlflowClient(self.uri)
        experiments = [one.experiment_id for one in client.search_experiments()]
        return list(client.search_runs(experiments, f"tags.`{TAG_JOB_UID}` = '{uid}'"))

    def history(self, run_id: str, metric: str) -> dict[int, float]:
        from mlflow.tracking import MlflowClient

        return {point.step: point.value for point in MlflowClient(self.uri).get_metric_history(run_id, metric)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.stop()


def test_a_job_is_one_run_through_its_attempts(
    server: Server, train_here: Any, make_config: Any, validation: Path
) -> None:
    tracking = {"mlflow_server_uri": server.uri, "experiment_name": "quick", "run_name": "my run"}
    config = make_config(
        per_device=4,
        uid="uid-attempts",
        validation=validation,
        training_args={"eval_strategy": "epoch"},
        spec={
            "tracking": {**tracking, "hf_mlflow_log_artifacts": "True"},
            "env": [{"name": "SECRET", "value": "hush"}],
        },
    )
    first = train_here(config, stop_after=4)
    second = train_here(config, work=first.work)
    (run,) = server.runs("uid-attempts")
    assert run.info.run_name == "my run"
    assert run.info.status == "FINISHED"
    assert server.history(run.info.run_id, "loss") == pytest.approx(second.losses)
    assert server.history(run.info.run_id, "eval_loss") == pytest.approx(second.eval_losses)
    for name in ("learning_rate", "epoch", "tokens_per_second", "grad_norm"):
        assert len(server.history(run.info.run_id, name)) >= 12
    assert run.data.params["training_args.seed"] == "42"
    assert run.data.params["batchsize_conf.total_train_batch_size"] == "8"
    assert "hush" not in str(run.data.params)
    report = second.report.mlflow
    assert (report.run_id, report.experiment_id, report.reachable) == (run.info.run_id, run.info.experiment_id, True)
    assert report.url == f"{server.uri}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    assert report.message is None


def test_the_servers_page_of_a_run_has_what_it_shows(server: Server) -> None:
    """The page reads runs by GraphQL, whose library the resolver of requirements may pick too old for the server."""
    from mlflow.tracking import MlflowClient

    run = MlflowClient(server.uri).create_run("0", run_name="seen on the page").info.run_id
    question = "query ($data: MlflowGetRunInput!) { mlflowGetRun(input: $data) { run { info { runName } } } }"
    asked = {"query": question, "variables": {"data": {"runId": run}}}
    request = urllib.request.Request(
        f"{server.uri}/graphql", json.dumps(asked).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        said = json.load(answer)
    assert said["data"]["mlflowGetRun"]["run"]["info"]["runName"] == "seen on the page"


def test_the_operators_run_is_continued(server: Server) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(server.uri)
    made = client.create_run("0", run_name="by the operator")
    tracker = Tracker(_settings(server.uri, run_id=made.info.run_id, experiment_id="0", experiment=None))
    tracker.start()
    tracker.log({"loss": 2.0}, 1)
    assert tracker.close("FINISHED").run_id == made.info.run_id
    assert server.history(made.info.run_id, "loss") == {1: 2.0}


def test_small_files_are_stored_with_the_run(server: Server, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    tracker = Tracker(_settings(server.uri, job_uid="uid-files", tags={TAG_JOB_UID: "uid-files"}))
    tracker.start()
    tracker.keep("samples/step-1.json", '["the cat"]')
    report = tracker.close("FINISHED")
    assert report.message is None
    path = MlflowClient(server.uri).download_artifacts(report.run_id, "samples/step-1.json", str(tmp_path))
    assert Path(path).read_text(encoding="utf-8") == '["the cat"]'


def test_a_store_without_a_place_for_files_gets_the_metrics(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is given up after some tries, and counted."""
    from finetune_trainer.train import tracking
    from finetune_trainer.train.mlflow_store import RestStore

    tries: list[str] = []
    given_up = threading.Event()

    def refuse(self: RestStore, run_id: str, path: str, text: str) -> None:
        tries.append(path)
        if len(tries) == tracking.FILE_TRIES:
            given_up.set()
        raise OSError("no such bucket")

    monkeypatch.setattr(RestStore, "put", refuse)
    monkeypatch.setattr(tracking, "RETRY_SECONDS", (0.01,))
    tracker = Tracker(_settings(server.uri, job_uid="uid-refused", tags={TAG_JOB_UID: "uid-refused"}))
    tracker.keep("samples/step-1.json", "[]")
    tracker.log({"loss": 2.0}, 1)
    tracker.start()
    assert given_up.wait(120)
    report = tracker.close("FINISHED")
    assert tries == ["samples/step-1.json"] * tracking.FILE_TRIES
    assert server.history(report.run_id, "loss") == {1: 2.0}
    assert report.message == "1 files were lost"
    assert report.reachable is True


def test_a_run_that_does_not_exist_is_said_and_nothing_waits(server: Server) -> None:
    tracker = Tracker(_settings(server.uri, run_id="0" * 32))
    tracker.start()
    tracker.log({"loss": 2.0}, 1)
    report = tracker.close("FINISHED")
    assert report.reachable is False
    assert "has no run" in report.message
    assert "1 metrics were lost" in report.message


def test_metrics_of_an_absent_server_are_lost_and_counted() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    tracker = Tracker(_settings(f"http://127.0.0.1:{port}"))
    tracker.start()
    for step in range(3):
        tracker.log({"loss": 1.0, "grad_norm": float("nan")}, step)
    report = tracker.close("FINISHED", patience=1.0)
    assert report.reachable is False
    assert "does not answer" in report.message
    assert "3 metrics were lost" in report.message


def test_metrics_catch_up_when_the_server_is_back(server: Server) -> None:
    tracker = Tracker(_settings(server.uri, job_uid="uid-away", tags={TAG_JOB_UID: "uid-away"}))
    tracker.start()
    tracker.log({"loss": 3.0}, 1)
    limit = time.monotonic() + 120
    while tracker.report().run_id is None or server.history(tracker.report().run_id, "loss") != {1: 3.0}:
        assert time.monotonic() < limit, tracker.report()
        time.sleep(0.1)
    server.stop()
    for step in range(2, 700):
        tracker.log({"loss": 3.0 / step}, step)
    while tracker.report().reachable:
        assert time.monotonic() < limit + 60, tracker.report()
        time.sleep(0.1)
    assert "698 metrics wait to be sent" in tracker.report().message
    server.start()
    report = tracker.close("FINISHED", patience=60)
    assert (report.reachable, report.message) == (True, None)
    (run,) = server.runs("uid-away")
    assert len(server.history(run.info.run_id, "loss")) == 699


def test_a_database_needs_no_server(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "README.md").write_text("card")
    tracker = Tracker(_settings(uri, artifacts=True))
    tracker.start()
    tracker.log({"loss": 2.0}, 1)
    report = tracker.close("FINISHED", artifacts=tmp_path / "model", patience=120)
    client = MlflowClient(uri)
    assert client.get_run(report.run_id).data.metrics == {"loss": 2.0}
    assert [file.path for file in client.list_artifacts(report.run_id, "model")] == ["model/README.md"]
    assert list(tmp_path.glob("mlartifacts/**/README.md")), "artifacts lie beside the database, not where one stands"


def test_parameters_are_flat_text_without_secrets() -> None:
    spec = {
        "training_args": {"seed": 1, "lr_scheduler_kwargs": {"a": [1, 2]}},
        "hfTokenSecret": {"name": "s"},
        "env": [{"name": "PASSWORD", "value": "hush"}],
    }
    assert tracked_params(spec) == {"training_args.seed": "1", "training_args.lr_scheduler_kwargs.a": "[1, 2]"}
    assert flatten({"a": "x" * 900})["a"] == "x" * 500


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://user:secret@mlflow:5000/a", "http://mlflow:5000/a"),
        ("http://mlflow:5000", "http://mlflow:5000"),
        ("/workdir/mlruns", "/workdir/mlruns"),
        ("postgresql://me:secret@db/mlflow", "postgresql://db/mlflow"),
    ],
)
def test_credentials_are_never_shown(uri: str, shown: str) -> None:
    assert without_credentials(uri) == shown

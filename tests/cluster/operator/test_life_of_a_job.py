"""A job's whole life with real pods: trained once whatever dies meanwhile, resumed when interrupted, then deleted."""

import subprocess
import sys
import time

import pytest

LONG = {"learning_rate": 0.001, "max_steps": 4000, "logging_steps": 1, "save_steps": 5}


def names(objects):
    return sorted(one["metadata"]["name"] for one in objects)


def test_one_training_though_the_operator_is_killed_again_and_again(new_operator, jobs, spec, mlflow):
    """SIGKILL after the first write, while downloading, at the try's start and while training; and one MLflow run."""
    operator = new_operator(FINETUNE_MLFLOW_URI=mlflow).start()
    tracking = {"mlflow_server_uri": mlflow, "experiment_name": jobs.namespace}
    jobs.apply("job", **{**spec, "tracking": tracking, "training_args": {**LONG, "max_steps": 60}})
    jobs.wait("a volume", lambda: jobs.get("pvc", "job-checkpoints"))
    operator.kill()
    operator.start()
    jobs.wait("a download pod", lambda: jobs.children("pods", "job", "download"))
    operator.kill()
    operator.start()
    jobs.wait("a train Job", lambda: jobs.children("jobs", "job", "train"), timeout=120)
    operator.kill()
    operator.start()
    jobs.until_progress("job", 1)
    operator.kill()
    time.sleep(1)
    operator.start()
    status = jobs.until_phase("job", "Succeeded", "Failed")
    assert status["phase"] == "Succeeded"
    assert len(jobs.children("jobs", "job", "download")) == 1
    assert names(jobs.children("jobs", "job", "train")) == ["job-1"]
    assert len(jobs.children("pods", "job", "train")) == 1
    assert [(a["id"], a["outcome"]) for a in status["attempts"]] == [(1, "success")]
    assert status["progress"]["steps"] == "60/60"
    assert status["progress"]["loss"] < status["progress"]["firstLoss"]
    assert status["dataset"]["examples"] == 24
    assert status["model"]["path"] == "/workdir/checkpoints/checkpoint-final"
    assert runs_of(mlflow, jobs.get("ftj", "job")) == [status["mlflow"]["runId"]]


def runs_of(uri, job):
    """Ids of all runs that carry the job's uid, in every experiment."""
    code = (
        "import mlflow, sys; c = mlflow.MlflowClient(sys.argv[1]);"
        "ids = [e.experiment_id for e in c.search_experiments()];"
        "found = c.search_runs(ids, f\"tags.`finetune-operator.io/job-uid` = '{sys.argv[2]}'\");"
        "print(*[run.info.run_id for run in found])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, uri, job["metadata"]["uid"]], capture_output=True, text=True, check=True
    )
    return result.stdout.split()


def test_failures_are_retried_until_there_are_no_attempts_left_and_again_when_there_are_more(
    operator_process, jobs, spec
):
    """A trainer that dies is counted and started again; after maxAttempts the job has failed, until it is raised."""
    jobs.apply("job", **{**spec, "maxAttempts": 2, "training_args": LONG})
    for number in (1, 2):
        step = jobs.until_progress("job", 6 * number, job=f"job-{number}")
        jobs.kill_ranks(f"job-{number}")
    status = jobs.until_phase("job", "Failed", timeout=60)
    assert (status["failures"], status["maxAttemptsReached"]) == (2, 2)
    assert [(a["job"], a["outcome"]) for a in status["attempts"]] == [("job-1", "retry"), ("job-2", "retry")]
    assert "2 of 2" in jobs.condition("job", "Failed")[2]
    jobs.patch("job", maxAttempts=3)
    jobs.until_resumed("job", at_least=step - LONG["save_steps"])
    assert jobs.condition("job", "Failed")[0] == "False"


def test_deleting_a_job_removes_what_it_owns_and_nothing_else(operator_process, jobs, spec, kubectl, namespace):
    jobs.apply("job", **{**spec, "training_args": LONG})
    jobs.until_progress("job", 1)
    kubectl("delete", "ftj", "job", "-n", namespace, "--wait=false")
    for kind in ("jobs", "pods", "configmaps"):
        jobs.wait(f"{kind} are gone", lambda kind=kind: not jobs.children(kind, "job"), timeout=60)
    kept = names(jobs.get("pvc"))
    assert "job-checkpoints" in kept
    assert any(name.startswith("model-cache-") for name in kept)
    assert jobs.get("configmap", "data") is not None
    jobs.apply("job", **spec)
    assert "adoptCheckpoints" in jobs.until_reason("job", "VolumeNotOurs")
    labels = jobs.get("pvc", "job-checkpoints")["metadata"]["labels"]
    assert labels["finetune-operator.io/job-uid"] != jobs.get("ftj", "job")["metadata"]["uid"]


def test_ttl_removes_the_children_and_a_restart_writes_nothing(operator_process, jobs, spec):
    jobs.apply("job", **spec)
    jobs.until_phase("job", "Succeeded")
    before = jobs.get("ftj", "job")["metadata"]["resourceVersion"]
    operator_process.kill()
    operator_process.start()
    jobs.wait("the restarted operator has looked", lambda: (operator_process.metric("reconcile_total") or 0) >= 1)
    time.sleep(3)
    assert jobs.get("ftj", "job")["metadata"]["resourceVersion"] == before
    assert operator_process.writes() == []
    jobs.patch("job", ttlSecondsAfterFinished=1)
    for kind in ("jobs", "pods", "configmaps"):
        jobs.wait(f"{kind} are gone", lambda kind=kind: not jobs.children(kind, "job"), timeout=30)
    assert jobs.status("job")["phase"] == "Succeeded"
    assert "job-checkpoints" in names(jobs.get("pvc"))


def test_a_standby_takes_over_when_the_leader_is_killed(new_operator, jobs, spec):
    first = new_operator().start()
    second = new_operator()
    second.launch()
    jobs.wait("the standby is ready", lambda: second.metric("leading") == 0.0 and second.page("/readyz")[0] == 200)
    first.kill()
    second.until_leading()
    jobs.apply("job", **{**spec, "suspend": True})
    jobs.until_phase("job", "Suspended", timeout=30)
    assert second.page("/healthz") == (200, "ok")
    assert second.stop() == 0


@pytest.mark.parametrize("bad", [{"FINETUNE_PROGRESS_SECONDS": "often"}, {"KUBECONFIG": "/no/such/file"}])
def test_an_operator_that_cannot_start_says_why(new_operator, bad):
    operator = new_operator(**bad)
    operator.launch()
    assert operator.process.wait(timeout=30) == 78
    assert next(iter(bad.values())) in operator.output

"""The plan, step by step: what is created when, and what status says meanwhile."""

import copy
import json

import pytest

from finetune_operator.plan.types import Blocked, Delete, TrackedRun


def deletes(decisions):
    return [f"{a.kind}/{a.name}" for a in decisions.actions if isinstance(a, Delete)]


def test_a_new_job_gets_its_volumes_and_its_download(world, created, condition):
    decisions = world.plan()
    kinds = [name.split("/")[0] for name in created(decisions)]
    assert kinds == ["PersistentVolumeClaim", "PersistentVolumeClaim", "ConfigMap", "Job"]
    assert created(decisions)[1] == "PersistentVolumeClaim/demo-checkpoints"
    assert created(decisions)[3] == f"Job/demo-download-{world.training[:6]}"
    assert decisions.status["phase"] == "Pending"
    assert condition(decisions, "Reconciling") == ("True", "DownloadStarting")
    assert condition(decisions, "Ready")[0] == "False"


def test_no_gpu_is_asked_for_before_the_download_has_succeeded(world, created):
    job = world.download_job()
    world.with_storage().observed |= {"jobs": (job,), "pods": (world.pod(job),)}
    decisions = world.plan()
    assert created(decisions) == []
    assert decisions.status["phase"] == "Downloading"


def test_after_the_download_the_first_try_starts(world, created):
    decisions = world.downloaded().plan()
    assert created(decisions) == ["ConfigMap/demo-1", "Job/demo-1"]
    assert decisions.status["dataset"] == {"examples": 5, "tokens": 70}


def test_what_the_download_had_to_say_stays_in_status(world):
    """Numbers in their sections, notices beside those about the manifest, each once, also when its pod is gone."""
    world.spec["training_args"] |= {"max_steps": 9, "num_train_epochs": 2, "save_strategy": "epoch"}
    memory = {"weights": 4, "gradients": 4, "optimizer": 8, "activations": 2}
    report = {
        "dataset": {"examples": 5, "padShare": 0.25, "leaks": 1, "memory": memory},
        "effective": {"epochs": 3.0, "warmupSteps": 2},
        "notices": [
            "1 of 2 validation rows also stand in the training data",
            "max_steps (9) wins over num_train_epochs",
        ],
    }
    job = world.download_job("Complete")
    world.with_storage().observed |= {"jobs": (job,), "pods": (world.pod(job, exit_code=0, report=report),)}
    status = world.step().status
    assert (status["dataset"], status["effective"]) == (report["dataset"], report["effective"])
    assert status["notices"] == ["max_steps (9) wins over num_train_epochs", report["notices"][0]]
    world.observed["pods"] = ()
    assert world.step().status["notices"] == status["notices"]
    world.spec["training_args"].pop("num_train_epochs")  # another training has its own story
    assert "notices" not in world.plan(jobs=(), pods=()).status


def test_a_running_pod_is_polled_and_its_progress_shown(world):
    job = world.train_job()
    pod = world.pod(job)
    world.training_with(job, pods=(pod,))
    report = {"phase": "training", "step": 3, "totalSteps": 12, "loss": 1.23456789, "etaSeconds": 75}
    decisions = world.plan(progress=report)
    assert decisions.poll == pod["metadata"]["name"]
    assert decisions.status["phase"] == "Training"
    progress = decisions.status["progress"]
    assert (progress["steps"], progress["loss"], progress["eta"]) == ("3/12", 1.23457, "1m15s")
    assert decisions.status["attempts"] == [
        {"id": 1, "job": "demo-1", "startTime": pod["metadata"]["creationTimestamp"], "pod": pod["metadata"]["name"]}
    ]


def test_a_pod_that_ended_before_its_job_says_so_is_no_new_start(world):
    job = world.train_job()
    world.training_with(job, pods=(world.pod(job),))
    world.step(progress={"phase": "training", "step": 12, "totalSteps": 12})
    world.observed["pods"] = (world.pod(job, exit_code=0, report={"step": 12, "totalSteps": 12}),)
    assert world.plan().status["phase"] == "Training"


def test_nothing_changes_when_nothing_happened(world):
    """A restart of the operator must write nothing: the second status equals the first, long afterwards."""
    job = world.train_job()
    world.training_with(job, pods=(world.pod(job, created=-60),))
    first = world.step(progress={"phase": "training", "step": 3, "totalSteps": 12}).status
    world.wait(3600)
    job["metadata"]["creationTimestamp"] = world.at(-3660)
    second = world.plan()
    assert second.status == first
    assert second.actions == ()
    assert second.notices == ()


def test_success_is_terminal_and_names_the_model(world, created, condition):
    job = world.train_job(end="Complete")
    report = {"step": 12, "totalSteps": 12, "loss": 0.5, "model": {"path": "/workdir/checkpoints/checkpoint-final"}}
    world.training_with(job, pods=(world.pod(job, exit_code=0, report=report),))
    decisions = world.step()
    assert decisions.status["phase"] == "Succeeded"
    assert condition(decisions, "Complete")[0] == condition(decisions, "Ready")[0] == "True"
    assert condition(decisions, "Stalled")[0] == condition(decisions, "Reconciling")[0] == "False"
    assert decisions.status["model"] == {"claim": "demo-checkpoints", "path": "/workdir/checkpoints/checkpoint-final"}
    assert decisions.status["attempts"][-1]["outcome"] == "success"
    assert "eta" not in decisions.status["progress"]
    world.observed = {}  # children removed by hand
    world.spec["suspend"] = True
    after = world.plan()
    assert created(after) == []
    assert after.status == decisions.status


def test_success_tells_that_training_stopped_early(world):
    job = world.train_job(end="Complete")
    words = "trained 8 steps; stopped early after step 8; early stopping: the result is that of step 4"
    world.training_with(
        job, pods=(world.pod(job, exit_code=0, report={"step": 8, "totalSteps": 12, "message": words}),)
    )
    decisions = world.step()
    assert decisions.status["phase"] == "Succeeded"
    (complete,) = [one for one in decisions.status["conditions"] if one["type"] == "Complete"]
    assert words in complete["message"]


@pytest.mark.parametrize(
    ("exit_code", "reason"),
    [(65, "BadData"), (66, "InputMissing"), (78, "BadConfiguration"), (79, "OutOfMemory")],
)
def test_what_a_retry_cannot_mend_fails_at_once(world, created, condition, exit_code, reason):
    job = world.train_job(end="Failed")
    world.training_with(job, pods=(world.pod(job, exit_code=exit_code, report={"reason": reason, "message": "look"}),))
    decisions = world.plan()
    assert created(decisions) == []
    assert decisions.status["phase"] == "Failed"
    assert condition(decisions, "Failed") == condition(decisions, "Stalled") == ("True", reason)
    assert next(c for c in decisions.status["conditions"] if c["type"] == "Failed")["message"] == "look"


@pytest.mark.parametrize("exit_code", [69, 70, 1, 137])
def test_failures_that_may_pass_are_retried_with_backoff_and_counted(world, created, exit_code):
    job = world.train_job(end="Failed")
    world.training_with(job, pods=(world.pod(job, exit_code=exit_code),))
    decisions = world.step()
    assert created(decisions) == []
    assert decisions.status["phase"] == "Retrying"
    assert decisions.status["failures"] == 1
    assert decisions.requeue == 10
    world.wait(10)
    again = world.plan()
    assert created(again) == ["ConfigMap/demo-2", "Job/demo-2"]
    env = {entry["name"]: entry.get("value") for entry in _container(again)["env"]}
    assert env["FINETUNE_RESUME"] == "auto"
    assert env["FINETUNE_ATTEMPT"] == "2"


def _container(decisions):
    job = next(a.body for a in decisions.actions if a.body["kind"] == "Job")
    return job["spec"]["template"]["spec"]["containers"][0]


def test_the_last_attempt_that_may_fail_fails_the_job(world, created):
    world.spec["maxAttempts"] = 2
    jobs = [world.train_job(n, end="Failed") for n in (1, 2)]
    pods = tuple(world.pod(job, exit_code=69, report={"message": "no bucket"}) for job in jobs)
    decisions = world.training_with(*jobs, pods=pods).plan()
    assert created(decisions) == []
    assert decisions.status["phase"] == "Failed"
    message = next(c for c in decisions.status["conditions"] if c["type"] == "Failed")["message"]
    assert "2 of 2" in message
    assert "no bucket" in message


@pytest.mark.parametrize("how", ["exit 75", "evicted", "pod gone", "job gone"])
def test_interruptions_resume_at_once_and_are_never_counted(world, created, how):
    job = world.train_job()
    world.training_with(job, pods=(world.pod(job, created=-300),))
    world.step()
    ended = world.train_job(end="Failed")
    pods = {
        "exit 75": (world.pod(ended, exit_code=75, created=-300),),
        "evicted": (world.pod(ended, phase="Failed", disrupted=True, created=-300),),
    }.get(how, ())
    world.training_with(*([] if how == "job gone" else [ended]), pods=pods)
    decisions = world.plan()
    assert created(decisions) == ["ConfigMap/demo-2", "Job/demo-2"]
    assert decisions.status["failures"] == 0
    assert decisions.status["attempts"][0]["outcome"] == "resume"


def test_a_deleted_pods_last_words_outlive_it(world):
    job = world.train_job()
    pod = world.pod(job, exit_code=75, report={"reason": "Interrupted", "message": "stopped after step 54"})
    pod["metadata"]["deletionTimestamp"] = world.at()
    world.training_with(job, pods=(pod,))
    world.step()
    world.training_with(world.train_job(end="Failed"))
    attempt = world.plan().status["attempts"][0]
    assert (attempt["reason"], attempt["exitCode"], attempt["outcome"]) == ("Interrupted", 75, "resume")
    assert attempt["message"] == "stopped after step 54"


def test_a_running_attempt_says_which_checkpoint_it_began_with(world):
    job = world.train_job()
    world.training_with(job, pods=(world.pod(job),))
    decisions = world.plan(progress={"phase": "training", "step": 60, "resumedFromStep": 54})
    assert decisions.status["attempts"][-1]["resumedFromStep"] == 54


def test_suspend_deletes_the_train_job_and_waits_for_its_pods(world, created, condition):
    job = world.train_job()
    pod = world.pod(job)
    world.training_with(job, pods=(pod,))
    world.step()
    world.spec["suspend"] = True
    decisions = world.step()
    assert deletes(decisions) == ["Job/demo-1"]
    assert decisions.actions[0].foreground
    job["metadata"]["deletionTimestamp"] = world.at()
    assert deletes(world.step()) == []
    world.downloaded()
    stopped = world.step()
    assert stopped.status["phase"] == "Suspended"
    assert condition(stopped, "Suspended")[0] == "True"
    assert stopped.status["attempts"][0]["reason"] == "Suspended"
    assert created(stopped) == []
    world.spec["suspend"] = False
    resumed = world.plan()
    assert created(resumed) == ["ConfigMap/demo-2", "Job/demo-2"]
    assert resumed.status["failures"] == 0


def test_a_job_that_is_suspended_from_the_start_creates_nothing(world, created, condition):
    world.spec["suspend"] = True
    decisions = world.plan()
    assert created(decisions) == []
    assert condition(decisions, "Suspended") == ("True", "SuspendedByUser")


def test_never_two_tries_at_once(world, created):
    """A pod that outlives its Job (background deletion) holds the next try back."""
    gone = world.train_job()
    world.training_with(gone, pods=(world.pod(gone),))
    world.step()
    world.downloaded()
    world.observed["pods"] += (world.pod(gone),)
    decisions = world.plan()
    assert created(decisions) == []
    assert decisions.requeue is not None


@pytest.mark.parametrize("how", ["drained", "job gone", "suspended"])
def test_a_pod_on_a_node_that_does_not_answer_is_waited_for_and_named(world, created, condition, how):
    """Its volume must not be trained on twice; who knows that the node is off can say so."""
    job = world.train_job()
    pod = world.pod(job)
    pod["spec"] = {"nodeName": "gpu-7"}
    world.training_with(job, pods=(pod,))
    world.step()
    pod["metadata"]["deletionTimestamp"] = world.at(20)
    if how != "drained":
        job["metadata"]["deletionTimestamp"] = world.at()
    if how == "suspended":
        world.spec["suspend"] = True
    if how == "job gone":
        world.observed["jobs"] = world.observed["jobs"][:1]
    assert condition(world.step(), "Stalled")[0] == "False"
    world.wait(60)
    decisions = world.step()
    assert created(decisions) == []
    assert condition(decisions, "Stalled") == ("True", "NodeLost")
    assert "gpu-7" in next(c["message"] for c in decisions.status["conditions"] if c["type"] == "Ready")
    assert decisions.requeue


def test_a_changed_training_spec_after_the_end_starts_anew(world, created):
    job = world.train_job(end="Failed")
    world.training_with(job, pods=(world.pod(job, exit_code=65),))
    assert world.step().status["phase"] == "Failed"
    old_jobs = copy.deepcopy(world.observed["jobs"])
    world.spec["training_args"]["learning_rate"] = 0.01
    world.observed |= {"jobs": old_jobs}
    decisions = world.plan()
    assert created(decisions)[-1] == f"Job/demo-download-{world.training[:6]}"
    assert decisions.status["attempts"] == []
    assert decisions.status["failures"] == 0
    done = world.download_job("Complete")
    world.observed |= {"jobs": (*old_jobs, done), "pods": (world.pod(done, exit_code=0),)}
    world.status = decisions.status
    assert created(world.plan())[-1] == "Job/demo-2"


def test_labels_ttl_and_suspend_do_not_start_anew(world, created):
    job = world.train_job(end="Complete")
    world.training_with(job, pods=(world.pod(job, exit_code=0),))
    world.step()
    world.spec |= {"labels": {"team": "b"}, "ttlSecondsAfterFinished": 9999, "suspend": True}
    decisions = world.plan()
    assert created(decisions) == []
    assert decisions.status["phase"] == "Succeeded"


def test_an_invalid_spec_says_which_key(world, created, condition):
    world.spec["training_args"]["per_device_train_batch_size"] = 4
    decisions = world.plan()
    assert created(decisions) == []
    assert condition(decisions, "Failed") == ("True", "InvalidSpec")
    message = next(c for c in decisions.status["conditions"] if c["type"] == "Failed")["message"]
    assert "per_device_train_batch_size" in message


def test_more_gpus_than_a_node_has_are_capped_with_a_notice(world, condition):
    """Document 000's example: 9 GPUs asked for, 8 given, the total batch as it was."""
    world.spec |= {"finetuningGpus": 9}
    world.spec["batchsize_conf"] = {"total_train_batch_size": 72, "max_per_device_train_batch_size": 4}
    decisions = world.plan()
    assert decisions.status["gpus"] == 8
    assert condition(decisions, "SettingsAdjusted") == ("True", "Notices")
    message = next(one["message"] for one in decisions.status["conditions"] if one["type"] == "SettingsAdjusted")
    assert "finetuningGpus 9 is more than a node has: 8 are used; the total batch size stays the same" in message
    creates = [action.body for action in world.downloaded().plan().actions]
    config = next(body for body in creates if body["kind"] == "ConfigMap")
    spec = json.loads(config["data"]["job.json"])["spec"]
    assert (spec["finetuningGpus"], spec["batchsize_conf"]["total_train_batch_size"]) == (8, 72)
    assert "num_processes: 8" in config["data"]["accelerate.yaml"]
    container = next(body for body in creates if body["kind"] == "Job")["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "8"}


def test_a_cap_that_does_not_divide_the_batch_is_refused(world, condition):
    world.set(max_gpus_per_node=3)
    world.spec |= {"finetuningGpus": 4}
    assert condition(world.plan(), "Failed") == ("True", "InvalidSpec")


@pytest.mark.parametrize(("kueue", "reason"), [(False, "QueueUnavailable"), (True, "WaitingForQuota")])
def test_a_queued_job_stays_suspended_until_kueue_takes_it(world, condition, kueue, reason):
    world.spec["queueName"] = "gpu"
    decisions = world.downloaded().plan(kueue=kueue)
    job = next(a.body for a in decisions.actions if a.body["kind"] == "Job")
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpu"
    world.training_with(world.train_job(suspend=True))
    waiting = world.plan(kueue=kueue)
    assert waiting.status["phase"] == "Queued"
    assert condition(waiting, "Ready") == ("False", reason)
    assert condition(waiting, "QueueUnavailable")[0] == ("absent" if kueue else "True")
    assert waiting.actions == ()


def test_kueue_may_run_the_pods_of_one_job_twice(world):
    world.spec["queueName"] = "gpu"
    job = world.train_job()
    world.training_with(job, pods=(world.pod(job, created=-500),))
    world.step()
    world.training_with(world.train_job(suspend=True))  # taken back: the pods are gone, the Job stays
    taken = world.step()
    assert [a["reason"] for a in taken.status["attempts"]] == ["Preempted"]
    job = world.train_job()
    world.training_with(job, pods=(world.pod(job, created=-5),))
    again = world.plan()
    assert [(a["id"], a["job"]) for a in again.status["attempts"]] == [(1, "demo-1"), (2, "demo-1")]
    assert again.status["failures"] == 0


@pytest.mark.parametrize(("reason", "stalled"), [("NameTaken", "True"), ("QuotaExceeded", "False")])
def test_a_refused_create_becomes_a_condition(world, condition, reason, stalled):
    """Quota may be freed by others; a taken name needs somebody."""
    decisions = world.plan(blocked=(Blocked("Job", "demo-1", reason, "refused"),))
    assert condition(decisions, "Ready") == ("False", reason)
    assert condition(decisions, "Stalled")[0] == stalled
    assert decisions.actions == ()
    assert decisions.requeue


def test_a_foreign_work_volume_is_not_taken(world, created, condition):
    world.observed |= {"checkpoints": world.claim(uid="uid-of-an-earlier-job"), "cache": world.claim("model-cache-1")}
    decisions = world.plan()
    assert created(decisions) == []
    assert condition(decisions, "Ready") == ("False", "VolumeNotOurs")
    world.spec["adoptCheckpoints"] = True
    assert created(world.plan())[-1].startswith("Job/demo-download")


def test_a_volume_that_is_being_deleted_is_waited_for(world, created, condition):
    claim = world.claim()
    claim["metadata"]["deletionTimestamp"] = world.at()
    decisions = world.plan(checkpoints=claim)
    assert created(decisions) == []
    assert condition(decisions, "Ready")[1] == "VolumeTerminating"


class TestDownloadFailures:
    def test_bad_data_fails_before_any_gpu(self, world, created, condition):
        job = world.download_job("Failed")
        pod = world.pod(job, exit_code=65, report={"reason": "BadData", "message": "train.jsonl:3: not JSON"})
        world.with_storage().observed |= {"jobs": (job,), "pods": (pod,)}
        decisions = world.plan()
        assert created(decisions) == []
        assert condition(decisions, "Failed") == ("True", "BadData")

    def test_an_unreachable_bucket_is_tried_again_with_backoff(self, world, created):
        job = world.download_job("Failed")
        world.with_storage().observed |= {"jobs": (job,), "pods": (world.pod(job, exit_code=69),)}
        decisions = world.step()
        assert decisions.status["phase"] == "Retrying"
        assert decisions.requeue == 10
        world.wait(10)
        assert created(world.plan())[-1] == f"Job/demo-download-{world.training[:6]}-2"

    def test_it_fails_after_max_attempts(self, world, created):
        jobs = tuple(world.download_job("Failed", n) for n in (1, 2, 3))
        pods = tuple(world.pod(job, exit_code=69) for job in jobs)
        world.with_storage().observed |= {"jobs": jobs, "pods": pods}
        decisions = world.plan()
        assert created(decisions) == []
        assert decisions.status["phase"] == "Failed"


class TestTracking:
    URI = "http://mlflow.mlops:5000"
    RUN = TrackedRun("4", "abc", "http://mlflow/#/experiments/4/runs/abc")

    @pytest.fixture
    def tracked(self, world):
        world.spec["tracking"] = {"mlflow_server_uri": self.URI + "/", "experiment_name": "chat"}
        return world.set(mlflow_uri=self.URI).downloaded()

    def test_a_run_is_made_before_the_first_try(self, tracked, created):
        decisions = tracked.plan()
        assert decisions.needs_run
        assert created(decisions) == []

    def test_the_run_is_handed_down_and_shown(self, tracked, created):
        decisions = tracked.plan(tracked_run=self.RUN)
        config = next(a.body for a in decisions.actions if a.body["kind"] == "ConfigMap")["data"]["job.json"]
        assert '"runId": "abc"' in config
        assert decisions.status["mlflow"] == {"experimentId": "4", "runId": "abc", "url": self.RUN.url}
        tracked.status = decisions.status
        assert not tracked.plan().needs_run

    def test_a_server_that_does_not_answer_delays_but_never_stops_training(self, tracked, created, condition):
        waiting = tracked.plan(tracking_error="connection refused")
        assert created(waiting) == []
        assert condition(waiting, "MLflowUnavailable")[0] == "True"
        tracked.now = tracked.now.replace(minute=5)
        assert created(tracked.plan(tracking_error="connection refused")) == ["ConfigMap/demo-1", "Job/demo-1"]

    @pytest.mark.parametrize("tracking", [{"mlflow_server_uri": "http://elsewhere"}, {"run_id": "given"}])
    def test_the_operator_calls_no_other_server_and_keeps_a_given_run(self, tracked, tracking):
        tracked.spec["tracking"] |= tracking
        decisions = tracked.downloaded().plan()
        assert not decisions.needs_run
        assert decisions.actions

    def test_a_pod_that_cannot_reach_the_server_is_a_condition(self, tracked, condition):
        job = tracked.train_job()
        tracked.training_with(job, pods=(tracked.pod(job),))
        report = {"phase": "training", "step": 1, "mlflow": {"reachable": False, "message": "3 points were lost"}}
        decisions = tracked.plan(progress=report, tracked_run=self.RUN)
        assert condition(decisions, "MLflowUnavailable") == ("True", "Unreachable")
        assert decisions.status["phase"] == "Training"


class TestCleanUp:
    @pytest.fixture
    def finished(self, world):
        world.spec["ttlSecondsAfterFinished"] = 100
        job = world.train_job(end="Complete")
        world.training_with(job, pods=(world.pod(job, exit_code=0),))
        world.step()
        return world

    def test_not_before_its_time(self, finished):
        decisions = finished.plan()
        assert deletes(decisions) == []
        assert decisions.requeue == pytest.approx(100.5)

    def test_children_go_and_the_work_volume_stays(self, finished):
        finished.wait(101)
        config = finished.child("ConfigMap", "demo-1", "train")
        decisions = finished.plan(config_maps=(config,))
        assert deletes(decisions) == ["ConfigMap/demo-1", f"Job/demo-download-{finished.training[:6]}", "Job/demo-1"]
        assert decisions.status["phase"] == "Succeeded"

    def test_a_work_volume_with_retention_delete_goes_too(self, finished):
        finished.wait(101)
        claim = finished.claim()
        claim["metadata"]["ownerReferences"] = [{"uid": "uid-1"}]
        assert "PersistentVolumeClaim/demo-checkpoints" in deletes(finished.plan(checkpoints=claim))

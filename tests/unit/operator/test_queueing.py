"""What a queued job is told, from Kueue's Workload: the reason, what to do, and when the operator looks again."""

import pytest

from finetune_api import constants

PREEMPTED = (
    "Preempted to accommodate a workload (UID: 8f1, JobUID: 77a) due to prioritization in the ClusterQueue; "
    "preemptor path: /team; preemptee path: /team"
)
NO_FIT = "couldn't assign flavors to pod set main: "
LACKS = f"{NO_FIT}insufficient unused quota for nvidia.com/gpu in flavor a100, 4 more needed"
NEVER = (
    f"{NO_FIT}insufficient quota for nvidia.com/gpu in flavor a100, previously considered podsets requests (0) + "
    "current podset request (16) > maximum capacity (8)"
)


def workload(job, *conditions, active=True, **status):
    """As Kueue writes it; conditions are (type, truth, reason, message)."""
    return {
        "metadata": {
            "name": "job-demo-1-abcde",
            "creationTimestamp": "2026-11-22T11:00:00Z",
            "labels": {constants.LABEL_WORKLOAD_JOB_UID: job["metadata"]["uid"]},
        },
        "spec": {"active": active},
        "status": {
            "conditions": [
                {"type": kind, "status": "True" if truth else "False", "reason": reason, "message": message}
                for kind, truth, reason, message in conditions
            ],
            **status,
        },
    }


def waiting(world, *conditions, **more):
    """The plan for a job whose train Job is suspended and has this Workload."""
    world.spec["queueName"] = "gpu"
    job = world.train_job(suspend=True)
    world.training_with(job)
    return world.step(workloads=(workload(job, *conditions, **more),))


@pytest.mark.parametrize(
    ("conditions", "more", "reason", "stalled", "words"),
    [
        ((), {}, "WaitingForQuota", False, "waiting for quota in queue 'gpu'"),
        ((("QuotaReserved", False, "Pending", LACKS),), {}, "WaitingForQuota", False, "4 more needed"),
        ((("QuotaReserved", False, "WaitingForQuota", LACKS),), {}, "WaitingForQuota", False, "4 more needed"),
        ((("QuotaReserved", False, "Pending", NEVER),), {}, "QueueTooSmall", True, "Apply it anew with less"),
        (
            (("QuotaReserved", False, "Inadmissible", "LocalQueue gpu doesn't exist"),),
            {},
            "QueueMissing",
            True,
            "LocalQueue 'gpu' does not exist: create it, or apply the job anew",
        ),
        (
            (("QuotaReserved", False, "Misconfigured", "ClusterQueue team not found"),),
            {},
            "QueueMissing",
            True,
            "the cluster's administrators",
        ),
        (
            (("QuotaReserved", False, "Inadmissible", "ClusterQueue team is inactive"),),
            {},
            "QueueStopped",
            True,
            "ClusterQueue team is inactive",
        ),
        (
            (("QuotaReserved", False, "Inadmissible", "Workload namespace doesn't match ClusterQueue selector"),),
            {},
            "QueueRefused",
            True,
            "doesn't match ClusterQueue selector",
        ),
        (
            (("QuotaReserved", True, "QuotaReserved", "Quota reserved"), ("Admitted", False, "NoChecks", "")),
            {"admissionChecks": [{"name": "budget", "state": "Pending", "message": "asking"}]},
            "WaitingForAdmissionChecks",
            False,
            "budget is Pending (asking)",
        ),
        (
            (("Evicted", True, "Preempted", PREEMPTED), ("QuotaReserved", False, "Pending", LACKS)),
            {},
            "WaitingForQuota",
            False,
            "Preempted to accommodate a workload due to prioritization in the ClusterQueue; waiting for quota",
        ),
        (
            (("Evicted", True, "Preempted", PREEMPTED), ("QuotaReserved", False, "Preempted", PREEMPTED)),
            {},
            "WaitingForQuota",
            False,
            "due to prioritization in the ClusterQueue; waiting for quota in queue 'gpu'",
        ),
        (
            (("Evicted", True, "PodsReadyTimeout", "Exceeded the PodsReady timeout"),),
            {"requeueState": {"count": 1, "requeueAt": "2026-11-22T12:10:00Z"}},
            "WaitingForRequeue",
            False,
            "Kueue tries again at 2026-11-22T12:10:00Z",
        ),
        (
            (("Evicted", True, "Deactivated", "The workload is deactivated"),),
            {"active": False},
            "WorkloadDeactivated",
            True,
            "kubectl patch workload job-demo-1-abcde",
        ),
    ],
)
def test_why_a_queued_job_waits(world, conditions, more, reason, stalled, words):
    status = waiting(world, *conditions, **more).status
    told = {c["type"]: c for c in status["conditions"]}
    assert status["phase"] == "Queued"
    assert told["Ready"]["reason"] == reason
    assert words in told["Ready"]["message"]
    assert told["Ready"]["message"].count("Preempted to") <= 1
    assert told["Stalled"]["status"] == str(stalled)


def test_an_admitted_job_is_starting(world):
    status = waiting(world, ("QuotaReserved", True, "QuotaReserved", "x"), ("Admitted", True, "Admitted", "x")).status
    assert status["phase"] == "Starting"


def test_conditions_of_the_workload_are_mirrored_and_released(world, condition):
    """They are kept while pods run, when no Workload is read, and are false once the Job is gone."""
    decisions = waiting(world, ("QuotaReserved", False, "Pending", LACKS))
    assert condition(decisions, "QuotaReserved") == ("False", "Pending")
    assert condition(decisions, "Evicted")[0] == "absent"
    decisions = waiting(world, ("QuotaReserved", True, "QuotaReserved", "x"), ("Admitted", True, "Admitted", "x"))
    job = world.train_job()
    world.training_with(job, pods=(world.pod(job),))
    running = world.step()
    assert condition(running, "QuotaReserved") == ("True", "QuotaReserved")
    world.training_with(world.train_job(end="Complete"))
    over = world.step()
    assert condition(over, "Complete")[0] == "True"
    assert condition(over, "QuotaReserved") == ("False", "Released")


def test_a_preempted_attempt_says_why_and_does_not_count(world):
    """First the pod writes its checkpoint and leaves, then the Job waits; the attempt keeps its exit code."""
    world.spec["queueName"] = "gpu"
    world.spec["maxAttempts"] = 1
    job = world.train_job()
    world.training_with(job, pods=(world.pod(job, created=-500),))
    world.step()
    job = world.train_job(suspend=True)
    evicted = (workload(job, ("Evicted", True, "Preempted", PREEMPTED)),)
    world.training_with(job, pods=(world.pod(job, created=-500),))
    stopping = world.step(workloads=evicted)
    assert stopping.status["conditions"][0]["reason"] == "Preempting"
    ended = world.pod(job, created=-500, exit_code=75)
    ended["metadata"]["deletionTimestamp"] = world.at()
    world.training_with(job, pods=(ended,))
    world.step(workloads=evicted)
    world.training_with(job)
    attempt = world.step(workloads=evicted).status["attempts"][-1]
    assert attempt["outcome"] == "resume"
    assert attempt["reason"] == "Preempted"
    assert attempt["message"] == "Preempted to accommodate a workload due to prioritization in the ClusterQueue"
    assert attempt["exitCode"] == 75
    assert world.status["failures"] == 0


@pytest.mark.parametrize(("age", "workloads", "reason"), [(30, (), "WaitingForQuota"), (600, (), "QueueNotResponding")])
def test_kueue_that_does_nothing_is_noticed(world, condition, age, workloads, reason):
    world.spec["queueName"] = "gpu"
    job = world.train_job(suspend=True)
    job["metadata"]["creationTimestamp"] = world.at(-age)
    world.training_with(job)
    assert condition(world.plan(workloads=workloads), "Ready") == ("False", reason)


@pytest.mark.parametrize(("age", "seconds"), [(1, 5), (60, 10), (600, 100), (86400, 300)])
def test_the_longer_a_job_waits_the_rarer_the_operator_looks(world, age, seconds):
    world.spec["queueName"] = "gpu"
    job = world.train_job(suspend=True)
    job["metadata"]["creationTimestamp"] = world.at(-age)
    world.training_with(job)
    assert world.plan(workloads=(workload(job),)).requeue == seconds


def test_a_download_that_kueue_holds_says_so(world, condition):
    """A Kueue that manages Jobs without a queue, or gives them a default one."""
    job = world.download_job()
    job["spec"]["suspend"] = True
    world.observed = {"jobs": (job,)}
    assert condition(world.plan(), "Ready") == ("False", "JobSuspended")
    job["metadata"]["labels"][constants.LABEL_QUEUE] = "default"
    held = world.plan(workloads=(workload(job, ("QuotaReserved", False, "Pending", LACKS)),))
    assert held.status["phase"] == "Pending"
    assert condition(held, "Ready") == ("False", "WaitingForQuota")


def test_a_job_without_a_queue_starts_at_once(world, created):
    decisions = world.downloaded().plan(kueue=True)
    job = next(a.body for a in decisions.actions if a.body["kind"] == "Job")
    assert "suspend" not in job["spec"]
    assert constants.LABEL_QUEUE not in job["metadata"]["labels"]


@pytest.mark.parametrize("queue", ["gpu", None])
def test_the_download_asks_for_no_quota(world, queue):
    """It holds no GPU, and quota is reserved only once there is something to train on."""
    world.spec |= {"queueName": queue} if queue else {}
    job = next(a.body for a in world.plan().actions if a.body["kind"] == "Job")
    assert job["metadata"]["labels"][constants.LABEL_ROLE] == constants.ROLE_DOWNLOAD
    assert constants.LABEL_QUEUE not in job["metadata"]["labels"]
    assert "suspend" not in job["spec"]
    requests = job["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]
    assert not any("gpu" in name for name in requests)


@pytest.mark.parametrize(
    ("granted", "state", "words"),
    [
        (4, ("absent", ""), ""),
        (3, ("True", "NodesIdle"), "cannot be spread over 3 x 1 processes, so 2 nodes train and 1 stand idle"),
        (2, ("True", "FewerNodes"), "the queue has granted 2 of 4 nodes; the total batch of 8 stays the same"),
    ],
)
def test_fewer_nodes_than_asked_for_are_told(world, condition, monkeypatch, granted, state, words):
    world.spec |= {"queueName": "gpu", "nodes": 4, "minNodes": 1, "finetuningGpus": 1}
    job = world.train_job()
    job["spec"]["parallelism"] = granted
    world.training_with(job, pods=(world.pod(job),))
    decisions = world.step()
    assert condition(decisions, "PartiallyAdmitted") == state
    assert any(words in one["message"] for one in decisions.status["conditions"])
    assert decisions.status["gpus"] == granted
    world.training_with(world.train_job(suspend=True))
    assert condition(world.step(), "PartiallyAdmitted")[0] != "True"

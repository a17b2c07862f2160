"""How a run of pods ended: the exit-code contract, and what Kubernetes leaves when pods are gone."""

import pytest

from finetune_operator.plan.endings import classify, ended

CODES = [
    (0, "success", "Completed"),
    (65, "fatal", "BadData"),
    (66, "fatal", "InputMissing"),
    (69, "retry", "Unavailable"),
    (70, "retry", "InternalError"),
    (75, "resume", "Interrupted"),
    (78, "fatal", "BadConfiguration"),
    (79, "fatal", "OutOfMemory"),
    (1, "retry", "Error"),
    (137, "retry", "Killed"),
    (143, "resume", "Interrupted"),
]


@pytest.mark.parametrize(("code", "kind", "reason"), CODES)
def test_exit_codes_without_words(world, code, kind, reason):
    job = world.train_job(end="Failed" if code else "Complete")
    end = classify(job, (world.pod(job, exit_code=code),), "train")
    assert (end.kind, end.reason, end.exit_code) == (kind, reason, code)
    assert end.message


def test_the_pods_own_words_win(world):
    job = world.train_job(end="Failed")
    report = {"reason": "BadTemplate", "message": "line 4: no template", "step": 7}
    end = classify(job, (world.pod(job, exit_code=65, report=report),), "train")
    assert (end.reason, end.message, end.report["step"]) == ("BadTemplate", "line 4: no template", 7)


def test_a_log_tail_instead_of_a_report_is_no_report(world):
    job = world.train_job(end="Failed")
    end = classify(job, (world.pod(job, exit_code=70, message="Traceback (most recent call last)"),), "train")
    assert (end.kind, end.report) == ("retry", {})


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("Evicted", "resume"),
        ("NodeLost", "resume"),
        ("OutOfnvidia.com/gpu", "resume"),
        ("UnexpectedAdmissionError", "resume"),
        ("SomethingElse", "retry"),
    ],
)
def test_a_pod_that_its_node_took_away_or_refused_counts_not(world, reason, kind):
    job = world.train_job(end="Failed")
    pod = world.pod(job, phase="Failed")
    pod["status"] |= {"reason": reason, "message": "the node says so"}
    end = classify(job, (pod,), "train")
    assert (end.kind, end.reason, end.message) == (kind, reason, "the node says so")


def test_host_memory_is_told_from_a_plain_kill(world):
    job = world.train_job(end="Failed")
    end = classify(job, (world.pod(job, exit_code=137, reason="OOMKilled"),), "train")
    assert (end.kind, end.reason) == ("retry", "OutOfHostMemory")
    assert "memoryPerGpu" in end.message


def test_a_deleted_pod_that_was_killed_is_an_interruption(world):
    job = world.train_job(end="Failed")
    pod = world.pod(job, exit_code=137)
    pod["metadata"]["deletionTimestamp"] = world.at()
    assert classify(job, (pod,), "train").kind == "resume"


@pytest.mark.parametrize(
    ("message", "kind", "reason"),
    [
        ("Container train for pod team/demo-1-0 failed with exit code 65 matching FailJob rule", "fatal", "BadData"),
        ("Job has reached the specified backoff limit", "resume", "PodLost"),
    ],
)
def test_without_pods_the_job_is_asked(world, message, kind, reason):
    end = classify(world.train_job(end="Failed", message=message), (), "train")
    assert (end.kind, end.reason) == (kind, reason)


def test_of_several_pods_the_first_to_end_is_the_cause(world):
    job = world.train_job(end="Failed")
    culprit = world.pod(job, exit_code=70, index=1, finishedAt=world.at(-9))
    survivor = world.pod(job, exit_code=75, index=0, finishedAt=world.at(-2))
    assert classify(job, (survivor, culprit), "train").kind == "retry"


def test_numbers_are_rank_0s_also_where_another_pod_is_the_cause(world):
    job = world.train_job(end="Failed")
    told = {"step": 9, "checkpoints": [{"step": 5}], "reason": "Interrupted", "message": "a peer has gone"}
    leader = world.pod(job, exit_code=75, index=0, report=told, finishedAt=world.at(-9))
    cause = {"reason": "NoProgress", "message": "nothing moved"}
    culprit = world.pod(job, exit_code=75, index=1, report=cause, finishedAt=world.at(-9))
    end = classify(job, (leader, culprit), "train")
    assert (end.reason, end.message, end.exit_code) == ("NoProgress", "nothing moved", 75)
    assert (end.report["step"], end.report["checkpoints"]) == (9, [{"step": 5}])


def test_an_eviction_explains_the_failure_of_its_peers(world):
    job = world.train_job(end="Failed")
    evicted = world.pod(job, exit_code=75, index=1, disrupted=True)
    peer = world.pod(job, exit_code=70, index=0, finishedAt=world.at(-9))
    assert classify(job, (evicted, peer), "train").kind == "resume"


def test_bad_data_stays_fatal_beside_an_eviction(world):
    job = world.train_job(end="Failed")
    pods = (world.pod(job, exit_code=65, index=0), world.pod(job, phase="Failed", index=1, disrupted=True))
    assert classify(job, pods, "train").kind == "fatal"


def test_a_pod_that_its_job_has_replaced_says_nothing(world):
    job = world.train_job(end="Failed")
    old = world.pod(job, exit_code=75, created=-500, disrupted=True)
    new = world.pod(job, exit_code=66, created=-10)
    assert classify(job, (old, new), "train").reason == "InputMissing"


def test_a_job_whose_pods_still_stop_has_not_ended(world):
    job = world.train_job()
    job["status"]["conditions"] = [{"type": "FailureTarget", "status": "True"}]
    assert ended(job) is None

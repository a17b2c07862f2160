"""Jobs in a real queue: started within its quota, told why they wait, preempted by their betters, and resumed."""

LONG = {"learning_rate": 0.001, "max_steps": 4000, "logging_steps": 1, "save_steps": 5}
ONE_JOB = {"cpu": "150m", "memory": "4Gi"}  # a job of the fixture asks for 100m


def test_a_preempted_job_resumes_when_there_is_quota_again(queues, operator_process, jobs, spec):
    """Downloads hold no quota; the more urgent job takes it; the other waits, is told why, and goes on."""
    queues.quota(**ONE_JOB)
    queued = {**spec, "queueName": "gpu", "maxAttempts": 1}
    jobs.apply("low", **{**queued, "workloadPriorityClassName": "low", "training_args": LONG})
    jobs.until_progress("low", 6)
    jobs.apply("high", **{**queued, "workloadPriorityClassName": "high"})
    assert "Preempted to accommodate a workload due to prioritization" in jobs.until_reason(
        "low", "WaitingForQuota", 120
    )
    status = jobs.status("low")
    assert status["phase"] == "Queued"
    assert [(a["reason"], a["outcome"]) for a in status["attempts"]] == [("Preempted", "resume")]
    assert jobs.condition("low", "Evicted")[:2] == ("True", "Preempted")
    assert jobs.condition("low", "QuotaReserved")[0] == "False"
    assert jobs.until_phase("high", "Succeeded", "Failed")["phase"] == "Succeeded"
    assert jobs.condition("high", "QuotaReserved")[:2] == ("False", "Released")
    jobs.until_resumed("low", at_least=6)
    status = jobs.status("low")
    assert jobs.condition("low", "Admitted")[0] == "True"
    assert jobs.condition("low", "Evicted")[0] == "False"
    assert (status["failures"], status["attempt"]) == (0, 2)
    assert {attempt["job"] for attempt in status["attempts"]} == {"low-1"}
    workloads = queues.workloads()
    assert {name: one["spec"]["priorityClassRef"]["name"] for name, one in workloads.items()} == {
        "low-1": "low",
        "high-1": "high",
    }


def test_what_a_waiting_job_is_told(queues, operator_process, jobs, spec, kubectl, namespace):
    """Each reason names what to do; what is done helps, without the operator's being told."""
    queues.quota(cpu="50m", memory="4Gi")
    jobs.apply("big", **{**spec, "queueName": "gpu"})
    jobs.apply("lost", **{**spec, "queueName": "elsewhere"})
    assert "Apply it anew with less, or with a larger queue" in jobs.until_reason("big", "QueueTooSmall", timeout=120)
    assert "LocalQueue 'elsewhere' does not exist" in jobs.until_reason("lost", "QueueMissing", 120)
    assert jobs.condition("big", "Stalled")[0] == "True"
    assert jobs.children("pods", "big", "train") == []
    name = queues.workloads()["big-1"]["metadata"]["name"]
    kubectl("patch", "workload", name, "-n", namespace, "--type=merge", "-p", '{"spec":{"active":false}}')
    assert name in jobs.until_reason("big", "WorkloadDeactivated")
    kubectl("patch", "workload", name, "-n", namespace, "--type=merge", "-p", '{"spec":{"active":true}}')
    queues.quota(**ONE_JOB)
    jobs.wait("it is admitted", lambda: jobs.condition("big", "Admitted")[0] == "True", timeout=120)
    assert jobs.get("job", "big-1")["spec"]["suspend"] is False


def test_fewer_nodes_than_asked_for_train_with_the_same_total_batch(queues, operator_process, jobs, spec):
    """Partial admission: three of four nodes fit into the quota, over two of them the batch of 4 can be spread."""
    queues.quota(cpu="350m", memory="8Gi")
    jobs.apply("job", **{**spec, "queueName": "gpu", "nodes": 4, "minNodes": 1})
    jobs.wait("fewer nodes", lambda: jobs.condition("job", "PartiallyAdmitted")[0] == "True", timeout=120)
    _, reason, message = jobs.condition("job", "PartiallyAdmitted")
    assert reason == "NodesIdle"
    assert "granted 3 of 4 nodes" in message
    assert "2 nodes train and 1 stand idle" in message
    status = jobs.until_phase("job", "Succeeded", "Failed")
    assert status["phase"] == "Succeeded"
    effective = status["effective"]
    assert (effective["worldSize"], effective["totalBatch"]) == (2, 4)
    assert effective["perDeviceBatch"] * effective["accumulation"] * 2 == 4
    assert jobs.get("job", "job-1")["spec"]["completions"] == 3
    assert len(jobs.children("pods", "job", "train")) == 3

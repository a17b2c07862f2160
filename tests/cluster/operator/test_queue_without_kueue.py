"""queueName where no Kueue is installed: the quota is nobody's to give, so the job waits and says so. (Without
queueName a job simply starts, as everywhere else in this folder.)"""


def test_a_queued_job_waits_and_bypasses_nothing(operator_process, jobs, spec):
    jobs.apply("queued", **{**spec, "queueName": "gpu"})
    assert "Kueue is not installed in this cluster" in jobs.until_reason("queued", "QueueUnavailable", 120)
    assert jobs.condition("queued", "QueueUnavailable")[0] == "True"
    assert jobs.condition("queued", "Stalled")[0] == "True"
    assert jobs.status("queued")["phase"] == "Queued"
    assert jobs.children("pods", "queued", "train") == []
    assert jobs.get("job", "queued-1")["spec"]["suspend"] is True
    jobs.patch("queued", suspend=True)
    jobs.until_phase("queued", "Suspended")
    assert jobs.get("job", "queued-1") is None

"""A FineTuneJob is deleted, in whatever phase it is: its children go, and of volumes only what was meant to."""

from __future__ import annotations

KINDS = ("jobs", "pods", "configmaps", "services")


def test_deleting_a_job_in_any_phase_leaves_nothing_but_volumes(new_operator, jobs, spec, kubectl, namespace):
    operator_process = new_operator(FINETUNE_SWEEP_SECONDS="5").start()
    jobs.apply("waits", **{**spec, "bucketCredentialsSecret": {"name": "not-there"}})
    jobs.apply("suspended", **{**spec, "suspend": True})
    jobs.apply("failed", **{**spec, "basemodel": "s3://models/not-there"})
    jobs.apply("thrown-away", **{**spec, "checkpointsRetention": "Delete", "suspend": True})
    jobs.apply("new", **{**spec, "queueName": "no-kueue", "bucketCredentialsSecret": {"name": "not-there"}})
    jobs.until_reason("waits", "SecretMissing")
    jobs.until_phase("failed", "Failed")
    jobs.until_phase("suspended", "Suspended")
    jobs.until_phase("thrown-away", "Suspended")
    jobs.apply("newest", **spec)  # deleted while the operator is making its children

    kubectl("delete", "ftj", "--all", "-n", namespace, "--wait=false")

    everyone = ("waits", "suspended", "failed", "thrown-away", "new", "newest")
    for kind in KINDS:
        jobs.wait(f"{kind} are gone", lambda kind=kind: not any(jobs.children(kind, name) for name in everyone))
    jobs.wait("the volume that was to go is gone", lambda: jobs.get("pvc", "thrown-away-checkpoints") is None)
    kept = {claim["metadata"]["name"] for claim in jobs.get("pvc")}
    assert {"waits-checkpoints", "failed-checkpoints"} <= kept
    jobs.wait("nothing is polled", lambda: operator_process.metric("polled_jobs") == 0)
    assert sum(operator_process.metric(f'jobs{{phase="{phase}"}}') or 0 for phase in ("Failed", "Suspended")) == 0
    assert operator_process.page("/healthz") == (200, "ok")
    jobs.wait("a sweep without a job", lambda: (operator_process.metric("sweep_age_seconds") or 9) < 2)
    assert "the sweep failed" not in operator_process.output
    assert "orphans were not looked for" not in operator_process.output

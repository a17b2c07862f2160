"""Why a suspended Job waits: Kueue's Workload of that Job, told in the words of this operator.

A Workload's conditions are an API; the reasons in them changed with Kueue's versions (one Inadmissible became several),
so what is certain is read from status and the rest from the words that all versions share. Kueue's message is always
passed on. Its place in the queue is not told: a Workload does not know it.
"""

import re

from finetune_api import constants

from .context import Context
from .types import QUEUED, STARTING, TRAINING, Object, Verdict

# What Kueue says of a Workload, mirrored as conditions of the FineTuneJob.
MIRRORED = ("QuotaReserved", "Admitted", "Evicted")
# Kueue takes up a Job within moments, if it runs at all.
TAKE_UP_SECONDS = 120.0
# No watch tells of a Workload: while a Job waits it is read again after a sixth of the time waited, within bounds. A
# start is seen at once, since that changes the Job.
SOONEST, LATEST = 5.0, 300.0
LACKING = re.compile(r"(Local|Cluster)Queue (\S+) (?:doesn't exist|not found)")


def queued(context: Context, job: Object, phase: str = QUEUED) -> Verdict:
    """The verdict on a Job that is suspended. `phase`: where the FineTuneJob stands while it is in a queue."""
    queue = queue_of(context, job)
    if not queue:
        message = (
            "the Job was suspended by someone else: set its spec.suspend to false, or delete it to start anew (a Kueue "
            "that manages Jobs without a queue does this; a LocalQueue named default in this namespace takes them)"
        )
        return Verdict(phase, "JobSuspended", message, stuck=True, requeue=30)
    if not context.observed.kueue:
        message = (
            f"queueName is {queue!r}, but Kueue is not installed in this cluster: install it, or delete this job and "
            "apply it without queueName. The Job stays suspended, so that no quota is bypassed"
        )
        return Verdict(phase, "QueueUnavailable", message, stuck=True, requeue=60)
    workload = workload_of(context, job)
    if workload is None:
        return _not_taken_up(context, job, queue, phase)
    if any((pod.get("status") or {}).get("phase") == "Running" for pod in context.pods_of(job)):
        message = f"{_evicted(workload)}: the pods write a checkpoint and stop, the Job stays in queue {queue!r}"
        return Verdict(TRAINING, "Preempting", message, requeue=SOONEST)
    return _waiting(context, job, workload, queue, phase)


def queue_of(context: Context, job: Object) -> str | None:
    """Also a queue that we did not name: Kueue may put Jobs that name none into a default one."""
    return (job["metadata"].get("labels") or {}).get(constants.LABEL_QUEUE) or context.request.spec.queue_name


def workload_of(context: Context, job: Object) -> Object | None:
    """The newest Workload of a Job that has not finished."""
    own = [
        one
        for one in context.observed.workloads
        if (one["metadata"].get("labels") or {}).get(constants.LABEL_WORKLOAD_JOB_UID) == job["metadata"].get("uid")
        and not _is_true(one, "Finished")
    ]
    return max(own, key=lambda one: one["metadata"].get("creationTimestamp") or "", default=None)


def mirrored(context: Context | None, before: list[Object]) -> list[tuple[str, str, str, str]]:
    """The Workload's conditions (type, status, reason, message). While pods run no Workload is read, and what was last
    seen holds; without a Job there is no quota."""
    job = context.live_train_job if context else None
    workload = workload_of(context, job) if context and job else None
    if workload:
        seen = [found for kind in MIRRORED if (found := condition(workload, kind))]
    else:
        seen = [found for found in before if found["type"] in MIRRORED]
        if not job:
            seen = [{**found, "status": "False", "reason": "Released", "message": ""} for found in seen]
    return [(c["type"], c["status"], c.get("reason") or "Unknown", c.get("message") or "") for c in seen]


def evictions(workloads: tuple[Object, ...]) -> dict[str, str]:
    """Job uid -> why Kueue took the resources back."""
    return {
        (one["metadata"].get("labels") or {}).get(constants.LABEL_WORKLOAD_JOB_UID, ""): _evicted(one)
        for one in workloads
        if _is_true(one, "Evicted")
    }


def condition(workload: Object, kind: str) -> Object:
    found: Object = next((c for c in (workload.get("status") or {}).get("conditions") or [] if c["type"] == kind), {})
    return found


def _not_taken_up(context: Context, job: Object, queue: str, phase: str) -> Verdict:
    if context.seconds_since(job["metadata"].get("creationTimestamp")) < TAKE_UP_SECONDS:
        message = f"Job {job['metadata']['name']} is in queue {queue!r}, Kueue has not taken it up yet"
        return Verdict(phase, "WaitingForQuota", message, requeue=SOONEST)
    message = (
        f"Kueue has not taken Job {job['metadata']['name']} up for queue {queue!r}: check that its controller runs and "
        "that its configuration has batch/job among the frameworks and manages this namespace"
    )
    return Verdict(phase, "QueueNotResponding", message, stuck=True, requeue=30)


def _waiting(context: Context, job: Object, workload: Object, queue: str, phase: str) -> Verdict:
    again, name = _again(context, job), workload["metadata"]["name"]
    if _is_true(workload, "Admitted"):
        return Verdict(
            STARTING, "Admitted", f"admitted from queue {queue!r}; the Job is being started", requeue=SOONEST
        )
    if (workload.get("spec") or {}).get("active") is False:
        why = condition(workload, "Evicted").get("message") or "its spec.active is false"
        patch = '{"spec":{"active":true}}'
        message = (
            f"Workload {name} has been deactivated ({why}): "
            f"`kubectl patch workload {name} --type=merge -p '{patch}'` puts it back into the queue"
        )
        return Verdict(phase, "WorkloadDeactivated", message, stuck=True, requeue=again)
    if _is_true(workload, "QuotaReserved"):
        message = f"quota in queue {queue!r} is reserved; waiting for admission checks: {_checks(workload)}"
        return Verdict(phase, "WaitingForAdmissionChecks", message, requeue=min(again, 30.0))
    return _without_quota(workload, queue, phase, again)


def _without_quota(workload: Object, queue: str, phase: str, again: float) -> Verdict:
    found = condition(workload, "QuotaReserved")
    reason, said = found.get("reason") or "", (found.get("message") or "").rstrip(".")
    if lacking := LACKING.search(said):
        kind, name = lacking[1], lacking[2]
        own, other = "create it, or apply the job anew with another queueName", "the cluster's administrators create it"
        message = f"{kind}Queue {name!r} does not exist: {own if kind == 'Local' else other}"
        return Verdict(phase, "QueueMissing", message, stuck=True, requeue=again)
    if "is inactive" in said or "stopped" in said.lower():
        message = f"queue {queue!r} is stopped ({said}): the Job starts when its administrators let it go on"
        return Verdict(phase, "QueueStopped", message, stuck=True, requeue=again)
    if "> maximum capacity" in said or reason == "ExceedsMaxQuota":
        message = f"the Job never fits into queue {queue!r}: {said}. Apply it anew with less, or with a larger queue"
        return Verdict(phase, "QueueTooSmall", message, stuck=True, requeue=again)
    if reason in ("Inadmissible", "Misconfigured", "NoMatchingFlavor"):
        message = f"queue {queue!r} cannot take the Job: {said}"
        return Verdict(phase, "QueueRefused", message, stuck=True, requeue=again)
    evicted = f"{_evicted(workload)}; " if _is_true(workload, "Evicted") else ""
    if due := ((workload.get("status") or {}).get("requeueState") or {}).get("requeueAt"):
        return Verdict(phase, "WaitingForRequeue", f"{evicted}Kueue tries again at {due}", requeue=again)
    if said.startswith("Preempted to"):  # not said twice
        said = ""
    message = f"{evicted}waiting for quota in queue {queue!r}" + (f": {said}" if said else "")
    return Verdict(phase, "WaitingForQuota", message, requeue=again)


def _again(context: Context, job: Object) -> float:
    ended = [attempt["endTime"] for attempt in context.attempts if attempt.get("endTime")]
    since = max([job["metadata"].get("creationTimestamp") or "", *ended])
    return min(LATEST, max(SOONEST, context.seconds_since(since) / 6))


def _checks(workload: Object) -> str:
    checks = [one for one in (workload.get("status") or {}).get("admissionChecks") or [] if one.get("state") != "Ready"]
    told = [f"{one['name']} is {one.get('state')}" + (f" ({m})" if (m := one.get("message")) else "") for one in checks]
    return "; ".join(told) or condition(workload, "Admitted").get("message") or "none is named"


def _evicted(workload: Object) -> str:
    """The sentence of a preemption without the ids that only machines compare."""
    found = condition(workload, "Evicted")
    said = (found.get("message") or "").partition("; preemptor path")[0]
    said = re.sub(r" \(UID: \S+, JobUID: \S+\)", "", said).rstrip(".")
    return said or "Kueue took the quota back"


def _is_true(workload: Object, kind: str) -> bool:
    return condition(workload, kind).get("status") == "True"

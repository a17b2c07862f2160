"""A train Job that is there and has not ended: queued, waiting for something, starting, or training."""

from . import endings
from .context import SETTLE_SECONDS, Context
from .queueing import queued
from .types import QUEUED, RETRYING, STARTING, TRAINING, Object, Step, Verdict
from .waiting import overdue, why_waiting

LOADING = ("loading", None)
STARTED = ("Running", "Succeeded", "Failed")  # pods end a moment before their Job says so; that is no new start


def follow(context: Context) -> Step:
    job = context.live_train_job
    if job is None:
        return Step()
    if lost := overdue(RETRYING, context.pods_of(job), context.now):
        return Step(verdict=lost)
    if "deletionTimestamp" in job["metadata"]:
        message = f"Job {job['metadata']['name']} is being deleted; training resumes in a new one"
        return Step(verdict=Verdict(RETRYING, "JobDeleted", message, requeue=5))
    if (job.get("spec") or {}).get("suspend"):
        return Step(verdict=queued(context, job))
    pods = tuple(pod for pod in endings.newest_by_index(context.pods_of(job)))
    if pods and all((pod.get("status") or {}).get("phase") in STARTED for pod in pods):
        return Step(verdict=_running(context, pods))
    waiting = None
    if context.settled(job):
        waiting = why_waiting(STARTING, (job,), pods, context.claims, context.observed.warnings)
    if waiting and waiting.reason == "Unschedulable":
        waiting = Verdict(QUEUED, waiting.reason, waiting.message, requeue=waiting.requeue)
    return Step(
        verdict=waiting or Verdict(STARTING, "PodStarting", "the train pod is being started", requeue=SETTLE_SECONDS)
    )


def _running(context: Context, pods: tuple[Object, ...]) -> Verdict:
    report = context.observed.progress or context.observed.status.get("progress") or {}
    attempt = context.attempts[-1]["id"] if context.attempts else 1
    if report.get("phase") in LOADING and not _steps_this_attempt(context):
        return Verdict(STARTING, "Loading", f"attempt {attempt} is loading model and data", requeue=30)
    return Verdict(TRAINING, "Training", f"attempt {attempt} is training")


def _steps_this_attempt(context: Context) -> bool:
    progress = context.observed.status.get("progress") or {}
    started = context.attempts[-1].get("startTime") if context.attempts else None
    return bool(progress.get("step") and started and (progress.get("updatedAt") or "") > started)

"""The download: done before a GPU is asked for, retried with backoff, and over for good when the data is bad."""

from finetune_api import constants

from ..builders import network_policy
from ..builders.config_map import download_config
from ..builders.download_job import download_job
from . import attempts, endings, times
from .context import SETTLE_SECONDS, Context, pod_ended
from .queueing import queued
from .retry import next_try
from .types import (
    DOWNLOADING,
    FAILED,
    FATAL,
    PENDING,
    RETRY,
    RETRYING,
    SUCCESS,
    Create,
    End,
    Object,
    Step,
    Verdict,
)
from .waiting import why_waiting


def download(context: Context) -> Step:
    jobs = context.download_jobs
    if not jobs:
        return _start(context, 1)
    newest = jobs[-1]
    if not endings.ended(newest):
        return Step(verdict=_follow(context, newest))
    ends = [
        (job, endings.classify(job, context.pods_of(job), constants.ROLE_DOWNLOAD))
        for job in jobs
        if endings.ended(job)
    ]
    last = ends[-1][1]
    if last.kind == SUCCESS:
        return Step()
    if last.kind == FATAL:
        return Step(verdict=Verdict(FAILED, last.reason, last.message))
    return _again(context, ends, last)


def _start(context: Context, number: int) -> Step:
    creates = [Create(download_config(context.request)), Create(download_job(context.request, number))]
    if network_policy.wanted(context.request):
        creates.insert(0, Create(network_policy.network_policy(context.request)))
    message = "model and data are being downloaded and checked"
    return Step(tuple(creates), Verdict(PENDING, "DownloadStarting", message, requeue=5))


def _follow(context: Context, job: Object) -> Verdict:
    if "deletionTimestamp" in job["metadata"]:
        return Verdict(PENDING, "DownloadDeleted", "the download Job is being deleted; a new one follows", requeue=5)
    if (job.get("spec") or {}).get("suspend"):  # a Kueue that manages every Job holds it like any other
        return queued(context, job, PENDING)
    pods = endings.newest_by_index(context.pods_of(job))
    if any((pod.get("status") or {}).get("phase") == "Running" or pod_ended(pod) for pod in pods):
        return Verdict(DOWNLOADING, "Downloading", "model and data are being downloaded and checked")
    waiting = None
    if context.settled(job):
        waiting = why_waiting(PENDING, (job,), tuple(pods), context.claims, context.observed.warnings)
    return waiting or Verdict(PENDING, "DownloadStarting", "the download pod is being started", requeue=SETTLE_SECONDS)


def _again(context: Context, ends: list[tuple[Object, End]], last: End) -> Step:
    history = [_as_attempt(job, end, context) for job, end in ends]
    settings = context.settings
    seconds = settings.retry_seconds, settings.retry_max_seconds
    coming = next_try(history, attempts.failures(history), context.max_attempts, *seconds)
    if coming.at is None:
        message = f"the download failed {coming.failures} times (maxAttempts); the last time: {last.message}"
        return Step(verdict=Verdict(FAILED, last.reason, message, used_up=context.max_attempts))
    wait = (coming.at - context.now).total_seconds()
    if wait > 0:
        counted = f" ({coming.failures} of {context.max_attempts} failed)" if last.kind == RETRY else ""
        message = f"the download is tried again at {times.render(coming.at)}{counted}: {last.message}"
        return Step(verdict=Verdict(RETRYING, last.reason, message, requeue=wait))
    return _start(context, attempts.try_number(ends[-1][0]) + 1)


def _as_attempt(job: Object, end: End, context: Context) -> Object:
    started = (job.get("status") or {}).get("startTime") or job["metadata"].get("creationTimestamp")
    return {
        "outcome": end.kind,
        "reason": end.reason,
        "startTime": started,
        "endTime": end.at or times.render(context.now),
    }

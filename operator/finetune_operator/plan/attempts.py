"""The history of attempts: an attempt is one run of the pods, and its entry in status is kept after the pods are gone.

The history in status is joined with what the live Jobs show, so a restart of the operator, a Job that someone deleted
and a Job whose pods Kueue started twice all lead to the same entries. An entry's id counts attempts; its job says in
which try's Job it ran.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune_api import constants
from finetune_api.status import MAX_ATTEMPTS_KEPT

from . import endings, smaller_batch, times
from .types import FATAL, RESUME, RETRY, End, Object

MESSAGE_LENGTH = 1024


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the end of an attempt is judged by, beside its Job and pods."""

    now: str
    suspended: bool = False  # by the user
    shrinks: bool = False  # out of memory, the next attempt takes a smaller batch
    progress: Mapping[str, Any] = field(default_factory=dict)  # what status says of the running attempt
    evictions: Mapping[str, str] = field(default_factory=dict)  # Job uid -> why its queue took the resources back


def try_number(job: Object) -> int:
    return int((job["metadata"].get("labels") or {}).get(constants.LABEL_TRY, 0))


def with_live_jobs(
    recorded: list[Object], jobs: tuple[Object, ...], pods: tuple[Object, ...], given: Circumstances
) -> list[Object]:
    """The recorded attempts, continued by what the train Jobs and their pods show now."""
    attempts = [dict(attempt) for attempt in recorded]
    for job in sorted(jobs, key=try_number):
        _continue_with(attempts, job, tuple(pod for pod in pods if owned_by(pod, job)), given)
    alive = {job["metadata"]["name"] for job in jobs}
    for attempt in attempts:
        if not attempt.get("endTime") and attempt["job"] not in alive:
            _close(attempt, _vanished(given.suspended), given)
    return attempts


def _continue_with(attempts: list[Object], job: Object, pods: tuple[Object, ...], given: Circumstances) -> None:
    name = job["metadata"]["name"]
    own = [attempt for attempt in attempts if attempt["job"] == name]
    current = own[-1] if own else None
    next_id = (attempts[-1].get("id") or len(attempts)) + 1 if attempts else 1
    leader = next(iter(endings.newest_by_index(pods)), None)
    started = leader["metadata"].get("creationTimestamp") if leader else None
    if current is None:
        current = {"id": next_id, "job": name}
        attempts.append(current)
    elif _another_run(current, started):
        if not current.get("endTime"):
            _note_last_words(current, pods)
            _close(current, End(RESUME, "Preempted", "the pods were stopped and started again", None, started), given)
        current = {"id": next_id, "job": name}
        attempts.append(current)
    if leader and not current.get("endTime"):
        current |= {"startTime": started, "pod": leader["metadata"]["name"]}
        if node := (leader.get("spec") or {}).get("nodeName"):
            current["node"] = node
    if current.get("endTime"):
        return
    if endings.ended(job):
        _close(current, endings.classify(job, pods, constants.ROLE_TRAIN), given)
    elif not leader and current.get("startTime") and (job.get("spec") or {}).get("suspend"):
        current.pop("message", None)  # the pod's last words were that it was told to stop; this is why
        evicted = given.evictions.get(job["metadata"].get("uid") or "")
        _close(current, End(RESUME, "Preempted", evicted or "the queue took the resources back"), given)
    elif leader and ("deletionTimestamp" in leader["metadata"] or endings.disrupted(leader)):
        _note_last_words(current, (leader,))


def _another_run(attempt: Object, started: str | None) -> bool:
    return bool(started and attempt.get("startTime") and started > attempt["startTime"])


def _note_last_words(attempt: Object, pods: tuple[Object, ...]) -> None:
    """A pod that is being deleted will leave nothing: keep its words while it is there, for when it has gone."""
    for pod in pods:
        if pod["metadata"]["name"] != attempt.get("pod"):
            continue
        if end := endings.classify_pod(pod, constants.ROLE_TRAIN):
            attempt |= {"reason": end.reason, "message": end.message[:MESSAGE_LENGTH], **_numbers(end)}


def told(attempt: Object, report: Object) -> Object:
    """The running attempt with what its pod says of how it began."""
    effective = report.get("effective") or {}
    values = {
        "resumedFromStep": report.get("resumedFromStep"),
        "perDeviceBatch": effective.get("perDeviceBatch"),
    }
    return {**attempt, **{key: value for key, value in values.items() if value is not None}}


def _numbers(end: End) -> Object:
    given = {"exitCode": end.exit_code, "lastStep": end.report.get("step")}
    return told({key: value for key, value in given.items() if value is not None}, end.report)


def _vanished(suspended: bool) -> End:
    if suspended:
        return End(RESUME, "Suspended", "stopped because spec.suspend is true")
    return End(RESUME, "JobDeleted", "its Job was deleted while it ran")


def _close(attempt: Object, end: End, given: Circumstances) -> None:
    attempt |= _numbers(end)
    attempt["reason"] = attempt.get("reason", end.reason) if end.reason == "PodLost" else end.reason
    attempt["message"] = attempt.get("message") or end.message[:MESSAGE_LENGTH]
    attempt["endTime"] = end.at or given.now
    if start := attempt.get("startTime"):
        if "lastStep" not in attempt and (given.progress.get("updatedAt") or "") > start and "step" in given.progress:
            attempt["lastStep"] = given.progress["step"]
        attempt["durationSeconds"] = max(0, int(times.age(start, times.parse(attempt["endTime"]))))
    attempt["outcome"] = end.kind
    if end.kind == FATAL and given.shrinks and smaller_batch.helps(attempt):
        attempt["outcome"] = RESUME
    elif end.reason == constants.REASON_NO_PROGRESS and not _moved_on(attempt, end.report):
        attempt["outcome"] = RETRY


def _moved_on(attempt: Object, report: Object) -> bool:
    """Whether it left a checkpoint beyond the one it began with, so that the next attempt has less to do."""
    newest = max((one.get("step") or 0 for one in report.get("checkpoints") or []), default=0)
    return newest > (attempt.get("resumedFromStep") or 0)


def failures(attempts: list[Object]) -> int:
    """How many count against maxAttempts."""
    return sum(attempt.get("outcome") == RETRY for attempt in attempts)


def capped(attempts: list[Object]) -> list[Object]:
    """The newest, at most as many as status may hold. Interruptions go first, then failures (status.failures has
    counted them); what is known of the device's memory stays."""
    surplus = len(attempts) - MAX_ATTEMPTS_KEPT
    if surplus <= 0:
        return attempts
    kept = {len(attempts) - 1} | {n for n, attempt in enumerate(attempts) if smaller_batch.helps(attempt)}
    expendable = [n for n in range(len(attempts)) if n not in kept]
    expendable.sort(key=lambda n: attempts[n].get("outcome") == RETRY)
    gone = set(expendable[:surplus])
    return [attempt for n, attempt in enumerate(attempts) if n not in gone][-MAX_ATTEMPTS_KEPT:]


def owned_by(child: Object, owner: Object) -> bool:
    uid = owner["metadata"].get("uid")
    return any(reference.get("uid") == uid for reference in child["metadata"].get("ownerReferences") or [])

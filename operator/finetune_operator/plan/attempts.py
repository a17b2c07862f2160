"""The history of attempts: an attempt is one run of the pods, and its entry in status is kept after the pods are gone.

The history in status is joined with what the live Jobs show, so a restart of the operator, a Job that someone deleted
and a Job whose pods Kueue started twice all lead to the same entries. An entry's id counts attempts; its job says in
which try's Job it ran.
"""

from finetune_api import constants

from . import endings
from .types import RESUME, RETRY, End, Object

MAX_ATTEMPTS_KEPT = 20


def try_number(job: Object) -> int:
    return int((job["metadata"].get("labels") or {}).get(constants.LABEL_TRY, 0))


def with_live_jobs(
    recorded: list[Object],
    jobs: tuple[Object, ...],
    pods: tuple[Object, ...],
    suspended: bool,
    now: str,
    evictions: dict[str, str] | None = None,
) -> list[Object]:
    """The recorded attempts, continued by what the train Jobs and their pods show now. `suspended`: by the user;
    `evictions`: Job uid -> why its queue took the resources back."""
    attempts = [dict(attempt) for attempt in recorded]
    for job in sorted(jobs, key=try_number):
        own = tuple(pod for pod in pods if owned_by(pod, job))
        _continue_with(attempts, job, own, now, (evictions or {}).get(job["metadata"].get("uid") or ""))
    alive = {job["metadata"]["name"] for job in jobs}
    for attempt in attempts:
        if not attempt.get("endTime") and attempt["job"] not in alive:
            _close(attempt, _vanished(suspended), now)
    return _capped(attempts)


def _continue_with(
    attempts: list[Object], job: Object, pods: tuple[Object, ...], now: str, evicted: str | None
) -> None:
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
            _close(current, End(RESUME, "Preempted", "the pods were stopped and started again", None, started), now)
        current = {"id": next_id, "job": name}
        attempts.append(current)
    if leader and not current.get("endTime"):
        current |= {"startTime": started, "pod": leader["metadata"]["name"]}
        if node := (leader.get("spec") or {}).get("nodeName"):
            current["node"] = node
    if current.get("endTime"):
        return
    if endings.ended(job):
        _close(current, endings.classify(job, pods, constants.ROLE_TRAIN), now)
    elif not leader and current.get("startTime") and (job.get("spec") or {}).get("suspend"):
        current.pop("message", None)  # the pod's last words were that it was told to stop; this is why
        _close(current, End(RESUME, "Preempted", evicted or "the queue took the resources back"), now)
    elif leader and "deletionTimestamp" in leader["metadata"]:
        _note_last_words(current, leader)


def _another_run(attempt: Object, started: str | None) -> bool:
    return bool(started and attempt.get("startTime") and started > attempt["startTime"])


def _note_last_words(attempt: Object, pod: Object) -> None:
    """A pod that is being deleted will leave nothing: keep its words while it is there, for when its Job has gone."""
    if end := endings.classify_pod(pod, constants.ROLE_TRAIN):
        attempt |= {"reason": end.reason, "message": end.message}
        if end.exit_code is not None:
            attempt["exitCode"] = end.exit_code


def _vanished(suspended: bool) -> End:
    if suspended:
        return End(RESUME, "Suspended", "stopped because spec.suspend is true")
    return End(RESUME, "JobDeleted", "its Job was deleted while it ran")


def _close(attempt: Object, end: End, now: str) -> None:
    attempt["outcome"] = end.kind
    attempt["reason"] = attempt.get("reason", end.reason) if end.reason == "PodLost" else end.reason
    attempt["message"] = attempt.get("message") or end.message[:1024]
    attempt["endTime"] = end.at or now
    if end.exit_code is not None:
        attempt["exitCode"] = end.exit_code
    if (resumed := end.report.get("resumedFromStep")) is not None:
        attempt["resumedFromStep"] = resumed
    if (step := end.report.get("step")) is not None:
        attempt["lastStep"] = step


def _capped(attempts: list[Object]) -> list[Object]:
    """At most 20, and failures go last: they are what maxAttempts counts."""
    surplus = len(attempts) - MAX_ATTEMPTS_KEPT
    kept = []
    for attempt in attempts[:-1]:
        if surplus > 0 and attempt.get("outcome") != RETRY:
            surplus -= 1
        else:
            kept.append(attempt)
    return [*kept, *attempts[-1:]]


def owned_by(child: Object, owner: Object) -> bool:
    uid = owner["metadata"].get("uid")
    return any(reference.get("uid") == uid for reference in child["metadata"].get("ownerReferences") or [])

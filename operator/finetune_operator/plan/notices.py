"""Events: one for each transition that a person would tell the story with, and none for what merely goes on."""

from .conditions import is_true
from .types import FAILED, RESUME, RETRYING, Notice, Object, Verdict

# Steps that follow each other within seconds and need no line of their own.
QUIET = frozenset({"DownloadStarting", "TryStarting", "PodStarting", "PodsStopping", "Suspending"})


def notices(before: Object, after: Object, verdict: Verdict) -> tuple[Notice, ...]:
    """Compared by phase and reason: a message that counts or names a time must not repeat the Event."""
    found = _interruptions(before, after)
    if verdict.reason not in QUIET and _summary(before) != _summary(after):
        warning = verdict.stuck or verdict.phase in (FAILED, RETRYING)
        found.append(Notice("Warning" if warning else "Normal", verdict.reason, verdict.message[:1024]))
    for kind in ("PartiallyAdmitted", "MLflowUnavailable", "SettingsAdjusted"):
        if is_true(after, kind) and not is_true(before, kind):
            message = next(c["message"] for c in after["conditions"] if c["type"] == kind)
            found.append(Notice("Warning" if kind == "MLflowUnavailable" else "Normal", kind, message[:1024]))
    return tuple(found)


def _interruptions(before: Object, after: Object) -> list[Notice]:
    """Attempts that ended and are followed by the next at once: no phase tells of them."""
    known = {attempt.get("id") for attempt in before.get("attempts") or [] if attempt.get("endTime")}
    return [
        Notice("Normal", attempt["reason"], f"attempt {attempt['id']} has ended: {attempt.get('message') or ''}"[:1024])
        for attempt in after.get("attempts") or []
        if attempt.get("outcome") == RESUME and attempt["id"] not in known and attempt["reason"] != "Suspended"
    ]


def _summary(status: Object) -> tuple[str | None, str | None, int | None]:
    ready: Object = next((c for c in status.get("conditions") or [] if c.get("type") == "Ready"), {})
    return status.get("phase"), ready.get("reason"), status.get("attempt") or 0

"""Conditions as kstatus, Argo CD and `kubectl wait` read them, written so that nothing changes without a reason.

Ready, Reconciling and Stalled are the summary; Complete, Failed and Suspended are what people and programs wait for;
the rest appear only where there is something to read. lastTransitionTime moves only when status changes.
"""

from collections.abc import Sequence

from .types import FAILED, SUCCEEDED, SUSPENDED, Object, Verdict

# Shown only where they apply; when they no longer do they stay, as False, so that the change can be seen.
OPTIONAL = ("QueueUnavailable", "PartiallyAdmitted", "MLflowUnavailable", "SettingsAdjusted")


def conditions(
    verdict: Verdict,
    alerts: dict[str, tuple[str, str]],
    previous: list[Object],
    generation: int,
    now: str,
    mirrored: Sequence[tuple[str, str, str, str]] = (),
) -> list[Object]:
    """The whole list. `alerts`: type -> (reason, message) of the optional conditions that hold now. `mirrored`: another
    controller's, as they are."""
    wanted = _summary(verdict)
    known = {condition["type"]: condition for condition in previous}
    for kind in OPTIONAL:
        if kind in alerts:
            wanted.append((kind, "True", *alerts[kind]))
        elif kind in known:
            wanted.append((kind, "False", "Resolved", ""))
    wanted += mirrored
    return [_condition(one, known.get(one[0]), generation, now) for one in wanted]


def _summary(verdict: Verdict) -> list[tuple[str, str, str, str]]:
    done, failed = verdict.phase == SUCCEEDED, verdict.phase == FAILED
    suspended = verdict.phase == SUSPENDED
    reason, message = verdict.reason, verdict.message
    resting = done or failed or suspended
    stalled = failed or verdict.stuck
    return [
        ("Ready", _truth(done), reason, message),
        ("Reconciling", _truth(not resting), *((reason, message) if not resting else ("Idle", ""))),
        ("Stalled", _truth(stalled), *((reason, message) if stalled else ("Proceeding", ""))),
        ("Complete", _truth(done), *((reason, message) if done else ("NotYet", ""))),
        ("Failed", _truth(failed), *((reason, message) if failed else ("NotFailed", ""))),
        ("Suspended", _truth(suspended), *((reason, message) if suspended else ("NotSuspended", ""))),
    ]


def _truth(value: bool) -> str:
    return "True" if value else "False"


def _condition(wanted: tuple[str, str, str, str], before: Object | None, generation: int, now: str) -> Object:
    kind, status, reason, message = wanted
    changed = before is None or before.get("status") != status
    since = now if changed or before is None else before.get("lastTransitionTime", now)
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message[:4096],
        "lastTransitionTime": since,
        "observedGeneration": generation,
    }


def is_true(status: Object, kind: str) -> bool:
    """Whether a status has this condition as True."""
    return any(c.get("type") == kind and c.get("status") == "True" for c in status.get("conditions") or [])

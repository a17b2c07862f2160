"""What status says of a running or ended training: joined from /progress, last words, and what was there.

A later report replaces an earlier field by field: a pod that starts anew and has no loss yet does not wipe the last
known one. Numbers are rounded here, since people read them and since digits that mean nothing must not cause a write.
"""

from collections.abc import Iterable
from datetime import datetime

from finetune_api.status import MAX_NOTICES_KEPT

from . import times
from .types import Object

ROUNDED = {
    "loss": 5,
    "firstLoss": 5,
    "evalLoss": 5,
    "epoch": 3,
    "percent": 1,
    "tokensPerSecond": 1,
}
PROGRESS_KEYS = (
    "phase",
    "step",
    "totalSteps",
    "epoch",
    "percent",
    "loss",
    "firstLoss",
    "evalLoss",
    "learningRate",
    "tokensPerSecond",
    "etaSeconds",
    "updatedAt",
)
SECTIONS = ("dataset", "effective", "mlflow", "model")
CHECKPOINTS_KEPT = 20
NOTICE_LENGTH = 1024


def is_due(status: Object, report: Object, now: datetime, interval: float) -> bool:
    """Whether a report is worth a write: `interval` seconds after the last, or at once when the phase or the first
    step is news."""
    before = status.get("progress") or {}
    if not before.get("updatedAt") or before.get("phase") != report.get("phase"):
        return True
    if not before.get("step") and report.get("step"):
        return True
    return times.age(before["updatedAt"], now) >= interval and _differs(before, report)


def _differs(before: Object, report: Object) -> bool:
    return any(before.get(key) != report.get(key) for key in ("step", "epoch", "evalLoss", "etaSeconds"))


def merged(status: Object, report: Object, now: str, final: bool = False) -> Object:
    """The fields of status that a report of a pod (progress or termination) sets; absent fields keep their values."""
    fields: Object = {}
    progress = {
        **(status.get("progress") or {}),
        **{key: report[key] for key in PROGRESS_KEYS if report.get(key) is not None},
    }
    if any(report.get(key) is not None for key in ("step", "phase", "loss")):
        progress["updatedAt"] = now
        fields["progress"] = _derived(_rounded(progress), final)
    for section in SECTIONS:
        if report.get(section):
            fields[section] = {**(status.get(section) or {}), **_known(report[section])}
    if report.get("checkpoints"):
        fields["checkpoints"] = report["checkpoints"][-CHECKPOINTS_KEPT:]
    if report.get("notices"):
        fields["notices"] = notices_of(status.get("notices") or (), report["notices"])
    return fields


def notices_of(*parts: Iterable[str]) -> list[str]:
    """What was said, each once and in order: by the operator about the manifest, by the pods about data and model."""
    said = dict.fromkeys(notice[:NOTICE_LENGTH] for part in parts for notice in part)
    return list(said)[:MAX_NOTICES_KEPT]


def _known(section: Object) -> Object:
    return {key: value for key, value in section.items() if value is not None}


def _rounded(progress: Object) -> Object:
    return {
        key: round(value, ROUNDED[key]) if key in ROUNDED and isinstance(value, (int, float)) else value
        for key, value in progress.items()
    }


def _derived(progress: Object, final: bool) -> Object:
    """The same as text, since a printer column shows one path."""
    step, total = progress.get("step"), progress.get("totalSteps")
    if step is not None and total:
        progress["steps"] = f"{step}/{total}"
        progress.setdefault("percent", round(100 * step / total, 1))
    if final:
        progress.pop("etaSeconds", None)
        progress.pop("eta", None)
        progress["phase"] = "done" if step is not None and step == total else "stopped"
        if step is not None and step == total:
            progress["percent"] = 100.0
    elif progress.get("etaSeconds") is not None:
        progress["etaSeconds"] = round(progress["etaSeconds"])
        progress["eta"] = duration(progress["etaSeconds"])
    return progress


def duration(seconds: float) -> str:
    """45s, 12m30s, 3h05m, 2d04h: two units, as kubectl shows ages."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"

"""What overrides.auto found, kept on the job's volume and in its checkpoints: later attempts train as the first did."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

FILE = "found.json"


@dataclass(frozen=True)
class Found:
    """learning_rate: before multiplier and scaling by the batch. precision: only fp32, after fp16 overflowed."""

    precision: str | None = None
    per_device_batch: int | None = None
    learning_rate: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Without what was not looked for."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def or_from(self, checkpoint: dict[str, Any]) -> "Found":
        """With what a checkpoint brings, on a volume that has no record: an own finding wins. The precision is the
        device's matter, and was chosen before the checkpoint was looked at."""
        known = {name: checkpoint[name] for name in ("per_device_batch", "learning_rate") if name in checkpoint}
        return replace(self, **{name: value for name, value in known.items() if getattr(self, name) is None})


def load_found(records: Path, job_uid: str) -> Found:
    """What an earlier attempt of this job found."""
    try:
        known = json.loads((records / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Found()
    if not isinstance(known, dict) or known.pop("jobUid", None) != job_uid:
        return Found()
    return Found(**{name: value for name, value in known.items() if name in Found.__dataclass_fields__})


def save_found(records: Path, job_uid: str, found: Found) -> None:
    """Writes it, whole or not at all."""
    records.mkdir(parents=True, exist_ok=True)
    aside = records / f".{FILE}"
    aside.write_text(json.dumps({"jobUid": job_uid, **found.to_dict()}) + "\n", encoding="utf-8")
    aside.replace(records / FILE)

"""The status of a local run: the same document as in the cluster, made by the operator's own functions, on disk.

`<work-dir>/status.json` is a FineTuneJob's status; a program that reads one reads the other. It is replaced in one
rename, so that a reader never sees half of it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

GENERATION = 1
Status = dict[str, Any]


def now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class LocalStatus:
    """The status document and its file; each change is written at once."""

    path: Path
    status: Status

    @classmethod
    def load(cls, path: Path) -> LocalStatus:
        """The status that an earlier run left, or an empty one."""
        try:
            return cls(path, json.loads(path.read_text()))
        except (FileNotFoundError, ValueError):
            return cls(path, {})

    @property
    def phase(self) -> str | None:
        """The phase of the run before this one, if there was one."""
        phase: str | None = self.status.get("phase")
        return phase

    @property
    def attempts(self) -> int:
        """How many attempts have been made."""
        return int(self.status.get("attempt") or 0)

    def begin(self, notices: list[str], gpus: int) -> int:
        """Start the next attempt; its number, from 1."""
        number = self.attempts + 1
        history = [*(self.status.get("attempts") or []), {"id": number, "job": "local", "startTime": now()}]
        self.status |= {"observedGeneration": GENERATION, "attempt": number, "attempts": history[-20:], "gpus": gpus}
        self.status.setdefault("startTime", now())
        self.status.pop("completionTime", None)
        self.status["notices"] = notices
        return number

    def stage(self, phase: str, reason: str, message: str) -> None:
        """What goes on now: Downloading, then Training."""
        self._decide(phase, reason, message)

    def report(self, report: Status, final: bool = False) -> None:
        """Take over what /progress or a termination message says."""
        from finetune_operator.plan import progress

        self.status |= progress.merged(self.status, report, now(), final)
        if report.get("resumedFromStep") is not None:
            self.status["attempts"][-1]["resumedFromStep"] = report["resumedFromStep"]
        self._write()

    def end(self, code: int, reason: str, message: str, report: Status) -> None:
        """Close the attempt with its exit code, and the job unless it can be resumed."""
        from finetune_api.constants import ExitCode

        self.report(report, final=code == ExitCode.OK)
        attempt = self.status["attempts"][-1]
        attempt |= {"exitCode": code, "reason": reason, "message": message[:4096], "endTime": now()}
        if report.get("step") is not None:
            attempt["lastStep"] = report["step"]
        if code == ExitCode.OK:
            self.status["completionTime"] = now()
            self._decide("Succeeded", reason, message)
        elif code == ExitCode.INTERRUPTED:
            self._decide("Suspended", reason, message)
        else:
            self.status["completionTime"] = now()
            self._decide("Failed", reason, message)

    def _decide(self, phase: str, reason: str, message: str) -> None:
        from finetune_operator.plan.conditions import conditions
        from finetune_operator.plan.types import Verdict

        verdict = Verdict(phase, reason, message)
        self.status["phase"] = phase
        alerts = _alerts(self.status)
        self.status["conditions"] = conditions(verdict, alerts, self.status.get("conditions") or [], GENERATION, now())
        self._write()

    def _write(self) -> None:
        aside = self.path.with_suffix(".tmp")
        aside.write_text(json.dumps(self.status, indent=2) + "\n")
        os.replace(aside, self.path)


def _alerts(status: Status) -> dict[str, tuple[str, str]]:
    mlflow = status.get("mlflow") or {}
    if mlflow.get("reachable") is False:
        return {"MLflowUnavailable": ("Unreachable", mlflow.get("message") or "the MLflow server does not answer")}
    return {}

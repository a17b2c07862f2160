"""Where a run stands, for all who ask: /progress, the log, the watchdog, the last report. One object, any thread."""

import datetime
import threading
import time
from typing import Any

from finetune_api.report import ProgressReport, TerminationReport


class Progress:
    """The current ProgressReport, and when training last moved."""

    def __init__(self, attempt: int) -> None:
        self._lock = threading.RLock()  # a signal handler may report while the main thread does
        self._fields: dict[str, Any] = {"phase": "loading", "attempt": attempt}
        self._notices: list[str] = []
        self._beat = time.monotonic()
        self.extras: dict[str, Any] = {}  # dataset, model: only in the last report

    def update(self, **fields: Any) -> None:
        """Sets fields of the report; counts as a sign of life."""
        with self._lock:
            self._fields.update(fields)
            self._beat = time.monotonic()

    def beat(self) -> None:
        """A sign of life."""
        self._beat = time.monotonic()

    def silence(self) -> float:
        """Seconds since the last sign of life."""
        return time.monotonic() - self._beat

    def notice(self, text: str) -> None:
        """What the user should know; said once."""
        with self._lock:
            if text in self._notices:
                return
            self._notices.append(text)
        print(f"note: {text}", flush=True)

    @property
    def phase(self) -> str:
        return str(self._fields["phase"])

    @property
    def steps_begun(self) -> bool:
        """Whether steps are being made: from the first on, whose end alone changes the phase."""
        return self.phase in ("training", "evaluating") or (self.phase == "loading" and "total_steps" in self._fields)

    def report(self) -> ProgressReport:
        """The document of GET /progress."""
        with self._lock:
            return ProgressReport(**self._fields, updated_at=_now())

    def last_word(self, reason: str, message: str, exit_code: int) -> TerminationReport:
        """The termination report, from what is known now."""
        with self._lock:
            known = {name: value for name, value in self._fields.items() if name in TerminationReport.model_fields}
            return TerminationReport(
                **known,
                **self.extras,
                reason=reason,
                message=message,
                exit_code=exit_code,
                notices=self._notices or None,
            )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

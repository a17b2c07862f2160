"""How many jobs are in which phase, counted from what the watch brings: no request and no object is kept for it."""

import sys
from collections import Counter

from .metrics import Metrics
from .plan.conditions import is_true
from .plan.types import FAILED, SUCCEEDED, Object

Key = tuple[str, str]
UNSEEN = "New"  # no reconcile has written a phase yet
ENDS = (SUCCEEDED, FAILED)


class Census:
    """note() each version of a FineTuneJob, and None once it is deleted."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._phases: dict[Key, str] = {}
        self._stalled: set[Key] = set()
        for phase in ENDS:
            metrics.count("jobs_ended_total", by=0, phase=phase)
        metrics.gauge("jobs", self.by_phase, "phase")
        metrics.gauge("jobs_stalled", lambda: float(len(self._stalled)))

    def note(self, key: Key, job: Object | None) -> None:
        if job is None:
            self._phases.pop(key, None)
            self._stalled.discard(key)
            return
        status = job.get("status") or {}
        phase = sys.intern(str(status.get("phase") or UNSEEN))
        before = self._phases.get(key)
        self._phases[key] = phase
        # What had ended when this process first saw it was counted by another.
        if before not in (None, phase) and phase in ENDS:
            self._metrics.count("jobs_ended_total", phase=phase)
        if phase != FAILED and is_true(status, "Stalled"):
            self._stalled.add(key)
        else:
            self._stalled.discard(key)

    def by_phase(self) -> dict[str, float]:
        """Phases without a job are 0 once there was one: a series that vanishes cannot be drawn."""
        seen = Counter(self._phases.values())
        return {phase: float(seen[phase]) for phase in (UNSEEN, SUCCEEDED, FAILED, *seen)}

"""When the next try may start, and whether there is one: exponential backoff for failures, none for interruptions.

Interruptions (preemption, deleted pods) are never counted, and the next try starts at once; but several in a row that
lasted only moments would create Jobs in a tight loop, so those wait as failures do.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from . import times
from .types import RETRY, Object

SHORT_SECONDS = 60
SHORT_IN_A_ROW = 3


@dataclass(frozen=True, slots=True)
class Next:
    """Start at `at`; or never (`at` is None) because the tries are used up."""

    at: datetime | None
    failures: int


def next_try(attempts: list[Object], failures: int, max_attempts: int, base: float, cap: float) -> Next:
    """After the last of `attempts` has ended. `failures`: those of the whole history, also of what it has dropped."""
    last = attempts[-1]
    ended_at = times.parse(last["endTime"])
    if last.get("outcome") == RETRY:
        if failures >= max_attempts:
            return Next(None, failures)
        return Next(ended_at + timedelta(seconds=backoff(failures - 1, base, cap)), failures)
    row = _short_interruptions(attempts)
    if row >= SHORT_IN_A_ROW:
        return Next(ended_at + timedelta(seconds=backoff(row - SHORT_IN_A_ROW, base, cap)), failures)
    return Next(ended_at, failures)


def backoff(exponent: int, base: float, cap: float) -> float:
    """base, 2 base, 4 base, … seconds, at most `cap`."""
    return float(min(base * 2 ** min(exponent, 32), cap))


def _short_interruptions(attempts: list[Object]) -> int:
    """How many of the last attempts in a row were interrupted within moments of their start."""
    row = 0
    for attempt in reversed(attempts):
        if attempt.get("outcome") == RETRY or attempt.get("reason") == "Suspended":
            break
        start, end = attempt.get("startTime"), attempt["endTime"]
        if start and times.age(start, times.parse(end)) >= SHORT_SECONDS:
            break
        row += 1
    return row

"""A child that could not be created: someone else's object has its name, or the API server refused it."""

from .context import Context
from .types import PENDING, Step, Verdict

# These pass by themselves.
PASSING = frozenset({"Recreating", "ObjectTerminating", "NamespaceTerminating", "QuotaExceeded"})


def report_blocked(context: Context) -> Step:
    for blocked in context.observed.blocked:
        message = f"{blocked.kind} {blocked.name} cannot be created: {blocked.message}"
        stuck = blocked.reason not in PASSING
        return Step(verdict=Verdict(PENDING, blocked.reason, message, stuck=stuck, requeue=10))
    return Step()

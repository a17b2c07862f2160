"""Whether the training is over: the newest attempt succeeded, failed for good, or was the last that may fail."""

from .context import Context
from .retry import next_try
from .types import FAILED, FATAL, RETRY, SUCCEEDED, SUCCESS, Step, Verdict


def settle(context: Context) -> Step:
    last = context.attempts[-1] if context.attempts else None
    if last is None or not last.get("endTime"):
        return Step()
    outcome, reason, message = last.get("outcome"), last.get("reason") or "Error", last.get("message") or ""
    if outcome == SUCCESS:
        claim = context.request.checkpoints_name
        said = f"; {message}" if message else ""  # among it, whether training stopped early, and which step this is
        return Step(verdict=Verdict(SUCCEEDED, "Completed", f"the model is on PersistentVolumeClaim {claim}{said}"))
    if outcome == FATAL:
        return Step(verdict=Verdict(FAILED, reason, message))
    settings = context.settings
    coming = next_try(context.attempts, context.max_attempts, settings.retry_seconds, settings.retry_max_seconds)
    if outcome == RETRY and coming.at is None:
        tries = f"{coming.failures} of {context.max_attempts} attempts failed (maxAttempts); the last one: {message}"
        return Step(verdict=Verdict(FAILED, reason, tries))
    return Step()

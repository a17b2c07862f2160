"""Whether the training is over: the newest attempt succeeded, failed for good, or was the last that may fail.

What ended only for want of leave goes on when the manifest gives it: a higher maxAttempts, or a smaller batch.
"""

from typing import Any

from . import smaller_batch
from .context import Context
from .types import FAILED, FATAL, RETRY, SUCCEEDED, SUCCESS, Object, Step, Verdict


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
        if not smaller_batch.helps(last):
            return Step(verdict=Verdict(FAILED, reason, message))
        if not context.request.spec.retry_with_smaller_batch:
            message += (
                ". Or set retryWithSmallerBatch: true: the job then goes on from its newest checkpoint with a batch of "
                f"{last['perDeviceBatch'] // 2} per device and the same total batch"
            )
            return Step(verdict=Verdict(FAILED, reason, message))
    if outcome == RETRY and context.coming.at is None:
        tries = (
            f"{context.failures} of {context.max_attempts} attempts failed; with a higher maxAttempts it goes on from "
            f"the newest checkpoint. The last one: {message}"
        )
        return Step(verdict=Verdict(FAILED, reason, tries, used_up=context.max_attempts))
    return Step()


def goes_on(spec: dict[str, Any], status: Object) -> bool:
    """Whether a job that has failed may try again, since the manifest now allows what it lacked. Only what is written
    there counts: a higher default of a newer operator starts nothing."""
    reached = status.get("maxAttemptsReached")
    if reached is not None:
        return int(spec.get("maxAttempts") or 0) > int(reached)
    last = (status.get("attempts") or [{}])[-1]
    return last.get("outcome") == FATAL and smaller_batch.helps(last) and smaller_batch.allowed(spec)

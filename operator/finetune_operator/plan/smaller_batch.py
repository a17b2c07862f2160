"""Out of GPU memory: the next attempt takes half the batch per device, and accumulation keeps the total batch.

It is the job's choice (retryWithSmallerBatch), ends by itself at a batch of 1, and costs no attempt. What a training
has learnt about the device's memory stands in its history; a later attempt never goes back to a larger batch.
"""

from dataclasses import replace
from typing import Any

from finetune_api.constants import ExitCode

from ..builders.request import Request
from .types import Object

REASON = "OutOfMemory"


def helps(attempt: Object) -> bool:
    """Whether an attempt ran out of memory with a batch that can be halved. Other reasons with this exit code say that
    there was no room for the model itself."""
    if attempt.get("exitCode") != ExitCode.OUT_OF_MEMORY or attempt.get("reason") != REASON:
        return False
    return (attempt.get("perDeviceBatch") or 0) > 1


def allowed(spec: dict[str, Any]) -> bool:
    """By the manifest as it was written, for jobs that have ended; resolve() fills the same default."""
    auto = (spec.get("overrides") or {}).get("auto") or ()
    given = spec.get("retryWithSmallerBatch")
    return "per_device_batch" in auto if given is None else bool(given)


def shrunk(request: Request, attempts: list[Object]) -> Request:
    """The request as the next attempt shall have it."""
    tried = [attempt["perDeviceBatch"] for attempt in attempts if helps(attempt)]
    if not tried:
        return request
    sizes, smallest = request.spec.batchsize_conf, min(tried)
    largest = min(sizes.max_per_device_train_batch_size, smallest // 2)
    evaluation = sizes.per_device_eval_batch_size
    changed = sizes.model_copy(
        update={
            "max_per_device_train_batch_size": largest,
            "per_device_eval_batch_size": evaluation and max(1, evaluation >> len(tried)),
        }
    )
    spec = request.spec.model_copy(update={"batchsize_conf": changed})
    resolved = replace(request.resolved, spec=spec)
    plan = resolved.batch()
    notice = (
        f"the GPU's memory did not suffice for a batch of {smallest} per device: attempts now take {plan.per_device} "
        f"and accumulate {plan.accumulation} steps, so that the total batch stays {resolved.total_batch}"
    )
    return replace(request, resolved=resolved, notices=(*request.notices, notice))

"""Jobs of an earlier training that are still going are stopped before anything of the new one starts.

CEL refuses a changed training spec while an attempt lives; this is for what CEL cannot see, such as an object that was
replaced through an older version of the CRD.
"""

from . import endings
from .context import Context, training_of
from .types import PENDING, Delete, Step, Verdict


def stop_stale(context: Context) -> Step:
    stale = [
        job for job in context.observed.jobs if training_of(job) != context.request.training and not endings.ended(job)
    ]
    if not stale:
        return Step()
    deletes = tuple(
        Delete("Job", job["metadata"]["name"], job["metadata"]["uid"])
        for job in stale
        if "deletionTimestamp" not in job["metadata"]
    )
    message = "the spec has changed: the pods of the earlier training are being stopped"
    return Step(deletes, Verdict(PENDING, "Replacing", message, requeue=5))

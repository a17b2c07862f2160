"""spec.suspend: nothing new is started, and a running train Job is deleted so that its pods checkpoint and leave.

The Job is deleted, not suspended: its suspend field belongs to Kueue. Foreground deletion keeps the Job in sight until
its pods have used their grace period. A running download is left to finish: it holds no GPU.
"""

from . import endings
from .context import Context
from .types import DOWNLOADING, SUSPENDED, TRAINING, Delete, Step, Verdict
from .waiting import overdue


def suspend(context: Context) -> Step:
    if not context.suspended:
        return Step()
    live = context.live_train_job
    if live is not None:
        message = "spec.suspend is true: the pods write a checkpoint and stop"
        verdict = Verdict(TRAINING, "Suspending", message, requeue=5)
        if "deletionTimestamp" in live["metadata"]:
            return Step(verdict=overdue(TRAINING, context.pods_of(live), context.now) or verdict)
        return Step((Delete("Job", live["metadata"]["name"], live["metadata"]["uid"]),), verdict)
    if context.stopping_pods:
        message = "spec.suspend is true: waiting for the pods to stop"
        lost = overdue(TRAINING, context.stopping_pods, context.now)
        return Step(verdict=lost or Verdict(TRAINING, "Suspending", message, requeue=5))
    if any(not endings.ended(job) for job in context.download_jobs):
        message = "spec.suspend is true: the download finishes, training does not start"
        return Step(verdict=Verdict(DOWNLOADING, "Suspending", message))
    done = "; it resumes from the newest checkpoint" if context.attempts else ""
    message = f"spec.suspend is true: set it to false to go on{done}"
    return Step(verdict=Verdict(SUSPENDED, "SuspendedByUser", message))

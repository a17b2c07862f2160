"""The MLflow run, made before the pods start when the tracking server is the operator's own; else the pods make it.

The operator calls no address that a user wrote and holds no credentials (decisions.md 18). A server that does not
answer delays training by seconds, never stops it: the trainer then makes the run itself, found again by the job's uid.
"""

from finetune_api import constants

from . import endings
from .context import Context
from .types import STARTING, Step, TrackedRun, Verdict

PATIENCE_SECONDS = 20.0


def ensure_run(context: Context) -> Step:
    if not wants_run(context) or known_run(context):
        return Step()
    if not context.observed.tracking_error:
        return Step(needs_run=True)
    if not context.attempts and context.seconds_since(_download_ended(context)) < PATIENCE_SECONDS:
        message = (
            f"the MLflow server does not answer yet ({context.observed.tracking_error}); training starts soon without"
        )
        return Step(verdict=Verdict(STARTING, "MLflowUnavailable", message, requeue=4))
    return Step()


def wants_run(context: Context) -> bool:
    """Whether the run is the operator's to make."""
    tracking, own = context.request.spec.tracking, context.settings.mlflow_uri
    return bool(tracking and own and not tracking.run_id and tracking.mlflow_server_uri.rstrip("/") == own)


def known_run(context: Context) -> TrackedRun | None:
    """The run as it stands in status, or as it was just found or made."""
    recorded = context.observed.status.get("mlflow") or {}
    if context.observed.tracked_run:
        return context.observed.tracked_run
    if wants_run(context) and recorded.get("runId") and recorded.get("experimentId"):
        return TrackedRun(recorded["experimentId"], recorded["runId"], recorded.get("url") or "")
    return None


def _download_ended(context: Context) -> str | None:
    ended = [endings.classify(job, (), constants.ROLE_DOWNLOAD).at for job in context.download_jobs]
    return next((at for at in reversed(ended) if at), None)

"""plan(): one look at a FineTuneJob and its children becomes all that should happen next. Pure, and read top to bottom.

The decisions are asked in order; each may add actions, and the first with a verdict ends the round. The status is then
written from that verdict and from what pods reported. Terminal states never revert, unless the training spec changes.
"""

from collections.abc import Callable
from datetime import datetime

from finetune_api import constants

from ..builders.request import Request
from ..settings import Settings
from . import attempts, endings, progress, times
from .allowed import refuse_forbidden
from .blocked import report_blocked
from .cleanup import clean_up, due_in
from .conditions import conditions, is_true
from .context import Context, jobs_of
from .download import download
from .drift import repair
from .granted import granted_nodes, partial_admission
from .identity import identified
from .notices import notices
from .outcome import goes_on, settle
from .queueing import evictions, mirrored
from .running import follow
from .shared_volumes import check_shared
from .smaller_batch import shrunk
from .spec_hash import spec_hash
from .stale import stop_stale
from .start import start_try, wait_for_retry
from .storage import provide_storage
from .suspension import suspend
from .tracking import ensure_run, known_run
from .types import (
    FAILED,
    STARTING,
    SUCCEEDED,
    TRAINING,
    Action,
    Decisions,
    Object,
    Observed,
    Step,
    Verdict,
)
from .validate import InvalidSpecError, request_for

DECISIONS: tuple[Callable[[Context], Step], ...] = (
    report_blocked,
    stop_stale,
    settle,
    refuse_forbidden,
    suspend,
    follow,
    wait_for_retry,
    check_shared,
    provide_storage,
    download,
    ensure_run,
    start_try,
)
MIN_REQUEUE = 0.5


def finished(job: Object) -> bool:
    """Whether the training that the spec asks for has ended: nothing but ttl is left to do."""
    status, spec = job.get("status") or {}, job.get("spec") or {}
    over = is_true(status, "Complete") or is_true(status, "Failed")
    return over and status.get("specHash") == spec_hash(spec) and not goes_on(spec, status)


def plan(observed: Observed, now: datetime, settings: Settings) -> Decisions:
    """What to do now, and the status that says so."""
    if finished(observed.job):
        return _after_the_end(observed, now)
    try:
        request = request_for(observed.job, settings)
    except InvalidSpecError as error:
        return _decided(observed, None, [], _invalid(observed, str(error)), now)
    context = _context(observed, request, settings, now)
    actions: list[Action] = list(repair(context))
    for decide in DECISIONS:
        step = decide(context)
        actions += step.actions
        if step.needs_run:
            return Decisions(status=observed.status, actions=tuple(actions), needs_run=True, requeue=5)
        if step.verdict:
            return _decided(observed, context, actions, step.verdict, now)
    raise AssertionError("the last decision always has a verdict")


def _invalid(observed: Observed, problem: str) -> Verdict:
    """A spec cannot change while an attempt lives. If it is invalid all the same, this operator is stricter than the
    one that started the attempt, or its settings are: the pods go on, and only a new attempt is refused."""
    phase = observed.status.get("phase")
    if phase not in (None, FAILED) and any(endings.ended(job) != "Failed" for job in observed.jobs):
        message = (
            f"what runs goes on, but this operator would not start it: {problem}. Its end is told once that is mended"
        )
        return Verdict(phase, "SpecNoLongerValid", message, stuck=True, requeue=60)
    return Verdict(FAILED, "InvalidSpec", problem)


def _after_the_end(observed: Observed, now: datetime) -> Decisions:
    """Children go when their time has come. Labels, suspend and ttl may change after the end; the status stays."""
    status = {**observed.status, "observedGeneration": observed.metadata.get("generation", 1)}
    wait = due_in(observed.job, now)
    if wait is None:
        return Decisions(status=status)
    if wait > 0:
        return Decisions(status=status, requeue=wait + MIN_REQUEUE)
    return Decisions(status=status, actions=clean_up(observed))


def _context(observed: Observed, request: Request, settings: Settings, now: datetime) -> Context:
    same = observed.status.get("specHash") in (None, request.training)
    recorded = (observed.status.get("attempts") or []) if same else []
    jobs = tuple(jobs_of(observed, constants.ROLE_TRAIN, request.training))
    given = attempts.Circumstances(
        now=times.render(now),
        suspended=bool((observed.job.get("spec") or {}).get("suspend")),
        shrinks=bool(request.spec.retry_with_smaller_batch),
        progress=observed.status.get("progress") or {},
        evictions=evictions(observed.workloads),
    )
    history = attempts.with_live_jobs(recorded, jobs, observed.pods, given)
    request = shrunk(identified(request, observed.checkpoints), history)
    forgotten = max(0, (observed.status.get("failures") or 0) - attempts.failures(recorded)) if same else 0
    return Context(observed, request, settings, now, history, forgotten)


def _decided(
    observed: Observed, context: Context | None, actions: list[Action], verdict: Verdict, now: datetime
) -> Decisions:
    status = _status(observed, context, verdict, now)
    requeue = None if verdict.requeue is None else max(verdict.requeue, MIN_REQUEUE)
    return Decisions(
        status=status,
        actions=tuple(actions),
        notices=notices(observed.status, status, verdict),
        requeue=requeue,
        poll=_pod_to_poll(context, verdict),
    )


def _status(observed: Observed, context: Context | None, verdict: Verdict, now: datetime) -> Object:
    moment, generation = times.render(now), observed.metadata.get("generation", 1)
    training = spec_hash(observed.job.get("spec") or {})
    before = observed.status
    if before.get("specHash") not in (None, training):
        before = {"conditions": before.get("conditions") or []}
    status: Object = {**before, "observedGeneration": generation, "specHash": training, "phase": verdict.phase}
    status.setdefault("startTime", moment)
    if context:
        _describe(status, context, verdict, now)
    if verdict.phase in (SUCCEEDED, FAILED):
        status["completionTime"] = _ended_at(context) or moment
    else:
        status.pop("completionTime", None)
    status.pop("maxAttemptsReached", None)
    if verdict.used_up is not None:
        status["maxAttemptsReached"] = verdict.used_up
    alerts = _alerts(status, context, verdict)
    previous = before.get("conditions") or []
    mirror = mirrored(context, previous)
    status["conditions"] = conditions(verdict, alerts, previous, generation, moment, mirror)
    return status


def _describe(status: Object, context: Context, verdict: Verdict, now: datetime) -> None:
    """Attempts, what pods reported, and what the settings have come to."""
    request = context.request
    status["gpus"] = granted_nodes(context) * request.gpus
    status["attempts"] = attempts.capped(_attempts(context, now))
    status["attempt"] = context.attempts[-1]["id"] if context.attempts else 0
    status["failures"] = context.failures
    if said := progress.notices_of(request.notices, status.get("notices") or ()):
        status["notices"] = said
    if run := known_run(context):
        ours = {"experimentId": run.experiment_id, "runId": run.run_id, "url": run.url}
        status["mlflow"] = {**(status.get("mlflow") or {}), **{key: value for key, value in ours.items() if value}}
    for report, final in _reports(context, now):
        status |= progress.merged(status, report, times.render(now), final)
    if verdict.phase == SUCCEEDED and "model" in status:
        status["model"] = {"claim": request.checkpoints_name, **status["model"]}


def _reports(context: Context, now: datetime) -> list[tuple[Object, bool]]:
    """Reports of pods that status does not have yet: the ended download's, the running pod's, the ended attempt's."""
    reports: list[tuple[Object, bool]] = []
    if not context.observed.status.get("dataset"):
        for job in context.download_jobs[-1:]:
            found = _last_words(context, job, constants.ROLE_DOWNLOAD)
            kept: Object = {key: found[key] for key in ("dataset", "effective", "notices") if key in found}
            reports += [(kept, False)] if kept else []
    if live := _due_progress(context, now):
        reports.append((live, False))
    recorded = {a["id"] for a in context.observed.status.get("attempts") or [] if a.get("endTime")}
    if context.attempts and context.attempts[-1].get("endTime") and context.attempts[-1]["id"] not in recorded:
        for job in context.train_jobs[-1:]:
            reports.append((_last_words(context, job, constants.ROLE_TRAIN), True))
    return reports


def _due_progress(context: Context, now: datetime) -> Object | None:
    """The running pod's report, if it is worth a write now."""
    live = context.observed.progress
    interval = context.settings.progress_seconds
    return live if live and progress.is_due(context.observed.status, live, now, interval) else None


def _attempts(context: Context, now: datetime) -> list[Object]:
    """The history; the running attempt also says which checkpoint it began with, and with which batch."""
    live = _due_progress(context, now)
    if not live or not context.attempts or context.attempts[-1].get("endTime"):
        return context.attempts
    return [*context.attempts[:-1], attempts.told(context.attempts[-1], live)]


def _last_words(context: Context, job: Object, container: str) -> Object:
    for pod in endings.newest_by_index(context.pods_of(job)):
        if report := endings.termination_report(pod, container):
            return report
    return {}


def _ended_at(context: Context | None) -> str | None:
    return context.attempts[-1].get("endTime") if context and context.attempts else None


def _alerts(status: Object, context: Context | None, verdict: Verdict) -> dict[str, tuple[str, str]]:
    alerts: dict[str, tuple[str, str]] = {}
    if verdict.reason == "QueueUnavailable":
        alerts["QueueUnavailable"] = (verdict.reason, verdict.message)
    if context is None:
        return alerts
    if fewer := partial_admission(context):
        alerts["PartiallyAdmitted"] = fewer
    report = status.get("mlflow") or {}
    if report.get("reachable") is False:
        told = report.get("message") or "the pod could not reach the tracking server; metrics may be missing"
        alerts["MLflowUnavailable"] = ("Unreachable", told)
    elif context.observed.tracking_error and not known_run(context):
        message = f"the operator could not make the run ({context.observed.tracking_error}); the train pod tries again"
        alerts["MLflowUnavailable"] = ("RunNotCreated", message)
    if context.request.notices:
        alerts["SettingsAdjusted"] = ("Notices", "; ".join(context.request.notices))
    return alerts


def _pod_to_poll(context: Context | None, verdict: Verdict) -> str | None:
    """Rank 0's pod, while it runs."""
    job = context.live_train_job if context and verdict.phase in (STARTING, TRAINING) else None
    if context is None or job is None:
        return None
    for pod in endings.newest_by_index(context.pods_of(job))[:1]:
        if (pod.get("status") or {}).get("phase") == "Running" and pod["status"].get("podIP"):
            return str(pod["metadata"]["name"])
    return None

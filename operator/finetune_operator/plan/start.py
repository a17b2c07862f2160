"""The next try: when its time has come and no pod of the one before is alive."""

from ..builders.config_map import try_config
from ..builders.train_job import rendezvous_service, train_job
from . import times
from .context import Context
from .tracking import known_run
from .types import PENDING, QUEUED, RETRY, RETRYING, STARTING, Create, Step, Verdict
from .waiting import overdue


def wait_for_retry(context: Context) -> Step:
    """Before anything is made for the next try: its backoff, and the pods of the last one."""
    if context.stopping_pods:
        message = "waiting for the pods of the last attempt to stop"
        phase = RETRYING if context.attempts else PENDING
        lost = overdue(phase, context.stopping_pods, context.now)
        return Step(verdict=lost or Verdict(phase, "PodsStopping", message, requeue=5))
    if not context.attempts:
        return Step()
    last, coming = context.attempts[-1], context.coming
    if coming.at is None or coming.at <= context.now:
        return Step()
    counted = f" ({coming.failures} of {context.max_attempts} attempts failed)" if last.get("outcome") == RETRY else ""
    message = (
        f"the next attempt starts at {times.render(coming.at)}{counted}: {last.get('message') or last.get('reason')}"
    )
    wait = (coming.at - context.now).total_seconds()
    return Step(verdict=Verdict(RETRYING, last.get("reason") or "Retrying", message, requeue=max(wait, 0.5)))


def start_try(context: Context) -> Step:
    number, run = context.next_number, known_run(context)
    creates = [Create(try_config(context.request, number, run))]
    if context.request.nodes > 1:
        creates.append(Create(rendezvous_service(context.request, number)))
    creates.append(Create(train_job(context.request, number, bool(context.attempts), run)))
    phase = QUEUED if context.request.spec.queue_name else RETRYING if context.attempts else STARTING
    message = f"Job {context.request.try_name(number)} is being started"
    return Step(tuple(creates), Verdict(phase, "TryStarting", message, requeue=5))

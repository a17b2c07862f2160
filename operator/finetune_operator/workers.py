"""Workers: take a key from the queue, reconcile it, and decide when it is due again."""

import logging
import time

from .kube.errors import ApiError, UnreachableError
from .logs import job_key
from .metrics import Metrics
from .reconcile import Reconciler
from .workqueue import WorkQueue

Key = tuple[str, str]
RESULTS = ("ok", "conflict", "error", "unreachable", "exception")
logger = logging.getLogger(__name__)


async def work(queue: WorkQueue[Key], reconciler: Reconciler, metrics: Metrics) -> None:
    """One worker, for ever. No error ends it: an unexpected one is logged with its traceback and the key retried."""
    for result in RESULTS:
        metrics.count("reconcile_total", by=0, result=result)
    while True:
        key = await queue.get()
        job_key.set(key)
        started = time.monotonic()
        try:
            exists, requeue = await reconciler.reconcile(key)
        except ApiError as error:
            _retry_after_error(queue, key, error)
            metrics.count("reconcile_total", result="conflict" if error.conflict else "error")
        except UnreachableError as error:
            logger.warning("%s/%s: %s", *key, error)
            queue.retry(key)
            metrics.count("reconcile_total", result="unreachable")
        except Exception:
            logger.exception("%s/%s: unexpected error; tried again with backoff", *key)
            queue.retry(key)
            metrics.count("reconcile_total", result="exception")
        else:
            queue.done(key, gone=not exists)
            if requeue is not None:
                queue.add(key, after=requeue)
            metrics.count("reconcile_total", result="ok")
        metrics.observe("reconcile_duration_seconds", time.monotonic() - started)


def _retry_after_error(queue: WorkQueue[Key], key: Key, error: ApiError) -> None:
    if error.conflict or error.not_found:
        queue.done(key)  # what we read was old: read again at once
        queue.add(key)
        return
    delay = queue.retry(key, at_least=error.retry_after or 0.0)
    logger.warning("%s/%s: %s; again in %.1f s", *key, error, delay)

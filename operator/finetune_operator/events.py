"""Posting Events about a FineTuneJob, each once: the name is a hash of what it says, so a second post is a 409.

Best effort, after the status write: an Event that is lost costs a line of history, never the job.
"""

import hashlib
import logging
from datetime import datetime

from finetune_api import constants

from .kube.client import KubeClient
from .kube.errors import ApiError, UnreachableError
from .kube.resources import EVENT
from .plan import times
from .plan.types import Notice, Object

logger = logging.getLogger(__name__)


async def post(client: KubeClient, job: Object, status: Object, notices: tuple[Notice, ...], now: datetime) -> None:
    for notice in notices:
        body = event(job, status, notice, now)
        try:
            await client.create(EVENT, job["metadata"]["namespace"], body)
        except ApiError as error:
            if not error.already_exists:
                logger.warning("%s: Event %s not posted: %s", job["metadata"]["name"], notice.reason, error)
        except UnreachableError as error:
            logger.warning("%s: Event %s not posted: %s", job["metadata"]["name"], notice.reason, error)


def event(job: Object, status: Object, notice: Notice, now: datetime) -> Object:
    """A core/v1 Event, as `kubectl describe` shows it."""
    metadata = job["metadata"]
    identity = (metadata["uid"], status.get("specHash"), status.get("attempt"), status.get("phase"), notice.reason)
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
    moment = times.render(now)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{metadata['name']}.{digest}", "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": constants.API_VERSION,
            "kind": constants.KIND,
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        },
        "type": notice.type,
        "reason": notice.reason,
        "message": notice.message,
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "count": 1,
        "source": {"component": constants.FIELD_MANAGER},
        "reportingComponent": constants.FIELD_MANAGER,
        "reportingInstance": constants.FIELD_MANAGER,
    }

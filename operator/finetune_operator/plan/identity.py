"""Under which name a training's checkpoints and MLflow run are its own: the job's uid, for the first training.

The trainer continues every checkpoint that carries its own name, so that a restarted pod resumes whoever restarted it.
A training that follows a changed spec must not continue the one before: it gets a name of its own, told by the volume,
which says for which training it was made.
"""

from dataclasses import replace

from ..builders.request import Request
from .labels import LABEL_TRAINING
from .storage import is_own
from .types import Object


def identified(request: Request, work_volume: Object | None) -> Request:
    """The request with its `identity`."""
    if work_volume is None or not is_own(work_volume, request.uid):
        return request
    made_for = (work_volume["metadata"].get("labels") or {}).get(LABEL_TRAINING, request.training)
    return request if made_for == request.training else replace(request, later=True)

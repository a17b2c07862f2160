"""The two claims of a job: the shared model cache, which belongs to nobody, and the job's own work volume."""

from finetune_api import constants
from finetune_api.resolve import filled

from ..plan.labels import LABEL_TRAINING
from ..plan.types import Object
from .request import Request


def cache_claim(request: Request) -> Object:
    """Keyed by source and revision and shared between jobs, hence without an owner and without any job's labels."""
    return _claim(
        {
            "name": request.cache_name,
            "namespace": request.namespace,
            "labels": {
                constants.LABEL_MANAGED_BY: constants.MANAGED_BY,
                constants.LABEL_ROLE: constants.ROLE_CACHE,
                constants.LABEL_MODEL_KEY: request.model_key,
            },
            "annotations": {f"{constants.GROUP}/basemodel": request.basemodel.uri},
        },
        request,
        filled(request.spec.downloads_reserved_size),
    )


def checkpoints_claim(request: Request) -> Object:
    """Data, checkpoints and the result. It has an owner, and goes with the job, only if its retention is Delete."""
    metadata = request.metadata(
        request.checkpoints_name,
        constants.ROLE_CHECKPOINTS,
        {LABEL_TRAINING: request.training},
        owned=not request.retains_checkpoints,
    )
    return _claim(metadata, request, filled(request.spec.checkpoints_reserved_size))


def _claim(metadata: Object, request: Request, size: str) -> Object:
    spec: Object = {
        # Pods on several nodes can share a volume only if it is ReadWriteMany.
        "accessModes": ["ReadWriteMany" if request.nodes > 1 else "ReadWriteOnce"],
        "resources": {"requests": {"storage": size}},
    }
    if request.spec.storage_class:
        spec["storageClassName"] = request.spec.storage_class
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}

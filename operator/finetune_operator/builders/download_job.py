"""The download Job: fetches model and data and validates every line on a CPU pod, before any GPU is asked for."""

from finetune_api import constants
from finetune_api.resolve import filled

from ..plan.labels import LABEL_TRAINING
from ..plan.types import Object
from .environment import environment
from .pod import container, pod_template, volumes
from .quantities import cpus, gibibytes
from .request import Request

MODULE = "finetune_trainer.download"
MAX_CPUS = 1.0
MAX_GIB = 4.0


def download_job(request: Request, number: int = 1) -> Object:
    """One Job per try of the download; the operator owns retries here as with training."""
    name = request.download_name if number == 1 else f"{request.download_name}-{number}"
    pod_volumes, mounts = volumes(request, constants.ROLE_DOWNLOAD, request.download_name)
    env = environment(request, {constants.ENV_ATTEMPT: str(number)})
    resources: Object = {
        "requests": {
            "cpu": cpus(min(MAX_CPUS, filled(request.spec.cpus_per_gpu))),
            "memory": gibibytes(min(MAX_GIB, filled(request.spec.memory_per_gpu))),
        }
    }
    body = container(request, constants.ROLE_DOWNLOAD, module=MODULE, env=env, mounts=mounts, resources=resources)
    labels = {LABEL_TRAINING: request.training, constants.LABEL_TRY: str(number)}
    template = pod_template(request, constants.ROLE_DOWNLOAD, body, pod_volumes, labels)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": request.metadata(name, constants.ROLE_DOWNLOAD, labels),
        "spec": {
            "backoffLimit": 0,
            "podFailurePolicy": {"rules": failure_rules(constants.ROLE_DOWNLOAD, ignore=True)},
            "template": template,
        },
    }


def failure_rules(name: str, ignore: bool) -> list[Object]:
    """podFailurePolicy: what a retry cannot mend fails at once. `ignore`: the Job itself replaces a pod that
    Kubernetes took away; otherwise the Job fails and the operator starts the next try."""
    return [
        {
            "action": "FailJob",
            "onExitCodes": {
                "containerName": name,
                "operator": "In",
                "values": [int(code) for code in constants.FATAL_EXIT_CODES],
            },
        },
        {
            "action": "Ignore" if ignore else "FailJob",
            "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
        },
    ]

"""The train Job of one try: an Indexed Job with one pod per node, which never retries by itself.

After it is created nobody writes suspend, parallelism, completions or template: with a queue those are Kueue's.
"""

from finetune_api import constants
from finetune_api.resolve import filled

from ..plan.labels import LABEL_TRAINING
from ..plan.types import Object, TrackedRun
from .download_job import failure_rules
from .environment import environment
from .pod import container, pod_template, volumes
from .quantities import cpus, gibibytes
from .request import Request

MODULE = "finetune_trainer.launch"


def train_job(request: Request, number: int, resume: bool, run: TrackedRun | None) -> Object:
    """`resume`: later attempts continue from the newest checkpoint whatever run_conf says of the first."""
    pod_volumes, mounts = volumes(request, constants.ROLE_TRAIN, request.try_name(number))
    env = environment(request, _own(request, number, resume, run))
    body = container(
        request, constants.ROLE_TRAIN, module=MODULE, env=env, mounts=mounts, resources=_resources(request)
    )
    body["ports"] = [{"name": constants.PROGRESS_PORT_NAME, "containerPort": constants.PROGRESS_PORT}]
    labels = {LABEL_TRAINING: request.training, constants.LABEL_TRY: str(number)}
    template = pod_template(request, constants.ROLE_TRAIN, body, pod_volumes, labels)
    template["spec"]["terminationGracePeriodSeconds"] = request.grace_seconds
    if request.nodes > 1:
        template["spec"]["subdomain"] = request.try_name(number)
    metadata = request.metadata(request.try_name(number), constants.ROLE_TRAIN, {**labels, **_queue_labels(request)})
    if request.spec.min_nodes:
        metadata["annotations"] = {**metadata.get("annotations", {}), **_partial_admission(request.spec.min_nodes)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "completionMode": "Indexed",
            "completions": request.nodes,
            "parallelism": request.nodes,
            "backoffLimit": 0,
            # The trainer continues its own checkpoints, so the Job may replace a pod that was taken away; of several
            # only the evicted one would be replaced, and its peers would fail (decisions.md 9).
            "podFailurePolicy": {"rules": failure_rules(constants.ROLE_TRAIN, ignore=request.nodes == 1)},
            **({"suspend": True} if request.spec.queue_name else {}),
            "template": template,
        },
    }


def rendezvous_service(request: Request, number: int) -> Object:
    """Headless: gives the pods of several nodes names, before they are ready."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": request.metadata(
            request.try_name(number), constants.ROLE_TRAIN, {constants.LABEL_TRY: str(number)}
        ),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,  # they meet before they train, and that is before they are ready
            "selector": {"batch.kubernetes.io/job-name": request.try_name(number)},
        },
    }


def _own(request: Request, number: int, resume: bool, run: TrackedRun | None) -> dict[str, str]:
    values = {
        constants.ENV_ATTEMPT: str(number),
        constants.ENV_GPUS: str(request.processes),
        constants.ENV_GRACE: str(request.grace_seconds),
        constants.ENV_WATCHDOG: str(filled(request.spec.step_timeout_seconds)),
    }
    if request.nodes > 1:
        name = request.try_name(number)
        values[constants.ENV_NODES] = str(request.nodes)
        if request.spec.min_nodes:
            values[constants.ENV_MIN_NODES] = str(request.spec.min_nodes)
        values[constants.ENV_RENDEZVOUS] = f"{name}-0.{name}"  # pod 0's name in the headless service
    if resume:
        values[constants.ENV_RESUME] = "auto"
    if request.spec.tracking:
        values[constants.ENV_MLFLOW_URI] = request.spec.tracking.mlflow_server_uri
    if run:
        values[constants.ENV_MLFLOW_RUN_ID] = run.run_id
    return values


def _queue_labels(request: Request) -> dict[str, str]:
    labels = {
        constants.LABEL_QUEUE: request.spec.queue_name,
        constants.LABEL_WORKLOAD_PRIORITY: request.spec.workload_priority_class_name,
    }
    return {name: value for name, value in labels.items() if value}


def _partial_admission(least: int) -> dict[str, str]:
    """Kueue may lower parallelism, and completions with it, when it starts the Job; how many pods there are, they learn
    when they meet."""
    return {
        constants.ANNOTATION_MIN_PARALLELISM: str(least),
        constants.ANNOTATION_COMPLETIONS_FOLLOW: "true",
    }


def _resources(request: Request) -> Object:
    """CPU and memory per GPU, or of the pod when it has none. Only GPUs are limits: they cannot be shared."""
    shares = max(request.gpus, 1)
    resources: Object = {
        "requests": {
            "cpu": cpus(filled(request.spec.cpus_per_gpu) * shares),
            "memory": gibibytes(filled(request.spec.memory_per_gpu) * shares),
        }
    }
    if request.gpus:
        name = request.spec.gpu_resource or request.settings.default_gpu_resource
        resources["requests"][name] = resources.setdefault("limits", {})[name] = str(request.gpus)
    return resources

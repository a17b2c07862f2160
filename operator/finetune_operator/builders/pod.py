"""The pod of a download or a try: hardened (restricted pod security), without an API token, placed as the spec says."""

from finetune_api import constants

from ..plan.types import Object
from .environment import CA_DIR, mounted_sources
from .request import Request

USER = 1000
MOUNT_DIRS = {
    "pvc": constants.PVC_MOUNT_DIR,
    "configmap": constants.CONFIGMAP_MOUNT_DIR,
    "dataset": constants.DATASET_MOUNT_DIR,
}
SHARED_MEMORY = "shm"


def pod_template(
    request: Request, role: str, container: Object, volumes: list[Object], labels: dict[str, str]
) -> Object:
    """A Job's template around one container."""
    metadata: Object = {"labels": {**request.labels(role), **labels}}
    if request.spec.annotations:
        metadata["annotations"] = dict(request.spec.annotations)
    spec: Object = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
        **_placement(request),
    }
    return {"metadata": metadata, "spec": spec}


def _placement(request: Request) -> Object:
    """The same for download and train pods: a volume that binds at first use must bind where the GPUs are."""
    spec = request.spec
    placement: Object = {}
    accelerator = request.settings.accelerator_labels.get(spec.accelerator_type or "", {})
    if selector := {**accelerator, **(spec.node_selector or {})}:
        placement["nodeSelector"] = selector
    if spec.tolerations:
        placement["tolerations"] = [one.model_dump(by_alias=True, exclude_none=True) for one in spec.tolerations]
    if spec.affinity:
        placement["affinity"] = spec.affinity.model_dump(by_alias=True, exclude_none=True)
    if spec.image_pull_secrets:
        placement["imagePullSecrets"] = [{"name": one.name} for one in spec.image_pull_secrets]
    plain = {
        "serviceAccountName": spec.service_account_name,
        "runtimeClassName": spec.runtime_class_name,
        "priorityClassName": spec.priority_class_name,
    }
    return {**placement, **{key: value for key, value in plain.items() if value}}


def container(
    request: Request, name: str, *, module: str, env: list[Object], mounts: list[Object], resources: Object
) -> Object:
    """The one container of a pod."""
    return {
        "name": name,
        "image": request.spec.finetuning_image or request.settings.trainer_image,
        "command": ["python", "-m", module],
        "env": env,
        "volumeMounts": mounts,
        "resources": resources,
        # The report is written to the file; a process that dies without one leaves the end of its log instead.
        "terminationMessagePath": constants.TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def volumes(request: Request, role: str, config_map: str) -> tuple[list[Object], list[Object]]:
    """The pod's volumes and the container's mounts, pairwise in order."""
    pairs: list[tuple[Object, Object]] = [
        (_config_map(config_map, "config"), {"mountPath": constants.CONFIG_DIR, "readOnly": True}),
        (_claim(request.checkpoints_name, "work"), {"mountPath": constants.WORK_DIR}),
        ({"name": "tmp", "emptyDir": {}}, {"mountPath": "/tmp"}),
        *_model(request, role),
    ]
    if role == constants.ROLE_TRAIN:
        pairs.append(({"name": SHARED_MEMORY, "emptyDir": {"medium": "Memory"}}, {"mountPath": constants.SHM_DIR}))
    if role == constants.ROLE_DOWNLOAD:
        pairs += _sources(request)
    if bundle := request.spec.ca_bundle_config_map:
        pairs.append((_config_map(bundle.name, "ca"), {"mountPath": CA_DIR, "readOnly": True}))
    return [volume for volume, _ in pairs], [{"name": volume["name"], **mount} for volume, mount in pairs]


def _model(request: Request, role: str) -> list[tuple[Object, Object]]:
    if request.basemodel.scheme == "pvc":
        mount: Object = {"mountPath": constants.MODEL_DIR, "readOnly": True}
        if request.basemodel.path:
            mount["subPath"] = request.basemodel.path
        return [(_claim(request.basemodel.container, "basemodel"), mount)]
    if not request.uses_cache:
        return []
    if role == constants.ROLE_DOWNLOAD:
        return [(_claim(request.cache_name, "cache"), {"mountPath": constants.MODEL_CACHE_DIR})]
    mount = {"mountPath": constants.MODEL_DIR, "subPath": request.model_key, "readOnly": True}
    return [(_claim(request.cache_name, "cache"), mount)]


def _sources(request: Request) -> list[tuple[Object, Object]]:
    """A named dataset is a ConfigMap that says where the data lies; the other mounts hold the data itself."""
    pairs: list[tuple[Object, Object]] = []
    for number, (scheme, name) in enumerate(mounted_sources(request)):
        volume = _claim(name, f"data-{number}") if scheme == "pvc" else _config_map(name, f"data-{number}")
        pairs.append((volume, {"mountPath": f"{MOUNT_DIRS[scheme]}/{name}", "readOnly": True}))
    return pairs


def _claim(claim: str, name: str) -> Object:
    return {"name": name, "persistentVolumeClaim": {"claimName": claim}}


def _config_map(config_map: str, name: str) -> Object:
    return {"name": name, "configMap": {"name": config_map}}

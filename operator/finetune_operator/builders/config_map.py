"""The immutable ConfigMap of a download or a try: the resolved job, frozen, so that no later default changes it."""

import yaml

from finetune_api import constants
from finetune_api.job_config import JobConfig
from finetune_api.job_config import TrackedRun as ConfiguredRun
from finetune_api.locations import redirects
from finetune_api.resolve import MUTABLE_KEYS

from ..plan.types import Object, TrackedRun
from .request import Request

CONFIG_KEY = "job.json"


def download_config(request: Request) -> Object:
    data = {CONFIG_KEY: _job_config(request, 1, None)}
    return _config_map(request, request.download_name, constants.ROLE_DOWNLOAD, data)


def try_config(request: Request, number: int, run: TrackedRun | None) -> Object:
    """`run`: the MLflow run that the operator made, if it did."""
    accelerate = yaml.safe_dump(request.resolved.accelerate_config(), sort_keys=True)
    data = {CONFIG_KEY: _job_config(request, number, run), "accelerate.yaml": accelerate}
    return _config_map(
        request, request.try_name(number), constants.ROLE_TRAIN, data, {constants.LABEL_TRY: str(number)}
    )


def _job_config(request: Request, number: int, run: TrackedRun | None) -> str:
    tracking = request.spec.tracking
    tracked = None
    if run and tracking:
        tracked = ConfiguredRun(uri=tracking.mlflow_server_uri, experiment_id=run.experiment_id, run_id=run.run_id)
    return JobConfig(
        name=request.name,
        namespace=request.namespace,
        uid=request.identity,
        try_number=number,
        spec=_for_pods(request.spec.to_dict()),
        tracked_run=tracked,
        notices=list(request.notices),
    ).to_json()


def _for_pods(spec: Object) -> Object:
    """Without what may change meanwhile, and without variables, which the pod has anyway and which may be private.
    Those that decide where the model comes from stay: the cache's key depends on them."""
    kept = {key: value for key, value in spec.items() if key not in (*MUTABLE_KEYS, "env")}
    env = [variable for variable in spec.get("env") or [] if redirects(variable["name"])]
    return {**kept, "env": env} if env else kept


def _config_map(
    request: Request, name: str, role: str, data: dict[str, str], labels: dict[str, str] | None = None
) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": request.metadata(name, role, labels),
        "immutable": True,
        "data": data,
    }

"""render(): the objects that a manifest becomes, by the same plan and builders as the operator's, without a cluster."""

from typing import Any

from .builders.config_map import download_config, try_config
from .builders.download_job import download_job
from .builders.train_job import rendezvous_service, train_job
from .builders.volumes import cache_claim, checkpoints_claim
from .plan.types import Object
from .plan.validate import request
from .settings import Settings


def render(spec: dict[str, Any], name: str, namespace: str, settings: Settings | None = None) -> list[Object]:
    """Every object of a job that succeeds at its first try, in the order of their creation.

    `spec` is the manifest's, unresolved. Raises plan.validate.InvalidSpecError. Without a cluster there are no uids, so
    owner references are missing; the MLflow run, made at run time, is not in the configuration either.
    """
    wanted = request(spec, name, namespace, "", settings or Settings())
    objects = [cache_claim(wanted)] if wanted.uses_cache else []
    objects += [checkpoints_claim(wanted), download_config(wanted), download_job(wanted), try_config(wanted, 1, None)]
    if wanted.nodes > 1:
        objects.append(rendezvous_service(wanted, 1))
    return [*objects, train_job(wanted, 1, False, None)]

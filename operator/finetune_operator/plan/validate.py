"""From the live object's spec to a resolved request, or to the sentence that says what is wrong with it.

The API server has checked the schema already; what only finetune_api can see (free-form keys, arithmetic after the
administrator's caps) fails here, with the key's name.
"""

import copy
import functools
import json
from typing import Any

from pydantic import ValidationError

from finetune_api.locations import LocationError
from finetune_api.resolve import ResolvedSpec, resolve
from finetune_api.spec import FineTuneJobSpec

from ..builders.request import Request
from ..settings import Settings
from .spec_hash import spec_hash
from .types import Object

PROBLEMS_SHOWN = 8


class InvalidSpecError(Exception):
    """The spec cannot be run; the message names each key and its fix."""


def request_for(job: Object, settings: Settings) -> Request:
    """The resolved request of a live FineTuneJob; raises InvalidSpecError."""
    metadata = job["metadata"]
    return request(job.get("spec") or {}, metadata["name"], metadata["namespace"], metadata.get("uid", ""), settings)


def request(spec: dict[str, Any], name: str, namespace: str, uid: str, settings: Settings) -> Request:
    """The same from a manifest's parts."""
    capped, notices = cap_gpus(spec, settings.max_gpus_per_node)
    try:
        resolved = _resolved(json.dumps(capped, sort_keys=True))
    except ValidationError as error:
        raise InvalidSpecError(_sentences(error)) from None
    except (LocationError, ValueError) as error:
        raise InvalidSpecError(str(error)) from None
    _check_accelerator(resolved.spec.accelerator_type, settings)
    notices += [*resolved.notices, *resolved.warnings]
    return Request(name, namespace, uid, resolved, spec_hash(spec), settings, tuple(notices))


@functools.lru_cache(maxsize=512)
def _resolved(spec: str) -> ResolvedSpec:
    """Resolving takes milliseconds and depends on the spec alone; a job is reconciled many times."""
    return resolve(FineTuneJobSpec.model_validate(json.loads(spec)))


def cap_gpus(spec: dict[str, Any], most: int) -> tuple[dict[str, Any], list[str]]:
    """Asking for more GPUs than a node has would wait forever. The cap is the administrator's setting, since listing
    nodes says nothing under autoscaling. The total batch stays the same, or is refused as not divisible."""
    wanted = spec.get("finetuningGpus")
    if not isinstance(wanted, int) or wanted <= most:
        return spec, []
    capped = copy.copy(spec)
    capped["finetuningGpus"] = most
    return capped, [
        f"finetuningGpus {wanted} is more than a node has: {most} are used; the total batch size stays the same"
    ]


def _check_accelerator(kind: str | None, settings: Settings) -> None:
    if kind and kind not in settings.accelerator_labels:
        known = ", ".join(sorted(settings.accelerator_labels)) or "none"
        raise InvalidSpecError(
            f"acceleratorType {kind!r} is unknown to this operator (known: {known}); use one of them, or nodeSelector"
        )


def _sentences(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_input=False)
    lines = [f"spec.{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in problems[:PROBLEMS_SHOWN]]
    if len(problems) > PROBLEMS_SHOWN:
        lines.append(f"and {len(problems) - PROBLEMS_SHOWN} more; `finetune validate` lists all")
    return "; ".join(lines)

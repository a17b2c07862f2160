"""What is known of each key of spec: type, bounds, default, whether it works in this version, and where it comes from.

All of it is read from what validation itself uses (models, tables, snapshots), so that it cannot say something else.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Iterator
from functools import cache
from typing import Any, Literal

from finetune_api import training_args
from finetune_api.known_keys import walk_keys
from finetune_api.methods import METHOD_ARGUMENTS
from finetune_api.overrides import LIFTED_KEYS
from finetune_api.parameters import DOCUMENTS, Parameter, all_parameters, refusal_of
from finetune_api.peft_kwargs import OWNED, peft_fields
from finetune_api.peft_types import PEFT_TYPES
from finetune_api.resolve import DEFAULTS
from finetune_api.spec import FineTuneJobSpec
from finetune_api.support import REFUSALS

Support = Literal["supported", "restricted", "owned", "translated", "removed", "refused"]
PEFT_KWARGS = "peft_conf.peft_kwargs"
# Keys of the engine's chart, beside document 003's sections; the other camelCase ones are this API's own.
CHART = frozenset(
    (
        *("finetuningImage", "labels", "imagePullSecrets", "env", "bucketStorageHost", "bucketCredentialsSecret"),
        *("downloadsReservedSize", "checkpointsReservedSize", "storageClass", "finetuningGpus", "memoryPerGpu"),
        *("cpusPerGpu", "distributedType", "customAccelerateConfig", "mergeAdapter", "checkpointsRemote", "basemodel"),
        *("hfDownloadExcludeGlob", "hfTokenSecret", "runTensorboard", "logsRemote", "debug"),
    )
)
# Where the keys act that no document's table has.
SECTION_WHERE = {
    "training_args": "finetune_trainer.train.settings",
    "peft_conf": "finetune_trainer.train.adapters",
    "evaluation_conf": "finetune_trainer.train.loop",
    "overrides": "finetune_api.resolve",
    "dpo_args": "finetune_trainer.train.preference_loss",
    "clm_args": "finetune_trainer.data.text",
    "sft_args": "finetune_trainer.data.preparing",
    "memory_args": "finetune_api.support",
    "data_conf": "finetune_trainer.data.from_job_config",
    "run_conf": "finetune_trainer.train.model",
}
ON_PODS = "finetune_operator.builders"
KINDS = {
    **{"bool": "true or false", "int": "integer", "float": "number", "str": "text"},
    **{"list": "list", "dict": "mapping", "object": "mapping"},
}


@dataclasses.dataclass(frozen=True)
class Facts:
    """One key of spec."""

    path: str
    type: str
    bounds: str
    default: str  # as JSON; "required"; "" for none
    meaning: str
    support: Support
    reason: str
    origins: list[Parameter]
    origin: str  # in words, where no document's table has the key
    where: list[str]


def facts(path: str) -> Facts:
    """What is known of a key of all_keys()."""
    fields = all_keys()[path]
    support, reason = support_of(path)
    # An enumeration's values (LORA of PeftType) are rows too, but no origin of the key.
    rows = [row for row in all_parameters() if path in row.ours and not _is_value(row, path)]
    texts = list(dict.fromkeys(filter(None, (type_of(field) for field in fields))))
    bounds = list(dict.fromkeys(filter(None, (bounds_of(field) for field in fields))))
    meanings = list(dict.fromkeys(filter(None, (str(field.description or "") for field in fields))))
    where = list(dict.fromkeys(module for row in rows for module in row.where))
    return Facts(
        path=path,
        type=" | ".join(texts),
        bounds=" or ".join(bounds),
        default=default_of(path, fields[0]),
        meaning=" ".join(meanings),
        support=support,
        reason=reason,
        origins=rows,
        origin="" if rows else _origin(path),
        where=where or [_section_where(path)],
    )


def _is_value(row: Parameter, path: str) -> bool:
    return row.document == "003" and path.rpartition(".")[2] != row.key


def _section_where(path: str) -> str:
    section = path.partition(".")[0]
    if section in LIFTED_KEYS:
        return SECTION_WHERE["overrides"]
    return SECTION_WHERE.get(section, ON_PODS)


@cache
def all_keys() -> dict[str, list[Any]]:
    """Path -> the pydantic fields that stand there (several in a union), in the order of the manifest."""
    found: dict[str, list[Any]] = {}
    for path, field in walk_keys(FineTuneJobSpec):
        found.setdefault(path, []).append(field)
    for peft_type in ("LORA", *_peft_types()):
        for name, described in (peft_fields(peft_type) or {}).items():
            path = f"{PEFT_KWARGS}.{name}"
            if path in found:
                found[path][0].others.append(peft_type)
            else:
                found[path] = [_PeftField(peft_type, described)]
    return found


def _peft_types() -> Iterator[str]:
    from finetune_api.peft_conf import NewPeftType

    return (one for one in typing.get_args(NewPeftType) if one != "LORA")


@dataclasses.dataclass(frozen=True)
class _PeftField:
    """An argument of a PEFT config, from the snapshot."""

    peft_type: str
    described: dict[str, Any]
    others: list[str] = dataclasses.field(default_factory=list)

    @property
    def description(self) -> str:
        text = " ".join(str(self.described.get("help") or "").split()).rstrip(".")
        return f"{text}. Of {', '.join((self.peft_type, *self.others))}."


def support_of(path: str) -> tuple[Support, str]:
    """Whether a key works in this version, and if not as the user may think, why."""
    section, _, name = path.partition(".")
    if section == "training_args" and name:
        return _training_argument(name)
    if path.startswith(f"{PEFT_KWARGS}."):
        return _peft_argument(path.rpartition(".")[2])
    method = next((name for name, arguments in METHOD_ARGUMENTS.items() if arguments == section), None)
    if method is not None and method not in _allowed("method"):
        return "refused", str(refusal_of("method"))
    message = refusal_of(path)
    if message is None:
        return "supported", ""
    allowed = _allowed(path)
    listed = f"accepts {', '.join(json.dumps(one) for one in allowed)}; " if allowed else ""
    return ("restricted" if allowed else "refused"), f"{listed}{message}"


def _allowed(path: str) -> tuple[Any, ...]:
    return next((one.allowed for one in REFUSALS if ".".join(one.path) == path), ())


def _peft_argument(name: str) -> tuple[Support, str]:
    if name in OWNED:
        return "owned", OWNED[name]
    (field,) = all_keys()[f"{PEFT_KWARGS}.{name}"]
    given = (field.peft_type, *field.others)
    refused = {one: dict(PEFT_TYPES[one].arguments).get(name) or PEFT_TYPES[one].refused for one in given}
    reasons = {one: reason for one, reason in refused.items() if reason}
    if not reasons:
        return "supported", ""
    text = "; ".join(f"with {one}: {reason}" for one, reason in reasons.items())
    return ("refused" if len(reasons) == len(given) else "restricted"), text


def _training_argument(name: str) -> tuple[Support, str]:
    if name in training_args.RENAMED:
        return "translated", f"old name of training_args.{training_args.RENAMED[name].new}"
    if name in training_args.SUPPORTED:
        return "supported", ""
    support: Support = "owned" if name in training_args.OWNED else "refused"
    return "removed" if name in training_args.REMOVED else support, training_args.refusal_text(name)


def type_of(field: Any) -> str:
    """A key's type in words of YAML."""
    if isinstance(field, _PeftField):
        if field.described.get("choices"):
            return ", ".join(str(one) for one in field.described["choices"])
        kinds = [kind for kind in field.described["kinds"] if kind != "any"]
        return " or ".join(dict.fromkeys(KINDS.get(kind, kind) for kind in kinds)) or "a Python object"
    return " or ".join(dict.fromkeys(_types(field.annotation)))


def _types(annotation: Any) -> Iterator[str]:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        yield from _types(parts[0])
    elif origin in (typing.Union, types.UnionType):
        for part in parts:
            yield from _types(part)
    elif origin is Literal:
        yield ", ".join(str(part) if isinstance(part, str) else json.dumps(part) for part in parts)
    elif origin is list:
        yield f"list of {' or '.join(_types(parts[0]))}"
    elif annotation is Any:
        yield "anything"
    elif annotation is not types.NoneType:
        name = getattr(origin or annotation, "__name__", "")
        yield KINDS.get(name, "mapping")


def bounds_of(field: Any) -> str:
    """The bounds of a number, a text or a list: '> 0, <= 1000'."""
    if isinstance(field, _PeftField):
        return ""
    found: list[str] = []
    for one in _metadata(field):
        for name, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<=")):
            if getattr(one, name, None) is not None:
                found.append(f"{sign} {getattr(one, name):g}" if name[0] == "g" or True else "")
        for name, sign in (("min_length", ">="), ("max_length", "<=")):
            if getattr(one, name, None) not in (None, 0):
                found.append(f"length {sign} {getattr(one, name)}")
    return ", ".join(dict.fromkeys(found))


def _metadata(field: Any) -> Iterator[Any]:
    """Constraints of a field, of its annotation and of the members of its union."""
    yield from field.metadata
    yield from _annotated(field.annotation)


def _annotated(annotation: Any) -> Iterator[Any]:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        for one in parts[1:]:
            yield from getattr(one, "metadata", [one])
        yield from _annotated(parts[0])
    elif origin in (typing.Union, types.UnionType):
        for part in parts:
            yield from _annotated(part)


def default_of(path: str, field: Any) -> str:
    """What counts where the key is absent."""
    section, _, name = path.partition(".")
    if isinstance(field, _PeftField):
        value = field.described.get("default")
    elif section == "training_args" and name in training_args.snapshot():
        value = training_args.default_of(name)
    elif path in DEFAULTS:
        value = DEFAULTS[path]
    elif field.is_required():
        return "required"
    else:
        value = field.get_default(call_default_factory=False)
    return "" if value is None or isinstance(value, type) else _json(value)


def _json(value: Any) -> str:
    try:
        return json.dumps(value)
    except TypeError:  # a section's model, or a default that is not given
        return ""


def _origin(path: str) -> str:
    section, _, rest = path.partition(".")
    if section == "training_args":
        return f"{DOCUMENTS['003']} (003): SilogenTrainingArguments, the keys of transformers.TrainingArguments"
    if path.startswith(f"{PEFT_KWARGS}."):
        return f"{DOCUMENTS['003']} (003): GenericPeftConfig, the keys of PEFT's configs"
    if section in CHART:
        return "the engine's chart"
    if section in LIFTED_KEYS:
        return f"{DOCUMENTS['003']} (003): Overrides, lifted to the top"
    if section == "dpo_args" and rest:
        return "TRL's DPOConfig"
    return "this API"

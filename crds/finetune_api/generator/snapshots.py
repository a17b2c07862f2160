"""Takes the field snapshots of transformers.TrainingArguments, of PEFT's configs and of TRL's DPOConfig.

The API package must know these libraries' fields without importing them (a CLI start of 0.1 s against 10 s, and an
operator image without torch), so their names, kinds, defaults and help texts are frozen as JSON beside the models.
"""

import dataclasses
import enum
import importlib
import json
import re
import types
import typing
from typing import Any

from finetune_api.peft_conf import NewPeftType

HELP_LIMIT = 400


def take_training_arguments() -> dict[str, Any]:
    """Fields of the installed transformers.TrainingArguments: {version, fields: [{name, kinds, …}]}."""
    transformers = importlib.import_module("transformers")
    return {
        "library": "transformers",
        "version": transformers.__version__,
        "fields": _describe_fields(transformers.TrainingArguments),
    }


def take_dpo_config() -> dict[str, Any]:
    """What TRL's DPOConfig adds to TrainingArguments, or has another default for: {version, fields: […]}."""
    config = importlib.import_module("trl").DPOConfig
    base = {described["name"]: described.get("default") for described in take_training_arguments()["fields"]}
    fields = [
        described
        for described in _describe_fields(config)
        if described["name"] not in base or described.get("default") != base[described["name"]]
    ]
    return {"library": "trl", "version": importlib.import_module("trl").__version__, "fields": fields}


def take_peft_configs() -> dict[str, Any]:
    """Fields of every PEFT config: {version, types: {PEFT_TYPE: {config, fields}}}."""
    peft = importlib.import_module("peft")
    mapping = importlib.import_module("peft.mapping").PEFT_TYPE_TO_CONFIG_MAPPING
    configs = {str(getattr(kind, "value", kind)): config for kind, config in mapping.items()}
    described = {
        name: {"config": configs[name].__name__, "fields": _describe_fields(configs[name])}
        for name in typing.get_args(NewPeftType)
    }
    return {"library": "peft", "version": peft.__version__, "types": dict(sorted(described.items()))}


def _describe_fields(config: type) -> list[dict[str, Any]]:
    hints = _hints(config)
    return [
        _describe_field(field, hints.get(field.name, field.type)) for field in dataclasses.fields(config) if field.init
    ]


def _hints(config: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(config)
    except Exception:
        return {}  # an annotation that names a missing optional library: the raw annotation is used instead


def _describe_field(field: "dataclasses.Field[Any]", hint: Any) -> dict[str, Any]:
    kinds, nullable, choices = _kinds(hint)
    given = field.metadata.get("choices")
    described: dict[str, Any] = {"name": field.name, "kinds": kinds, "nullable": nullable}
    choices = choices or ([str(choice) for choice in given] if given else [])
    if choices:
        described["choices"] = choices
    if field.default is not dataclasses.MISSING:
        described["default"] = _plain(field.default)
        described["nullable"] = nullable or field.default is None
    elif field.default_factory is not dataclasses.MISSING:
        described["default"] = _plain(field.default_factory())
    else:
        described["required"] = True
    described["help"] = _help(str(field.metadata.get("help", "")))
    return described


_KIND_OF_TYPE: dict[Any, str] = {bool: "bool", int: "int", float: "float", str: "str", dict: "object", list: "list"}
_CONTAINER_KIND: dict[Any, str] = {dict: "object", list: "list", tuple: "list", set: "list"}


def _kinds(hint: Any) -> tuple[list[str], bool, list[str]]:
    """Kinds (bool, int, float, str, enum, list, object, any), whether None is allowed, and an enum's values."""
    if hint is None or hint is type(None):
        return [], True, []
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        parts = [_kinds(part) for part in typing.get_args(hint)]
        kinds = sorted({kind for part in parts for kind in part[0]})
        choices = [choice for part in parts for choice in part[2]]
        return kinds, any(part[1] for part in parts), choices
    if origin is typing.Literal:
        values = typing.get_args(hint)
        if all(isinstance(value, str) for value in values):
            return ["enum"], False, list(values)
        return sorted({_KIND_OF_TYPE.get(type(value), "any") for value in values}), None in values, []
    if origin in _CONTAINER_KIND:
        return [_CONTAINER_KIND[origin]], False, []
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return ["enum"], False, [str(member.value) for member in hint]
    return [_KIND_OF_TYPE.get(hint, "any")], False, []


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, set | tuple):
        return sorted(value)
    if isinstance(value, bool | int | float | str | list | dict | type(None)):
        return value
    return str(value)


def _help(text: str) -> str:
    text = re.sub(r"\s+", " ", text).strip().replace("%%", "%")
    if len(text) <= HELP_LIMIT:
        return text
    cut = text[:HELP_LIMIT]
    sentence = cut.rfind(". ")
    return cut[: sentence + 1] if sentence > HELP_LIMIT // 3 else cut.rsplit(" ", 1)[0] + " …"


def to_text(snapshot: dict[str, Any]) -> str:
    """The snapshot as it is stored: stable and readable in a diff."""
    return json.dumps(snapshot, indent=1, ensure_ascii=False, sort_keys=False) + "\n"

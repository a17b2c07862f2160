"""peft_conf.peft_kwargs against the fields of the pinned PEFT's configs: names, kinds, what a manifest cannot give."""

import difflib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any

from finetune_api.peft_types import PEFT_TYPES
from finetune_api.violations import Violation

OWNED = {
    "peft_type": "use peft_conf.peft_type",
    "task_type": "use peft_conf.task_type",
    "base_model_name_or_path": "use basemodel",
    "revision": "use run_conf.model_args.revision",
    "inference_mode": "the adapter is always trained",
    "auto_mapping": "PEFT sets it",
    "peft_version": "PEFT sets it",
    "runtime_config": "PEFT sets it",
}
# The other ways to begin change the base model's weights, so that the adapter alone would not fit the original one.
LORA_INITIALISATIONS = (True, False, "gaussian", "orthogonal")
# Ways to begin that need another job's weights.
_OTHERS_PROMPTS = ("AVERAGE_SOURCE_TASKS", "EXACT_SOURCE_TASK", "ONLY_SOURCE_SHARED")
_KIND_TESTS: dict[str, Any] = {
    "bool": lambda value: isinstance(value, bool),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "str": lambda value: isinstance(value, str),
    "enum": lambda value: isinstance(value, str),
    "list": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, Mapping),
}
_KIND_NAMES = {"bool": "true or false", "int": "an integer", "float": "a number", "str": "text", "enum": "text"}


@cache
def peft_fields(peft_type: str) -> dict[str, dict[str, Any]] | None:
    """The fields of a PEFT type's config by name; None for a type that the pinned PEFT lacks."""
    described = _snapshot()["types"].get(peft_type)
    return {one["name"]: one for one in described["fields"]} if described else None


@cache
def _snapshot() -> dict[str, Any]:
    text = resources.files("finetune_api").joinpath("snapshots/peft_configs.json").read_text(encoding="utf-8")
    snapshot: dict[str, Any] = json.loads(text)
    return snapshot


def check_peft_kwargs(spec: Mapping[str, Any]) -> Iterator[Violation]:
    """Violations of peft_kwargs by raw spec data."""
    peft = spec.get("peft_conf")
    given = peft.get("peft_kwargs") if isinstance(peft, Mapping) else None
    peft_type = peft.get("peft_type") if isinstance(peft, Mapping) else None
    if not isinstance(given, Mapping) or not isinstance(peft_type, str):
        return
    for key, value in given.items() if peft_fields(peft_type) else ():
        reason = argument_refusal(peft_type, str(key), value)
        if reason:
            yield Violation(("peft_conf", "peft_kwargs", key), reason)


def argument_refusal(peft_type: str, key: str, value: Any) -> str | None:
    """Why an argument of a known PEFT type cannot be used, or None. The trainer asks for pretrained adapters too."""
    fields = peft_fields(peft_type) or {}
    if key in OWNED:
        return f"peft_kwargs.{key} does not belong here: {OWNED[key]}"
    if key not in fields:
        near = difflib.get_close_matches(key, fields, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; see PEFT's config for {peft_type}"
        return f"{peft_type} has no argument {key!r}{hint}"
    field = fields[key]
    if value is None:
        return None if field["nullable"] else f"peft_kwargs.{key} must not be null; remove it for the default"
    kinds = [kind for kind in field["kinds"] if kind != "any"]
    if not kinds:
        return f"peft_kwargs.{key} takes a Python object and cannot be given in a manifest"
    if not any(_KIND_TESTS[kind](value) for kind in kinds):
        wanted = " or ".join(dict.fromkeys(_KIND_NAMES.get(kind, f"a {kind}") for kind in kinds))
        return f"peft_kwargs.{key} must be {wanted}, not {json.dumps(value)}"
    reason = dict(PEFT_TYPES[peft_type].arguments).get(key)
    if reason and value != field.get("default"):
        return f"peft_kwargs.{key} is not supported for {peft_type} in this version: {reason}"
    if key == "init_lora_weights" and peft_type == "ADALORA" and not isinstance(value, bool):
        return f"ADALORA has one way to begin, not {value}; remove init_lora_weights"
    if key == "init_lora_weights" and value not in LORA_INITIALISATIONS:
        return (
            f"init_lora_weights {value} changes the base model, so the adapter would not fit the original one; "
            "use true, gaussian or orthogonal"
        )
    if key == "prompt_tuning_init" and value in _OTHERS_PROMPTS:
        return f"prompt_tuning_init {value} needs the prompts of another job; use RANDOM or TEXT"
    if isinstance(value, str) and "enum" in kinds and key != "init_lora_weights" and value not in field["choices"]:
        return f"peft_kwargs.{key} must be one of {', '.join(field['choices'])}, not {value}"
    return None

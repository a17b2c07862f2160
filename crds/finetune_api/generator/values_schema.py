"""values.schema.json of charts/finetune-job: the keys of spec in both layouts, closed, in draft-07 as Helm reads it.

Nullability is a list of types, never an anyOf: Helm's error for anyOf names neither the key nor the fix.
"""

import json
from typing import Any

from finetune_api.generator.structural import Schema
from finetune_api.spec import CONFIG_SECTIONS

OPEN_OBJECT: Schema = {"type": ["object", "null"]}
# Keys of values that are no key of spec: Helm's own, the chart's, and what only the original chart knows.
CHART_KEYS: dict[str, Schema] = {
    "global": {"description": "Helm's own.", **OPEN_OBJECT},
    "fullnameOverride": {
        "description": "Name of the FineTuneJob. Default: the release's.",
        "type": ["string", "null"],
        "maxLength": 40,
    },
    "kaiwo": {
        "description": "Of the original chart; only enabled: false.",
        "type": ["object", "null"],
        "properties": {"enabled": {"type": ["boolean", "null"]}},
        "additionalProperties": False,
    },
    "model": {
        "description": "Of the original chart: the model's name, kept as an annotation.",
        "type": ["string", "null"],
    },
    "aimManifest": {"description": "Of the original chart, kept as an annotation.", **OPEN_OBJECT},
    "metadata": {"description": "Of the original chart, kept as an annotation.", **OPEN_OBJECT},
    "trainingData": {"description": "Of the original chart: path of the only dataset.", "type": ["string", "null"]},
    "batchSize": {
        "description": "Of the original chart: batchsize_conf.total_train_batch_size.",
        "type": ["integer", "null"],
        "minimum": 1,
    },
    "numberOfEpochs": {
        "description": "Of the original chart: overrides.num_train_epochs.",
        "type": ["number", "null"],
        "minimum": 0,
    },
}


def values_schema(spec: Schema) -> Schema:
    """The schema of values, from the structural schema of spec."""
    keys = {key: _convert(inner) for key, inner in spec["properties"].items()}
    keys["imagePullSecrets"]["items"]["type"] = ["object", "string"]  # the original chart lists plain names
    nested = {key: keys[key] for key in CONFIG_SECTIONS}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of finetune-job",
        "description": "Generated from finetune_api; do not edit. Every key of FineTuneJob's spec, in either layout.",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            **keys,
            "finetuning_config": {
                "description": "The sections of the engine's config schema, as in the original chart.",
                "type": ["object", "null"],
                "additionalProperties": False,
                "properties": nested,
            },
            **CHART_KEYS,
        },
    }


def _convert(schema: Schema, in_list: bool = False) -> Schema:
    """Draft-07 of one structural schema; required keys count in list items only, since layouts may share a section."""
    described = {"description": schema["description"]} if "description" in schema else {}
    if schema.get("x-kubernetes-int-or-string"):
        return {**described, "type": ["integer", "string", "null"]}
    if "type" not in schema:
        return described
    converted: Schema = {**described, "type": [schema["type"], "null"]}
    for keyword in ("minLength", "maxLength", "pattern", "minItems", "maxItems", "maxProperties"):
        if keyword in schema:
            converted[keyword] = schema[keyword]
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if bound in schema:
            converted[exclusive if schema.get(exclusive) else bound] = schema[bound]
    if "enum" in schema:
        converted["enum"] = [*schema["enum"], None]
    if "items" in schema:
        converted["items"] = _convert(schema["items"], in_list=True)
    if "properties" in schema:
        converted["additionalProperties"] = False
        converted["properties"] = {key: _convert(inner, in_list) for key, inner in schema["properties"].items()}
        if in_list and "required" in schema:
            converted["required"] = schema["required"]
    elif isinstance(schema.get("additionalProperties"), dict):
        converted["additionalProperties"] = _convert(schema["additionalProperties"])
    return converted


def to_text(schema: dict[str, Any]) -> str:
    """The file's content."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"

"""The values of the engine's chart: keys at the top, the config schema nested in finetuning_config or beside them.

Does what charts/finetune-job does with the same values (a test compares both), and besides takes the arguments of DPO
out of training_args, where the engine has them.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from finetune_api import dpo_config
from finetune_cli.converting.conversion import Conversion, show, whole

NESTED = "finetuning_config"
DESCRIPTIONS = {"model": "model", "aimManifest": "aim-manifest", "metadata": "model-metadata"}
SHORTCUTS = {"batchSize": "batchsize_conf.total_train_batch_size", "numberOfEpochs": "num_train_epochs"}
CHART_ONLY = ("global", "fullnameOverride", NESTED, "kaiwo", "trainingData", *DESCRIPTIONS, *SHORTCUTS)
LIFTED = ("num_train_epochs", "lr_multiplier", "lr_batch_size_scaling")
# Arguments that TRL's DPOConfig had once.
DPO_REMOVED = {
    **dict.fromkeys(("max_prompt_length", "max_completion_length"), "prompt and answer share dpo_args.max_seq_length"),
    **dict.fromkeys(
        ("model_adapter_name", "ref_adapter_name"),
        "the adapter is the model, its base model the reference",
    ),
}


def convert(given: Mapping[str, Any], conversion: Conversion) -> None:
    """Values to one spec."""
    values: dict[str, Any] = _without_nulls(copy.deepcopy(dict(given)), "", conversion)
    kaiwo = values.get("kaiwo")
    if isinstance(kaiwo, Mapping) and kaiwo.get("enabled"):
        fix = "Kaiwo does not manage a FineTuneJob: remove it, and set queueName to queue with Kueue"
        conversion.refuse("kaiwo.enabled", True, fix)
    elif kaiwo is not None:
        conversion.drop("kaiwo", kaiwo, "queueName queues with Kueue")
    nested = values.get(NESTED) or {}
    if not isinstance(nested, Mapping):
        conversion.refuse(NESTED, nested, "give the mapping of document 003")
        nested = {}
    spec = {key: value for key, value in values.items() if key not in CHART_ONLY}
    _merge(spec, nested, "", conversion)
    for key in nested:
        conversion.notes.append(f"{NESTED}.{key} -> {key}")
    conversion.spec = spec
    _shortcuts(values, conversion)
    _lifted(spec, conversion)
    _preferences(spec, conversion)
    _default_batch(spec, conversion)
    _pull_secrets(spec, conversion)
    _descriptions(values, conversion)


def _without_nulls(value: Any, path: str, conversion: Conversion) -> Any:
    if isinstance(value, dict):
        for key in [key for key, inner in value.items() if inner is None]:
            conversion.notes.append(f"{path}{key} is null: left out, its default counts")
            del value[key]
        for key, inner in value.items():
            _without_nulls(inner, f"{path}{key}.", conversion)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _without_nulls(inner, f"{path.removesuffix('.')}[{index}].", conversion)
    return value


def _merge(into: dict[str, Any], more: Mapping[str, Any], path: str, conversion: Conversion) -> None:
    """The keys of finetuning_config beside the same at the top: neither outranks the other."""
    for key, value in more.items():
        here = f"{path}.{key}".lstrip(".")
        if key not in into:
            into[key] = value
        elif isinstance(value, Mapping) and isinstance(into[key], dict):
            _merge(into[key], value, here, conversion)
        else:
            _same(conversion, here, into[key], f"{NESTED}.{here}", value)


def _same(conversion: Conversion, one: str, value: Any, other: str, more: Any) -> None:
    if value != more:
        fix = f"{one} is {show(value)} and means the same; give one of them, or the same value to both"
        conversion.refuse(other, more, fix)


def _shortcuts(values: Mapping[str, Any], conversion: Conversion) -> None:
    data = values.get("trainingData")
    if data:
        path = "data_conf.training_data"
        listed = [{"path": data}]
        known = conversion.get(f"{path}.datasets")
        if known is not None:
            _same(conversion, f"{path}.datasets", known, "trainingData", listed)
        else:
            conversion.put(f"{path}.datasets", listed, "trainingData", data)
        if conversion.get(f"{path}.type") is None:
            conversion.silent(f"{path}.type", "CONCATENATION")
    for key, path in SHORTCUTS.items():
        if key not in values:
            continue
        known = conversion.get(path)
        if known is not None:
            _same(conversion, path, known, key, values[key])
        else:
            conversion.put(path, values[key], key, values[key])


def _lifted(spec: Mapping[str, Any], conversion: Conversion) -> None:
    for key in LIFTED:
        nested = conversion.get(f"overrides.{key}")
        if key in spec and nested is not None:
            _same(conversion, key, spec[key], f"overrides.{key}", nested)


def _preferences(spec: dict[str, Any], conversion: Conversion) -> None:
    """The engine's training_args of method dpo are a DPOConfig; ours keep its own arguments in dpo_args."""
    arguments = spec.get("training_args")
    if spec.get("method") != "dpo" or not isinstance(arguments, dict):
        return
    for key in list(arguments):
        name, ours = f"training_args.{key}", dpo_config.OURS.get(key)
        if ours:
            value = arguments.pop(key)
            known = conversion.get(f"dpo_args.{ours}")
            if known is None:
                conversion.put(f"dpo_args.{ours}", value, name, value)
            else:
                _same(conversion, f"dpo_args.{ours}", known, name, value)
        elif key in dpo_config.REFUSED:
            conversion.refuse(name, arguments.pop(key), dpo_config.REFUSED[key])
        elif key in DPO_REMOVED:
            conversion.drop(name, arguments.pop(key), DPO_REMOVED[key])


def _default_batch(spec: Mapping[str, Any], conversion: Conversion) -> None:
    """As in the original chart: no total batch size means one sample per process and step."""
    sizes = spec.get("batchsize_conf")
    path = "batchsize_conf.total_train_batch_size"
    if not isinstance(sizes, Mapping) or conversion.get(path) is not None:
        return
    gpus = spec.get("finetuningGpus", 1)
    factors = (spec.get("nodes", 1), gpus or spec.get("cpuProcesses", 1))
    numbers = [whole(conversion, "nodes x finetuningGpus", one) for one in factors]
    if numbers[0] and numbers[1]:
        total = numbers[0] * numbers[1]
        conversion.default(path, total, path, "one sample per process and step")


def _pull_secrets(spec: dict[str, Any], conversion: Conversion) -> None:
    listed = spec.get("imagePullSecrets")
    if isinstance(listed, list) and any(isinstance(one, str) for one in listed):
        named = [{"name": one} if isinstance(one, str) else one for one in listed]
        conversion.put("imagePullSecrets", named, "imagePullSecrets", listed)


def _descriptions(values: Mapping[str, Any], conversion: Conversion) -> None:
    """What describes the model without steering the job."""
    if values.get("fullnameOverride"):
        conversion.name = str(values["fullnameOverride"])
        conversion.notes.append(f"fullnameOverride: {show(conversion.name)} -> metadata.name")
    if "global" in values:
        conversion.drop("global", values["global"], "it is Helm's own")
    for key, annotation in DESCRIPTIONS.items():
        value = values.get(key)
        if value:
            # Helm's toJson: sorted keys, no blanks.
            text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))
            text = text if key == "model" else json.dumps(value, sort_keys=True, separators=(",", ":"))
            conversion.annotations[f"finetune-operator.io/{annotation}"] = text
            conversion.notes.append(f"{key}: {show(value)} -> the annotation finetune-operator.io/{annotation}")

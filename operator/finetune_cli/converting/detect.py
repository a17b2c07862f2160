"""What a file is: Lamini's arguments, LLMForge's YAML, the chart's values, a script or its TrainingArguments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_api.constants import KIND
from finetune_api.parameters import parameters_of
from finetune_api.training_args import REMOVED, RENAMED, snapshot
from finetune_cli.converting import lamini, training_arguments
from finetune_cli.converting.python_source import Source, read_source
from finetune_cli.errors import CliError, UsageError

NAMES = {
    "lamini": "Lamini",
    "llmforge": "LLMForge",
    "helm": "the engine's chart",
    "training-arguments": "transformers",
}


def parse(text: str, name: str) -> Mapping[str, Any] | Source:
    """A mapping (JSON, YAML read as kubectl reads it, or a Python dict), or a Python source. Raises CliError."""
    from finetune_api.manifest import ManifestError, load_manifests

    suffix = Path(name).suffix
    if suffix == ".py":
        return _of_python(text, name)
    try:
        documents = load_manifests(text, name)
    except ManifestError as error:
        if suffix in (".yaml", ".yml", ".json"):
            raise CliError(str(error)) from None
        return _of_python(text, name)
    if len(documents) == 1 and isinstance(documents[0].document, dict):
        for path in documents[0].duplicates:
            place = documents[0].position(path)
            raise CliError(f"{name}:{place.line if place else ''}: {path[-1]} is given twice; keep one")
        return dict(documents[0].document)
    if suffix not in (".yaml", ".yml", ".json") and text.strip():
        return _of_python(text, name)
    raise CliError(f"{name}: one mapping is wanted, there are {len(documents)} documents, or it is none")


def _of_python(text: str, name: str) -> Mapping[str, Any] | Source:
    """A source that is nothing but a dict, or one assignment of a dict, counts as that dict."""
    source = read_source(text, name)
    if lamini.read(source) is not None or source.find(*training_arguments.ARGUMENT_CALLS):
        return source
    dicts = [one for one in (*source.literals, *source.values.values()) if isinstance(one, dict)]
    if len(dicts) == 1:
        return dict(dicts[0])
    raise CliError(f"{name}: there is no call of tune or TrainingArguments in it, and no dict that stands alone")


def detect(given: Mapping[str, Any] | Source, name: str) -> str:
    """The source's key in NAMES. Raises UsageError if it cannot be told."""
    if isinstance(given, Source):
        return "training-arguments" if lamini.read(given) is None else "lamini"
    if given.get("kind") == KIND:
        raise UsageError(f"{name} is a {KIND} already: finetune validate -f {name} checks it")
    keys = set(given)
    if keys & set(lamini.TUNE_KEYS[:3]):
        return "lamini"
    if keys & _chart_keys():
        return "helm"
    if keys & _llmforge_keys():
        return "llmforge"
    if keys & set(lamini.OWN_KEYS):
        return "lamini"
    if keys & ({*snapshot(), *RENAMED, *REMOVED}):
        return "training-arguments"
    raise UsageError(f"{name}: no known source has such keys ({', '.join(sorted(keys)[:5])}); give --from")


def _chart_keys() -> set[str]:
    """Sections of the config schema and keys of the chart, in YAML's spelling."""
    from finetune_api.spec import FineTuneJobSpec
    from finetune_cli.converting.helm import CHART_ONLY

    keys = {field.alias or name for name, field in FineTuneJobSpec.model_fields.items()} | {*CHART_ONLY}
    return keys - {*snapshot(), *RENAMED, *REMOVED}


def _llmforge_keys() -> set[str]:
    """Keys that only LLMForge has: what is an argument of transformers too says nothing."""
    keys = {row.key for row in parameters_of("001") if row.section != "lora_config"}
    return (keys | {"lora_config", "worker_resources"}) - {*snapshot(), *RENAMED, *REMOVED}

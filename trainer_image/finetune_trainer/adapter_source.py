"""Adapters before there is a GPU: fetching the one that PRETRAINED_PEFT names, and checking any against its base model.

Everything here reads files' names and headers only, so that a wrong name, type or size fails in the download pod.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_api.locations import Location, LocationError, parse_location
from finetune_api.peft_conf import GenericPeftConfig, PretrainedPeftConfig
from finetune_api.peft_kwargs import OWNED, argument_refusal, peft_fields
from finetune_api.peft_types import PEFT_TYPES
from finetune_api.quant_conf import BnBQuantizationConfig
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.adapter_modules import missing_modules, plain_names, stored_module_names
from finetune_trainer.errors import BadConfiguration, InputMissing
from finetune_trainer.transfer import download_tree, insist

log = logging.getLogger(__name__)

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def adapter_directory(spec: FineTuneJobSpec, work_dir: Path) -> Path | None:
    """Where the pretrained adapter lies in the download pod and in the train pod alike; None if none is named."""
    location = _named(spec)
    if location is None:
        return None
    return Path(location.path) if location.scheme == "local" else work_dir / "adapter"


def _named(spec: FineTuneJobSpec) -> Location | None:
    """peft_conf.name_or_path, where a bare org/name is a Hugging Face id, as document 003 has it."""
    if not isinstance(spec.peft_conf, PretrainedPeftConfig):
        return None
    text = spec.peft_conf.name_or_path
    try:
        return parse_location(text if "://" in text or text.startswith("/") else f"hf://{text}")
    except LocationError as error:
        raise BadConfiguration(f"peft_conf.name_or_path: {error}") from None


def fetch_adapter(spec: FineTuneJobSpec, work_dir: Path, credentials: dict[str, str]) -> None:
    """Downloads the adapter that peft_conf.name_or_path names, if it is remote. Raises TrainerErrors."""
    location, target = _named(spec), adapter_directory(spec, work_dir)
    if location is None or target is None:
        return
    if location.scheme == "hf":
        from huggingface_hub import snapshot_download

        log.info("adapter: %s", location.uri)
        folder = f"{location.path}/" if location.path else ""
        insist(
            lambda: snapshot_download(
                location.container, allow_patterns=[f"{folder}{CONFIG}", f"{folder}{WEIGHTS}"], local_dir=target
            ),
            location.uri,
            credentials.get("hf", "hfTokenSecret (HF_TOKEN)"),
        )
        for name in (CONFIG, WEIGHTS) if folder else ():
            if (target / location.path / name).is_file():
                (target / location.path / name).replace(target / name)
    elif location.scheme != "local":
        log.info("adapter: %s", location.uri)
        shutil.rmtree(target, ignore_errors=True)  # another adapter's files may have the very same sizes
        download_tree(location.uri, target, exclude=("*.bin", "*.pt"), credentials=credentials.get(location.scheme))
    read_adapter(target, location.uri)


def read_adapter(folder: Path, name: str) -> dict[str, Any]:
    """The configuration of a pretrained adapter that training can go on from. Raises InputMissing, BadConfiguration."""
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise InputMissing(
                f"peft_conf.name_or_path {name} has no {file}; name the folder of an adapter saved by PEFT"
            )
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputMissing(f"{CONFIG} of peft_conf.name_or_path {name} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise InputMissing(f"{CONFIG} of peft_conf.name_or_path {name} is no JSON object")
    problem = _cannot_continue(config)
    if problem:
        raise BadConfiguration(f"the adapter {name} of peft_conf.name_or_path cannot be trained further: {problem}")
    return config


def _cannot_continue(config: Mapping[str, Any]) -> str | None:
    kind = str(config.get("peft_type"))
    row = PEFT_TYPES.get(kind)
    if row is None or row.refused:
        return f"its type is {kind}; types that can be continued: {', '.join(_continued())}"
    if not row.continues or config.get("prefix_projection"):
        return f"the files of a {kind} adapter do not hold all that was trained; train a new one"
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        return f"its task_type is {config['task_type']}, not CAUSAL_LM"
    fields = peft_fields(kind) or {}
    refused = {key for key, _ in row.arguments}
    for key, value in config.items():
        if key in OWNED or value in (None, False, [], {}):
            continue
        if key not in fields:
            return f"PEFT here does not know its {key}, which is {json.dumps(value)}"
        # Some refused arguments only say what PEFT knows of the model: they are right in an adapter that exists.
        if row.virtual_tokens and key in refused:
            continue
        reason = argument_refusal(kind, key, value)
        if reason:
            return reason
    return None


def _continued() -> list[str]:
    return [name for name, row in PEFT_TYPES.items() if row.continues and not row.refused]


def check_adapter(spec: FineTuneJobSpec, added_tokens: int, tensors: Mapping[str, Any], work_dir: Path) -> None:
    """The adapter against its base model, whose stored weights are `tensors`. Raises BadConfiguration."""
    check_new_tokens(spec, added_tokens)
    kwargs: Mapping[str, Any] = {}
    folder = adapter_directory(spec, work_dir)
    if isinstance(spec.peft_conf, GenericPeftConfig):
        kwargs = spec.peft_conf.peft_kwargs
    elif folder is not None and isinstance(spec.peft_conf, PretrainedPeftConfig):
        kwargs = read_adapter(folder, spec.peft_conf.name_or_path)
    names = stored_module_names(tensors)
    problems = missing_modules(names, plain_names(kwargs)) if names else []
    if problems:
        raise BadConfiguration("; ".join(problems))


def check_new_tokens(spec: FineTuneJobSpec, added_tokens: int) -> None:
    """New tokens need embeddings that can be trained. Raises BadConfiguration."""
    if not added_tokens:
        return
    cause = (
        f"the tokenizer lacks {added_tokens} tokens that data_conf.chat_template_name "
        f"{spec.data_conf.chat_template_name} needs"
    )
    cure = "choose keep-original or mistral-with-system, or a model whose tokenizer has them"
    if isinstance(spec.quant_conf, BnBQuantizationConfig):
        raise BadConfiguration(
            f"{cause}, and the vocabulary of a quantised model cannot grow: {cure}, or remove quant_conf"
        )
    kind = spec.peft_conf.peft_type
    if kind == "PRETRAINED_PEFT":
        raise BadConfiguration(
            f"{cause}, but peft_conf.name_or_path is an adapter for the vocabulary as it is: {cure}, or train a new "
            "adapter"
        )
    if kind in PEFT_TYPES and not PEFT_TYPES[kind].grows:
        raise BadConfiguration(f"{cause}, and {kind} cannot train their embeddings: {cure}, or use LORA")

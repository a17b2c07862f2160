"""A Hugging Face script (document 004), or its TrainingArguments alone: method clm on plain text.

Only what the script says in literals is taken: the model, the dataset with its configuration, splits and text column,
the tokenizer's length and padding, TrainingArguments, LoraConfig. What its functions compute beside is not converted.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from finetune_api.training_args import default_of
from finetune_cli.converting.adapter import put_lora
from finetune_cli.converting.arguments import put_arguments
from finetune_cli.converting.conversion import Code, Conversion, whole
from finetune_cli.converting.places import model_location, put_model
from finetune_cli.converting.python_source import Call, Source
from finetune_cli.converting.script_data import put_data

ARGUMENT_CALLS = ("TrainingArguments", "Seq2SeqTrainingArguments")
PAD_TOKENS = {
    "tokenizer.eos_token": "eos-repurpose",
    "tokenizer.bos_token": "bos-repurpose",
    "tokenizer.unk_token": "unk-repurpose",
}
PREFIX = "TrainingArguments"
# Arguments of Trainer that are said elsewhere.
TRAINER_KEYS = ("model", "args", "train_dataset", "eval_dataset", "tokenizer", "processing_class", "data_collator")


def convert(arguments: Mapping[str, Any], conversion: Conversion) -> None:
    """TrainingArguments alone; --basemodel and --data give the rest."""
    conversion.choose("method", "clm", "TrainingArguments alone do not say; clm trains on plain text, sft on dialogues")
    conversion.silent("clm_args", {})
    conversion.silent("data_conf.validation_data", {"type": "NONE"})
    conversion.silent("peft_conf", {"peft_type": "NO_PEFT"})
    _arguments(arguments, conversion)


def convert_script(source: Source, conversion: Conversion) -> None:
    """A whole script."""
    conversion.silent("method", "clm")
    conversion.silent("clm_args", {})
    _model(source, conversion)
    put_data(source, conversion)
    _tokenizer(source, conversion)
    _adapter(source, conversion)
    _trainer(source, conversion)
    arguments: dict[str, Any] = {}
    for call in source.find(*ARGUMENT_CALLS):
        arguments |= dict(zip(("output_dir",), call.positional, strict=False)) | call.keywords
    _arguments(arguments, conversion)
    for call in source.find("save_pretrained", "save_model"):
        target = call.positional[0] if call.positional else Code("")
        why = "the model and its tokenizer are always saved, as checkpoint-final; checkpointsRemote copies them"
        conversion.drop(call.full_name, target, why)


def _arguments(arguments: Mapping[str, Any], conversion: Conversion) -> None:
    conversion.choose("finetuningGpus", 1, "a script run with python takes one GPU")
    put_arguments(
        conversion,
        arguments,
        prefix=PREFIX,
        processes=1,
        per_device=default_of("per_device_train_batch_size"),
        per_device_why="",
        defaults={},
    )
    half = any(conversion.get(f"training_args.{key}") is True for key in ("bf16", "fp16"))
    path = "run_conf.model_args.torch_dtype"
    if not half and conversion.get(path) is None:
        conversion.default(
            path, "float32", f"{PREFIX}.bf16 or fp16", "left out, the device would decide here", old="fp32"
        )


def _model(source: Source, conversion: Conversion) -> None:
    models = [one for one in source.find("from_pretrained") if "Model" in one.full_name]
    tokenizers = [one for one in source.find("from_pretrained") if "Tokenizer" in one.full_name]
    for call in models:
        kind = call.full_name.removesuffix(".from_pretrained")
        if not kind.endswith(("ForCausalLM", "LMHeadModel")):
            conversion.refuse(call.full_name, _first(call), "only causal language models can be trained")
    if not models:
        return
    name = _first(models[0])
    put_model(conversion, models[0].full_name, name)
    for key, value in models[0].keywords.items():
        _model_argument(conversion, key, value)
    if tokenizers and _first(tokenizers[0]) not in (name, None) and isinstance(_first(tokenizers[0]), str):
        other = _first(tokenizers[0])
        conversion.put("run_conf.tokenizer", model_location(other), tokenizers[0].full_name, other)


def _model_argument(conversion: Conversion, key: str, value: Any) -> None:
    from finetune_api.run_conf import ModelArguments

    name = f"from_pretrained.{key}"
    key = "torch_dtype" if key == "dtype" else key
    if key in ("config", "quantization_config") or isinstance(value, Code):
        conversion.refuse(name, value, "the program computes it; write run_conf.model_args or quant_conf by hand")
    elif key in ModelArguments.model_fields:
        conversion.put(f"run_conf.model_args.{key}", value, name, value)
    else:
        conversion.refuse(name, value, "run_conf.model_args has no such key; remove it")


def _first(call: Call) -> Any:
    """The name that from_pretrained is given."""
    return call.positional[0] if call.positional else call.keywords.get("pretrained_model_name_or_path")


def _tokenizer(source: Source, conversion: Conversion) -> None:
    """The call that turns text into tokens: column, length, padding, truncation."""
    for call in source.find("tokenizer"):
        if call.node.args and isinstance(call.node.args[0], ast.Subscript):
            column = call.node.args[0].slice
            if isinstance(column, ast.Constant) and isinstance(column.value, str):
                conversion.put("clm_args.text_key", column.value, "tokenizer's column", column.value)
        _lengths(call.keywords, conversion)
    side = source.values.get("tokenizer.padding_side")
    if isinstance(side, str):
        conversion.put("data_conf.padding_side", side, "tokenizer.padding_side", side)
    pad = source.values.get("tokenizer.pad_token")
    if isinstance(pad, Code) and pad.text in PAD_TOKENS:
        conversion.put("data_conf.missing_pad_token_strategy", PAD_TOKENS[pad.text], "tokenizer.pad_token", pad)
    elif pad is not None:
        conversion.refuse("tokenizer.pad_token", pad, f"use one of {', '.join(PAD_TOKENS)}")


def _lengths(given: Mapping[str, Any], conversion: Conversion) -> None:
    length, truncation, padding = given.get("max_length"), given.get("truncation"), given.get("padding")
    if length is not None and whole(conversion, "tokenizer.max_length", length):
        conversion.put("clm_args.block_size", length, "tokenizer.max_length", length)
    if truncation:
        conversion.put("clm_args.overlength", "truncate", "tokenizer.truncation", truncation)
    elif given:
        conversion.choose("clm_args.overlength", "drop", "the tokenizer does not truncate longer texts")
    if padding == "max_length":
        conversion.put("clm_args.padding", "max_length", "tokenizer.padding", padding)
    elif padding is not None:
        conversion.drop("tokenizer.padding", padding, "batches are padded to their longest text")
    for key, value in given.items():
        if key not in ("max_length", "truncation", "padding", "return_tensors", "text"):
            conversion.refuse(f"tokenizer.{key}", value, "it cannot be said in a manifest; remove it")


def _adapter(source: Source, conversion: Conversion) -> None:
    configs = source.find("LoraConfig")
    if not configs:
        conversion.silent("peft_conf", {"peft_type": "NO_PEFT"})
        return
    put_lora(conversion, configs[-1].keywords, "LoraConfig")


def _trainer(source: Source, conversion: Conversion) -> None:
    """Arguments of Trainer that are code have no meaning in a manifest."""
    for call in source.find("Trainer", "SFTTrainer"):
        for key, value in call.keywords.items():
            if key not in TRAINER_KEYS:
                conversion.refuse(f"Trainer.{key}", value, "code cannot stand in a manifest; remove it")

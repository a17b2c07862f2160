"""The result: a model or adapter that others can load, with tokenizer, chat template, card and training arguments."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finetune_trainer.train import manifest
from finetune_trainer.train.adapters import adapter_type, merged
from finetune_trainer.train.checkpoint import save_weights
from finetune_trainer.train.model_card import Card, model_card
from finetune_trainer.train.one_task import EXPORTED_AS, save_as_one_task


@dataclass(frozen=True)
class Export:
    """What goes beside the weights. dtype: of the exported weights. base_name: what an adapter says its base is."""

    tokenizer: Any
    stop_token_ids: tuple[int, ...]
    pad_token_id: int
    base_name: str
    use_cache: bool
    dtype: torch.dtype
    training_arguments: dict[str, Any]
    card: Card
    facts: dict[str, Any]


def export_result(model: Any, target: Path, export: Export) -> None:
    """Writes the trained model, or the adapter alone, as a complete folder."""
    is_adapter = hasattr(model, "peft_config")
    if is_adapter:
        for config in model.peft_config.values():
            config.base_model_name_or_path = export.base_name
            if getattr(config, "tokenizer_name_or_path", None):  # the folder in this pod, for a prompt from a text
                config.tokenizer_name_or_path = export.base_name
    else:
        model.to(export.dtype)
    _restore(model, export)

    kind = adapter_type(model)

    def write(folder: Path) -> None:
        if kind in EXPORTED_AS:
            save_as_one_task(model, kind, folder)
        else:
            save_weights(model, folder)
        _write_companions(folder, model, export, kind="adapter" if is_adapter else "model")

    manifest.write_folder(target, write, export.facts)


def export_merged(model: Any, target: Path, export: Export) -> None:
    """Writes the model with the adapter merged into it; the adapter model cannot be used afterwards. The base inside
    must not be quantised."""
    plain = merged(model, export.dtype)
    _restore(plain, export)

    def write(folder: Path) -> None:
        plain.save_pretrained(str(folder))
        _write_companions(folder, plain, export, kind="merged")

    manifest.write_folder(target, write, export.facts)


def export_base(model: Any, tokenizer: Any, target: Path, facts: dict[str, Any]) -> None:
    """Writes the base model whose vocabulary grew, which the adapter needs from now on."""

    def write(folder: Path) -> None:
        model.save_pretrained(str(folder))
        tokenizer.save_pretrained(str(folder))

    manifest.write_folder(target, write, facts)


def _restore(model: Any, export: Export) -> None:
    """The configuration that users of the model want, not the one of training."""
    model.config.use_cache = export.use_cache
    generation = model.generation_config
    stops = list(export.stop_token_ids)
    generation.eos_token_id = stops[0] if len(stops) == 1 else stops or None
    generation.pad_token_id = export.pad_token_id
    generation.use_cache = export.use_cache


def _write_companions(folder: Path, model: Any, export: Export, kind: str) -> None:
    export.tokenizer.save_pretrained(str(folder))
    model.generation_config.save_pretrained(str(folder))
    text = json.dumps(export.training_arguments, indent=1, sort_keys=True, default=str) + "\n"
    (folder / "training_args.json").write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(model_card(export.card, kind), encoding="utf-8")


def make_saveable(model: Any) -> None:
    """Puts right a generation configuration that transformers loads but will not save: temperature without sampling."""
    generation = getattr(model, "generation_config", None)
    if generation is None:
        return
    try:
        generation.validate(strict=True)
    except ValueError:
        generation.do_sample = True

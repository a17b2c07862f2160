"""PEFT's LoraConfig as peft_conf: its keys are the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_cli.converting.conversion import Code, Conversion


def put_lora(conversion: Conversion, given: Mapping[str, Any], prefix: str) -> None:
    """LoraConfig's arguments as peft_conf."""
    conversion.put("peft_conf.peft_type", "LORA", prefix, dict(given))
    conversion.silent("peft_conf.peft_kwargs", {})
    for key, value in given.items():
        if key == "task_type" and value is not None:
            task = value.text.rpartition(".")[2] if isinstance(value, Code) else value  # TaskType.CAUSAL_LM
            conversion.put("peft_conf.task_type", task, f"{prefix}.{key}", value)
        elif value is not None:
            conversion.put(f"peft_conf.peft_kwargs.{key}", value, f"{prefix}.{key}", value)

"""The rules of peft_conf and quant_conf: what an adapter type, a quantised base and other sections mean together."""

from collections.abc import Iterator, Mapping
from typing import Any

from finetune_api.peft_types import ON_QUANTISED, PEFT_TYPES, cannot_merge_message
from finetune_api.violations import Violation

Spec = Mapping[str, Any]
# Options that say nothing with the other number of bits, and their defaults.
ONLY_4BIT = {
    "bnb_4bit_compute_dtype": None,
    "bnb_4bit_quant_type": "fp4",
    "bnb_4bit_use_double_quant": False,
    "bnb_4bit_quant_storage": None,
}
ONLY_8BIT = {"llm_int8_threshold": 6.0, "llm_int8_has_fp16_weight": False}


def _section(spec: Spec, key: str) -> Spec:
    given = spec.get(key)
    return given if isinstance(given, Mapping) else {}


def quantises(spec: Spec) -> bool:
    """Whether raw spec data asks for a quantised base model."""
    given = spec.get("quant_conf")
    return isinstance(given, Mapping) and given.get("quantization_type") != "no-quantization"


def check_adapter(spec: Spec) -> Iterator[Violation]:
    """A known adapter type against its row of the table."""
    peft = _section(spec, "peft_conf")
    peft_type = peft.get("peft_type")
    row = PEFT_TYPES.get(peft_type) if isinstance(peft_type, str) else None
    if row is None or row.refused:
        return
    assert isinstance(peft_type, str)
    given = peft.get("peft_kwargs")
    kwargs: Spec = given if isinstance(given, Mapping) else {}
    where = ("peft_conf", "peft_kwargs")
    for key in row.required:
        if kwargs.get(key) is None:
            yield Violation(where, f"{peft_type} needs peft_kwargs.{key}; PEFT has no default for it")
    if kwargs.get("prompt_tuning_init") == "TEXT" and not kwargs.get("prompt_tuning_init_text"):
        yield Violation(where, "prompt_tuning_init TEXT needs peft_kwargs.prompt_tuning_init_text")
    if spec.get("mergeAdapter") is True and not row.merges:
        yield Violation(("mergeAdapter",), cannot_merge_message(peft_type))
    arguments = _section(spec, "training_args")
    for key in ("gradient_checkpointing", "activation_checkpointing"):
        if peft_type in ("PREFIX_TUNING", "POLY") and arguments.get(key) is True:
            yield Violation(("training_args", key), f"{key} does not work with {peft_type}; remove it")


def check_quantization(spec: Spec) -> Iterator[Violation]:
    """quant_conf in itself, and what can be trained on a quantised base."""
    if not quantises(spec):
        return
    given = _section(spec, "quant_conf")
    eight, four = given.get("load_in_8bit") is True, given.get("load_in_4bit") is True
    if eight and four:
        yield Violation(("quant_conf", "load_in_4bit"), "load_in_8bit and load_in_4bit are both true; keep one")
    if not eight and not four:
        yield Violation(
            ("quant_conf",),
            "quant_conf quantises nothing; set load_in_4bit: true or load_in_8bit: true, or quantization_type: "
            "no-quantization",
        )
    for bits, only, others in (("4", ONLY_4BIT, eight), ("8", ONLY_8BIT, four)):
        for key, default in only.items():
            value = given.get(key)
            if others and not (eight and four) and value is not None and value != default:
                yield Violation(("quant_conf", key), f"{key} has an effect only with load_in_{bits}bit; remove it")
    peft_type = _section(spec, "peft_conf").get("peft_type")
    if peft_type == "NO_PEFT":
        yield Violation(
            ("peft_conf", "peft_type"),
            "quantised weights cannot be trained; use an adapter (LORA is the usual one) or remove quant_conf",
        )
    elif isinstance(peft_type, str) and peft_type in PEFT_TYPES and peft_type not in ON_QUANTISED:
        yield Violation(
            ("peft_conf", "peft_type"),
            f"PEFT has no {peft_type} for quantised weights; use one of {', '.join(ON_QUANTISED)}, or no quant_conf",
        )

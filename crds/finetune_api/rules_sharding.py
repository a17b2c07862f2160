"""What cannot be trained while the weights themselves are split over the processes, and what to do instead."""

from collections.abc import Iterator, Mapping
from typing import Any

from finetune_api.sharding import check_custom, sharding_of
from finetune_api.violations import Violation

# State of the same shape as its weight, or one number: a share of the weight has its share of the state.
OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop")
ADAPTERS = ("NO_PEFT", "LORA")


def check_sharding(spec: Mapping[str, Any], processes: int) -> Iterator[Violation]:
    """Of customAccelerateConfig, and of keys that do not go with split weights."""
    bad = list(check_custom(spec, processes))
    yield from bad
    kind, custom = spec.get("distributedType"), spec.get("customAccelerateConfig")
    if bad or not isinstance(kind, str):
        return
    if not sharding_of(kind, custom if isinstance(custom, Mapping) else None, processes).parameters:
        return
    for path, wrong, why in _conflicts(spec):
        if wrong:
            yield Violation(path, f"{'.'.join(path)}: {why}, which {kind} splits over the processes; {FIX}")


FIX = "change it, or use auto-ddp or auto-deepspeed-stage1"


def _conflicts(spec: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], bool, str]]:
    """(key, whether it conflicts, what it needs whole)."""
    arguments, adapter = _section(spec, "training_args"), _section(spec, "peft_conf")
    peft_type = adapter.get("peft_type")
    optimizer = arguments.get("optim")
    yield (
        ("quant_conf",),
        isinstance(spec.get("quant_conf"), Mapping)
        and _section(spec, "quant_conf").get("quantization_type") != "no-quantization",
        "quantised weights can only be computed with whole",
    )
    yield (
        ("peft_conf", "peft_type"),
        isinstance(peft_type, str) and peft_type not in ADAPTERS,
        (f"{peft_type} works on whole weights ({' and '.join(ADAPTERS)} do not)"),
    )
    yield (
        ("training_args", "optim"),
        isinstance(optimizer, str) and optimizer not in OPTIMIZERS,
        (f"{optimizer} works on whole weights ({', '.join(OPTIMIZERS)} do not)"),
    )
    yield ("training_args", "fp16"), arguments.get("fp16") is True, "fp16 scales whole gradients (bf16 does not)"
    auto = _section(spec, "overrides").get("auto")
    yield ("overrides", "auto"), bool(auto), "the searches try steps on whole weights"
    prompts = _section(spec, "evaluation_conf").get("sample_prompts")
    yield ("evaluation_conf", "sample_prompts"), bool(prompts), "rank 0 writes samples with the whole weights"
    yield ("method",), spec.get("method") == "dpo", "dpo asks the reference model, which is the whole one"


def _section(spec: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = spec.get(key)
    return value if isinstance(value, Mapping) else {}

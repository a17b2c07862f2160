"""Base models quantised by bitsandbytes while they are loaded: 8 bits (LLM.int8) or 4 (QLoRA), on GPU and CPU.

Only adapters are trained on them. In mixed precision norms are held in fp32, as QLoRA has it; embeddings and head keep
their type (PEFT's prepare_model_for_kbit_training would double their memory for nothing: autocast multiplies in 16 bits
all the same). The merge never goes into quantised weights, which would quantise the adapter too, but into the original
ones.
"""

import logging
from typing import Any

import torch

from finetune_trainer.errors import BadConfiguration


def quantization_config(arguments: dict[str, Any]) -> Any:
    """transformers.BitsAndBytesConfig for the arguments of quant_conf. Raises BadConfiguration."""
    try:
        import bitsandbytes
    except (ImportError, RuntimeError) as error:
        raise BadConfiguration(f"quant_conf needs bitsandbytes, which cannot be loaded here: {error}") from None
    from transformers import BitsAndBytesConfig

    # It says with every single multiplication that LLM.int8 computes in 16 bits.
    logging.getLogger(f"{bitsandbytes.__name__}.autograd._functions").setLevel(logging.ERROR)
    return BitsAndBytesConfig(**arguments)


def prepare_quantised(model: Any, arguments: dict[str, Any], *, mixed: bool) -> None:
    """Makes a quantised model ready for an adapter. mixed: whether autocast brings types together.

    Raises BadConfiguration for modules that do not exist.
    """
    names = [name for name, _ in model.named_modules()]
    for wanted in arguments.get("llm_int8_skip_modules") or ():
        if not any(wanted in name.split(".") or name.endswith(wanted) for name in names):
            last = sorted({name.rpartition(".")[2] for name, one in model.named_modules() if hasattr(one, "weight")})
            raise BadConfiguration(
                f"quant_conf.llm_int8_skip_modules names {wanted!r}, but the model has no such module; it has "
                + ", ".join(name for name in last if not name.isdigit())
            )
    kept = arguments.get("llm_int8_has_fp16_weight")  # then only the layers know
    if not kept and not any(is_quantised(parameter) for parameter in model.parameters()):
        raise BadConfiguration(
            f"quant_conf quantises nothing of {type(model).__name__}: it has no linear layers that bitsandbytes knows"
        )
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # Where a CPU has AVX512-BF16, the first evaluation would repack 4-bit weights in place for a kernel that
            # computes in bf16, whatever bnb_4bit_compute_dtype says, and fails unless 32 divides the layer's outputs.
            module.support_avx512bf16_for_cpu = False
        if not mixed or isinstance(module, torch.nn.Linear | torch.nn.Embedding):
            continue
        for parameter in module.parameters(recurse=False):
            if parameter.ndim == 1 and parameter.dtype in (torch.float16, torch.bfloat16):
                parameter.data = parameter.data.float()
    model.requires_grad_(False)


def is_quantised(parameter: Any) -> bool:
    """Whether a weight is held in bitsandbytes' form."""
    return type(parameter).__name__ in ("Params4bit", "Int8Params")


def stored_elements(parameter: Any) -> int:
    """Weights in a parameter: 4-bit ones are packed, two to a byte."""
    if type(parameter).__name__ == "Params4bit":
        return int(parameter.numel() * parameter.element_size() * 2)
    return int(parameter.numel())

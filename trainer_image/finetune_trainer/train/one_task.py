"""Adapters for several tasks, trained for one: exported as the single-task adapter that computes the very same.

PEFT cannot generate with MULTITASK_PROMPT_TUNING or POLY, whatever task is named. But with one task the first is a
learned prompt times a low-rank matrix, so a learned prompt; and POLY's mixture of skills, fixed once it is trained, is
one LoRA. Both are usable everywhere, and the LoRA can be merged.
"""

from pathlib import Path
from typing import Any

import torch

EXPORTED_AS = {"MULTITASK_PROMPT_TUNING": "PROMPT_TUNING", "POLY": "LORA"}
_ADAPTER = "default"


def save_as_one_task(model: Any, kind: str, folder: Path) -> None:
    """Writes the adapter of a model in training, of a type in EXPORTED_AS, in PEFT's format."""
    from safetensors.torch import save_file

    model.eval()
    with torch.no_grad():
        config, tensors = (_learned_prompt if kind == "MULTITASK_PROMPT_TUNING" else _one_lora)(model)
    config.inference_mode = True
    save_file(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    config.save_pretrained(str(folder))


def _learned_prompt(model: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    from peft import PromptTuningConfig

    given, encoder = model.peft_config[_ADAPTER], model.prompt_encoder[_ADAPTER]
    embeddings = encoder.embedding.weight * (encoder.prefix_task_cols[0] @ encoder.prefix_task_rows[0])
    shape = ("num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers")
    config = PromptTuningConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=given.base_model_name_or_path,
        **{name: getattr(given, name) for name in shape},
    )
    return config, {"prompt_embeddings": embeddings}


def _one_lora(model: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    from peft import LoraConfig, get_peft_model_state_dict
    from peft.tuners.poly.layer import PolyLayer

    given = model.peft_config[_ADAPTER]
    config = LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=given.base_model_name_or_path,
        r=given.r,
        lora_alpha=1,  # POLY divides by r, as alpha / r does
        target_modules=given.target_modules,
        exclude_modules=given.exclude_modules,
        modules_to_save=given.modules_to_save,
    )
    stored = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {name: value for name, value in stored.items() if ".poly_" not in name}
    for name, layer in model.named_modules():
        if not isinstance(layer, PolyLayer):
            continue
        (weights,) = layer.poly_router[_ADAPTER](torch.zeros(1, dtype=torch.long), None)
        down = torch.einsum("qs,qsdr->qdr", weights, layer.poly_lora_A[_ADAPTER])
        up = torch.einsum("qs,qsrd->qrd", weights, layer.poly_lora_B[_ADAPTER])
        tensors[f"{name}.lora_A.weight"] = down.reshape(layer.in_features, given.r).T
        tensors[f"{name}.lora_B.weight"] = up.transpose(0, 1).reshape(given.r, layer.out_features).T
    return config, tensors

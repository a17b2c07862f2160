"""Adapters: which are put onto the model, and how they come off again into a merged one.

PEFT does the work; which of its arguments are supported is the API's table (finetune_api/peft_kwargs.py). What PEFT
would do wrongly in silence is put right here: LoRA on the embedding and the head of a model that ties them.
"""

import copy
from typing import Any

import torch

from finetune_trainer.errors import BadConfiguration
from finetune_trainer.train.settings import AdapterSettings


def add_adapter(model: Any, settings: AdapterSettings, new_tokens: bool) -> Any:
    """The model with the adapter to be trained. Draws initial weights from the current random state.

    new_tokens: the tokenizer got new tokens, whose rows of the embeddings must be trained along.
    Raises BadConfiguration.
    """
    import peft

    if settings.kind != "LORA":
        raise BadConfiguration(f"peft_conf.peft_type {settings.kind} is not supported; use LORA or NO_PEFT")
    kwargs = copy.deepcopy(settings.kwargs)
    if new_tokens:
        names = [_name_of(model, model.get_input_embeddings()), _name_of(model, model.get_output_embeddings())]
        kwargs["modules_to_save"] = sorted({*(kwargs.get("modules_to_save") or []), *(name for name in names if name)})
    if _touches_embeddings(model, kwargs):
        untie(model)
    try:
        return peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **kwargs))
    except (ValueError, TypeError) as error:
        raise BadConfiguration(f"peft_conf.peft_kwargs do not fit this model: {error}") from None


def _name_of(model: Any, module: Any) -> str | None:
    """The last part of a module's name, by which PEFT chooses modules."""
    for name, candidate in model.named_modules():
        if candidate is module and module is not None:
            return str(name).rpartition(".")[2]
    return None


def tied(model: Any) -> bool:
    """Whether embedding and head are one tensor."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and head.weight is embedding.weight


def _touches_embeddings(model: Any, kwargs: dict[str, Any]) -> bool:
    """Whether embedding or head get weights of their own from the adapter."""
    if kwargs.get("ensure_weight_tying"):
        return False
    names = {_name_of(model, model.get_input_embeddings()), _name_of(model, model.get_output_embeddings())} - {None}
    chosen: list[str] = []
    for key in ("target_modules", "modules_to_save"):
        value = kwargs.get(key)
        chosen += [value] if isinstance(value, str) else list(value or [])
    return any(one == name or one.endswith(f".{name}") for one in chosen for name in names)


def untie(model: Any) -> None:
    """Gives the head weights of its own, equal to the embedding's.

    A merge into tied weights would add both adapters to the one tensor: wrong logits without an error.
    """
    if not tied(model):
        return
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=head.weight.requires_grad)
    model.config.tie_word_embeddings = False


def base_of(model: Any) -> Any:
    """The transformers model inside a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def merged(model: Any, dtype: torch.dtype) -> Any:
    """A plain transformers model with the adapter merged, in `dtype`; the adapter model is consumed.

    Computed in fp32: merging in bf16 would round the adapter's product away. Weights are rounded once, after the sum.
    """
    try:
        whole = model.float()
    except torch.OutOfMemoryError:
        whole = model.cpu().float()
    return whole.merge_and_unload(safe_merge=True).to(dtype)

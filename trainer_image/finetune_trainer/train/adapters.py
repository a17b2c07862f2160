"""Adapters: which are put onto the model, and how they come off again into a merged one.

PEFT does the work; what each type can do is the API's table (finetune_api/peft_types.py). What PEFT would do wrongly in
silence is put right here: LoRA on the embedding and the head of a model that ties them, names that no module has, types
that need to be told a row's task.
"""

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import torch

from finetune_api.peft_types import CANNOT_MERGE, PEFT_TYPES
from finetune_trainer.adapter_modules import missing_modules
from finetune_trainer.adapter_source import CONFIG, WEIGHTS, read_adapter
from finetune_trainer.errors import BadConfiguration
from finetune_trainer.train.settings import AdapterSettings

# AdaLoRA's config insists on a number of steps, which is known only when the loop is built (adapter_steps.py sets it).
UNKNOWN_STEPS = 1_000_000_000
_NEED_A_TASK = ("MULTITASK_PROMPT_TUNING", "POLY")
_REFUSED_BY_PEFT = (ValueError, TypeError, AssertionError, KeyError, ImportError, NotImplementedError, RuntimeError)


def add_adapter(model: Any, settings: AdapterSettings, new_tokens: bool, tokenizer: Path | None = None) -> Any:
    """The model with the adapter to be trained. Draws initial weights from the current random state.

    new_tokens: the tokenizer got new tokens, whose rows of the embeddings must be trained along. tokenizer: its folder,
    for prompts that begin as a text. Raises BadConfiguration.
    """
    if settings.source is not None:
        return _continue_adapter(model, settings.source)
    kwargs = copy.deepcopy(settings.kwargs)
    if new_tokens:
        kwargs["modules_to_save"] = _with_embeddings(model, settings.kind, kwargs.get("modules_to_save"))
    _check_modules(model, kwargs)
    if _touches_embeddings(model, kwargs):
        untie(model)
    if settings.kind == "ADALORA":
        kwargs.setdefault("total_step", UNKNOWN_STEPS)
    if kwargs.get("prompt_tuning_init") == "TEXT":
        kwargs["tokenizer_name_or_path"] = str(tokenizer)
    from peft import get_peft_model
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    configs = {str(getattr(kind, "value", kind)): config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    try:
        adapted = get_peft_model(model, configs[settings.kind](task_type="CAUSAL_LM", **kwargs))
    except torch.OutOfMemoryError:
        raise
    except _REFUSED_BY_PEFT as error:
        raise BadConfiguration(f"peft_conf.peft_kwargs do not fit this model: {_text(error)}") from None
    if settings.kind in _NEED_A_TASK:
        adapted.register_forward_pre_hook(_give_task, with_kwargs=True)
    return adapted


def _continue_adapter(model: Any, folder: Path) -> Any:
    """The model with an adapter trained before, to be trained further."""
    from peft import PeftConfig, PeftModel

    given = read_adapter(folder, str(folder))
    if _touches_embeddings(model, given):
        untie(model)
    try:
        config = PeftConfig.from_pretrained(str(folder))
        config.task_type, config.inference_mode = "CAUSAL_LM", False
        if PEFT_TYPES[given["peft_type"]].virtual_tokens:  # PEFT loads these for inference only
            adapted = _with_prompt(model, config, folder)
        else:
            adapted = PeftModel.from_pretrained(model, str(folder), config=config, is_trainable=True)
    except torch.OutOfMemoryError:
        raise
    except _REFUSED_BY_PEFT as error:
        raise BadConfiguration(
            f"the adapter of peft_conf.name_or_path does not fit this base model: {_text(error)}; it was trained on "
            f"{given.get('base_model_name_or_path') or 'another one'}"
        ) from None
    _check_all_loaded(adapted, folder)
    return adapted


def _with_prompt(model: Any, config: Any, folder: Path) -> Any:
    from peft import get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    if hasattr(config, "prompt_tuning_init"):  # it has begun already
        config.prompt_tuning_init, config.tokenizer_name_or_path = "RANDOM", None
    adapted = get_peft_model(model, config)
    set_peft_model_state_dict(adapted, load_file(folder / WEIGHTS))
    return adapted


def with_adapter(base: Any, folder: Path) -> Any:
    """A base model with an exported adapter, to be merged."""
    from peft import PeftModel

    if _touches_embeddings(base, json.loads((folder / CONFIG).read_text(encoding="utf-8"))):
        untie(base)
    return PeftModel.from_pretrained(base, str(folder))


def _check_all_loaded(model: Any, folder: Path) -> None:
    """PEFT warns of weights that found no place, and trains on without them."""
    from safetensors import safe_open

    with safe_open(folder / WEIGHTS, "pt") as file:
        stored = set(file.keys())
    from peft import get_peft_model_state_dict

    expected = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    if stored != expected:
        lost, absent = sorted(stored - expected)[:2], sorted(expected - stored)[:2]
        raise BadConfiguration(
            "the adapter of peft_conf.name_or_path does not fit this base model: "
            + (f"the model has no place for {', '.join(lost)}" if lost else f"it lacks {', '.join(absent)}")
        )


def _give_task(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Rows carry no task, so all are task 0; not while the adapter is switched off, when the base model is called."""
    ids = kwargs.get("input_ids", args[0] if args else None)
    switched_off = getattr(module.forward, "__self__", module) is not module  # PEFT puts the base model's in its place
    if "task_ids" not in kwargs and not switched_off and ids is not None:
        kwargs["task_ids"] = torch.zeros(ids.shape[0], dtype=torch.long, device=ids.device)
    return args, kwargs


def adapter_type(model: Any) -> str | None:
    """The PEFT type of a model's adapter; None if it has none."""
    if not hasattr(model, "peft_config"):
        return None
    kind = model.peft_config["default"].peft_type
    return str(getattr(kind, "value", kind))


def can_merge(model: Any) -> bool:
    """Whether the model's adapter can be merged."""
    return adapter_type(model) not in (None, *CANNOT_MERGE)


def check_merge(model: Any) -> None:
    """Refuses before training what PEFT refuses when it merges. Raises BadConfiguration."""
    for name, layer in model.named_modules():
        if any(getattr(layer, "lora_bias", {}).values()) and getattr(layer.get_base_layer(), "bias", None) is None:
            raise BadConfiguration(
                f"peft_conf.peft_kwargs.lora_bias cannot be merged into {name}, which has no bias; remove it, or set "
                "mergeAdapter: false"
            )


def has_virtual_tokens(model: Any) -> bool:
    """Whether learned positions come before those of every row: rows must then be padded on the right, since PEFT
    gives padding on the left positions of its own between the two."""
    kind = adapter_type(model)
    return kind is not None and kind in PEFT_TYPES and PEFT_TYPES[kind].virtual_tokens


def _check_modules(model: Any, kwargs: dict[str, Any]) -> None:
    problems = missing_modules([name for name, _ in model.named_modules()], kwargs)
    parameters = [name for name, _ in model.named_parameters()]
    for one in kwargs.get("target_parameters") or ():
        if not any(name == one or name.endswith(f".{one}") for name in parameters):
            problems.append(f"peft_conf.peft_kwargs.target_parameters names {one!r}, but the model has no such one")
    if problems:
        raise BadConfiguration("; ".join(problems))


def _with_embeddings(model: Any, kind: str, chosen: Any) -> list[str]:
    """modules_to_save with the embeddings and the head, which learn the new tokens."""
    if kind in PEFT_TYPES and not PEFT_TYPES[kind].grows:
        raise BadConfiguration(f"the chat template adds tokens, and {kind} cannot train their embeddings; use LORA")
    names = [_name_of(model, model.get_input_embeddings()), _name_of(model, model.get_output_embeddings())]
    return sorted({*([chosen] if isinstance(chosen, str) else chosen or []), *(name for name in names if name)})


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

    Computed in fp32, layer by layer: merging in bf16 would round the adapter's product away, and the whole model in
    fp32 may not fit where it was trained. Weights are rounded once, after the sum.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    outer = {name: module for name, module in layers.items() if not any(_inside(name, other) for other in layers)}
    for name, layer in outer.items():
        try:
            layer.float()
        except torch.OutOfMemoryError:
            model.cpu()
            layer.float()
        for inner in [layer, *(module for other, module in layers.items() if _inside(other, name))]:
            inner.merge(safe_merge=True)
        layer.get_base_layer().to(dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*already merged")
        return model.merge_and_unload(safe_merge=True).to(dtype)


def _inside(name: str, other: str) -> bool:
    return name.startswith(f"{other}.")


def _text(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines()]
    return " ".join(lines[:2])[:400] or type(error).__name__

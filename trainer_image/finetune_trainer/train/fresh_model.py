"""Document 004's model hyperparameters: dropout for any model, sizes for one that is trained from scratch.

A model from scratch takes the base model's config.json, with the sizes that were asked for, and seeded random weights;
no weight files are read. A pretrained model keeps its sizes, since its weights have them, but dropout is no weight.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.errors import BadConfiguration, InputMissing
from finetune_trainer.remote_code import trusts_model

_KEY = "run_conf.model_hyperparameters"
# Configurations name a dropout probability in many ways (attn_pdrop, hidden_dropout, attention_probs_dropout_prob…).
# Classifiers' heads are no part of a language model; layerdrop leaves out whole layers, which is something else.
_DROPOUT = re.compile(r"^(?!classifier|summary)(.*_)?(dropout|pdrop|dropout_prob|dropout_p)$")
_DROPOUT_SECTIONS = ("attn_config",)  # MPT and DBRX keep attention's own probability in a section
# What transformers' attribute_map does not tell.
_ALIASES = {"intermediate_size": ("n_inner", "ffn_dim", "ffn_hidden_size"), "num_key_value_heads": ("num_kv_heads",)}
_FAULTS = (ValueError, TypeError, KeyError, IndexError, AssertionError, RuntimeError, AttributeError)


@dataclass(frozen=True)
class Hyperparameters:
    """What run_conf says about the model itself. changes: the model_hyperparameters given, by their names there."""

    from_scratch: bool = False
    changes: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    @property
    def wanted(self) -> bool:
        """Whether the base model is changed at all."""
        return self.from_scratch or bool(self.changes)


def read_hyperparameters(spec: FineTuneJobSpec, seed: int) -> Hyperparameters:
    """run_conf's from_scratch and model_hyperparameters, with the job's seed for random weights."""
    given = spec.run_conf.model_hyperparameters
    return Hyperparameters(
        from_scratch=spec.run_conf.from_scratch,
        changes=given.model_dump(exclude_none=True) if given else {},
        seed=seed,
    )


def changed_config(folder: Path, hyperparameters: Hyperparameters, trusted: bool = False) -> Any:
    """The base model's configuration with what was asked for. trusted: its code may run.

    Raises InputMissing or BadConfiguration.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trusted)
    except OSError as error:
        raise InputMissing(f"{folder} holds no config.json that can be read: {_words(error)}") from None
    except (ValueError, KeyError) as error:
        raise BadConfiguration(f"the model in {folder} is unknown to transformers: {_words(error)}") from None
    _check_kind(config)
    fields = config.to_dict()
    given = dict(hyperparameters.changes)
    if "dropout" in given:
        _set_dropout(fields, float(given.pop("dropout")), config.model_type)
    if given:
        _set_sizes(config, fields, given)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):  # of the vocabulary that was
        if isinstance(fields.get(name), int) and fields[name] >= fields.get("vocab_size", fields[name] + 1):
            fields[name] = None
    try:
        return type(config)(**fields)
    except (*_FAULTS, StrictDataclassError) as error:
        raise BadConfiguration(f"{_KEY} do not fit a {config.model_type}: {_words(error)}") from None


def check_vocabulary(hyperparameters: Hyperparameters, tokens: int) -> None:
    """Raises BadConfiguration if the vocabulary asked for has no room for the tokenizer's tokens."""
    asked = hyperparameters.changes.get("vocab_size")
    if asked is not None and asked < tokens:
        raise BadConfiguration(
            f"{_KEY}.vocab_size is {asked}, but the tokenizer has {tokens} tokens: make it {tokens} or more, or name a "
            "smaller tokenizer in run_conf.tokenizer"
        )


def check_early(spec: FineTuneJobSpec, folder: Path, tokens: int) -> Any:
    """What the download pod can tell of a changed model before a GPU is asked for: its configuration, or None if the
    base model is taken as it is. Raises InputMissing or BadConfiguration. Imports torch only for a changed model."""
    hyperparameters = read_hyperparameters(spec, seed=0)
    if not hyperparameters.wanted:
        return None
    check_vocabulary(hyperparameters, tokens)
    config = changed_config(folder, hyperparameters, trusts_model(spec))
    if hyperparameters.from_scratch:
        weight_shapes(config)
    return config


def build_model(config: Any, folder: Path, seed: int, *, dtype: Any, attention: str | None) -> Any:
    """A model of this configuration with weights drawn from the seed, the same on every rank and on any device."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    arguments = {"attn_implementation": attention} if attention else {}
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        # Drawn in fp32 whatever the type of the weights: a seed means the same model in each.
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, **arguments)
        _try(model)
    except (*_FAULTS, ImportError) as error:
        raise BadConfiguration(f"no {config.model_type} can be built with {_KEY}: {_words(error)}") from None
    finally:
        torch.random.set_rng_state(state)
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model.to(dtype)


def weight_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights that build_model would make, without making them."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (*_FAULTS, ImportError) as error:
        raise BadConfiguration(f"no {config.model_type} can be built with {_KEY}: {_words(error)}") from None
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _try(model: Any) -> None:
    """One step forward: sizes that do not fit one another fail here, with the library's words, not while training."""
    import torch

    model.eval()
    with torch.no_grad():
        model(input_ids=torch.zeros((1, 2), dtype=torch.long), use_cache=False)


def _check_kind(config: Any) -> None:
    try:
        nested = config.get_text_config() is not config
    except ValueError:
        nested = True
    if nested or getattr(config, "is_encoder_decoder", False):
        raise BadConfiguration(
            f"{_KEY} and run_conf.from_scratch work with plain text models only, and {config.model_type} has "
            "several parts; remove them, or choose another basemodel"
        )


def _set_dropout(fields: dict[str, Any], value: float, model_type: str) -> None:
    sections = [fields, *(fields[name] for name in _DROPOUT_SECTIONS if isinstance(fields.get(name), dict))]
    found = False
    for section in sections:
        for name, current in section.items():
            if _DROPOUT.match(name) and isinstance(current, int | float) and not isinstance(current, bool):
                section[name] = value
                found = True
    if not found:
        raise BadConfiguration(f"{_KEY}.dropout: the architecture {model_type} has no dropout; remove it")


def _set_sizes(config: Any, fields: dict[str, Any], sizes: dict[str, Any]) -> None:
    names = {size: _field_name(config, fields, size) for size in _ALL_SIZES}
    for size in sizes:
        if names[size] is None:
            known = [one for one in _ALL_SIZES if names[one] is not None]
            raise BadConfiguration(
                f"{_KEY}.{size}: the architecture {config.model_type} has no such size; it has {', '.join(known)}"
            )

    def current(size: str) -> int | None:
        name = names[size]
        value = fields.get(name) if name else None
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    hidden, heads, groups = (current(size) for size in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    for size, value in sizes.items():
        fields[str(names[size])] = value
    if "num_attention_heads" in sizes and "num_key_value_heads" not in sizes and groups and groups == heads:
        fields[str(names["num_key_value_heads"])] = sizes["num_attention_heads"]  # a key for each head, as before
    if "hidden_size" in sizes and fields.get("word_embed_proj_dim") == hidden:
        fields["word_embed_proj_dim"] = sizes["hidden_size"]  # OPT's embeddings are as wide as the rest, but in one
    if "num_hidden_layers" in sizes:
        _forget_layers(fields, sizes["num_hidden_layers"])
    if fields.get("head_dim") is not None and hidden and heads and fields["head_dim"] == hidden // heads:
        fields["head_dim"] = None  # it followed from the other two, and shall again
    _check_division(current("hidden_size"), current("num_attention_heads"), current("num_key_value_heads"), fields)
    if fields.get("head_dim", 0) is None:
        fields["head_dim"] = (current("hidden_size") or 1) // (current("num_attention_heads") or 1)


_ALL_SIZES = (
    *("num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("hidden_size", "intermediate_size", "max_position_embeddings", "vocab_size"),
)


def _field_name(config: Any, fields: dict[str, Any], size: str) -> str | None:
    """How the architecture's configuration calls a size; None if it has no such thing."""
    candidates = (getattr(config, "attribute_map", {}).get(size, size), *_ALIASES.get(size, ()))
    return next((name for name in candidates if name in fields), None)


def _forget_layers(fields: dict[str, Any], layers: int) -> None:
    """Lists with an entry for each layer are made anew by the configuration for another number of layers."""
    kinds = fields.get("layer_types")
    if isinstance(kinds, list) and len(kinds) != layers:
        fields["layer_types"] = None


def _check_division(hidden: int | None, heads: int | None, groups: int | None, fields: dict[str, Any]) -> None:
    if hidden and heads and not fields.get("head_dim") and hidden % heads:
        raise BadConfiguration(
            f"{_KEY}: hidden_size {hidden} is not divisible by num_attention_heads {heads}; "
            f"{hidden - hidden % heads or heads} or {hidden - hidden % heads + heads} would be"
        )
    if heads and groups and heads % groups:
        raise BadConfiguration(
            f"{_KEY}: num_attention_heads {heads} is not divisible by num_key_value_heads {groups}; "
            "give num_key_value_heads, a divisor of it"
        )


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__

"""Whether the longest sequence fits the positions that a model knows.

Some architectures have a table of positions and end with an index error beyond it, on a GPU even without a message.
Others compute a position, so that they can be told of any; but beyond what they were made for they write badly until
they have learnt it.
"""

from collections.abc import Mapping
from typing import Any

from finetune_trainer.errors import BadConfiguration

# Architectures whose positions are a table, learnt or computed once.
WITH_A_TABLE = ("gpt2", "gpt-sw3", "gpt_bigcode", "gpt_neo", "gptj", "codegen", "openai-gpt", "ctrl", "opt", "biogpt")
LENGTH_KEY = {"sft": "sft_args.max_seq_length", "dpo": "dpo_args.max_seq_length", "clm": "clm_args.block_size"}


def check_positions(config: Mapping[str, Any], longest: int, method: str) -> list[str]:
    """Notices about sequences longer than the model was made for. Raises BadConfiguration where they cannot work.

    config: the fields of the model's configuration. longest: in tokens, with padding and an adapter's virtual tokens.
    """
    limit = _limit(config)
    if limit is None or longest <= limit:
        return []
    key, kind = LENGTH_KEY.get(method, "the maximum length"), config.get("model_type")
    if kind in WITH_A_TABLE:
        raise BadConfiguration(
            f"the longest sequence has {longest} tokens, but the model ({kind}) has {limit} positions: make {key} "
            f"{limit} or less"
        )
    return [
        f"the longest sequence has {longest} tokens, but the model was made for {limit} (max_position_embeddings): "
        f"expect poor results beyond them, or lower {key}"
    ]


def positions_of(config: Mapping[str, Any]) -> int | None:
    """How many positions there are in the model's table; None if it has no table."""
    return _limit(config) if config.get("model_type") in WITH_A_TABLE else None


def _limit(config: Mapping[str, Any]) -> int | None:
    names = ("max_position_embeddings", "n_positions", "n_ctx")
    return next((config[name] for name in names if isinstance(config.get(name), int)), None)


def virtual_tokens(model: Any) -> int:
    """How many positions an adapter of the prompt-tuning family takes of its own."""
    configs = getattr(model, "peft_config", {}).values()
    return max((getattr(config, "num_virtual_tokens", None) or 0 for config in configs), default=0)

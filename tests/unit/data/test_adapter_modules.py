"""Names in peft_kwargs against the names of a model's stored weights."""

from typing import Any

import pytest

from finetune_trainer.adapter_modules import missing_modules, plain_names, stored_module_names

LLAMA = [
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.mlp.down_proj.weight",
    "model.norm.weight",
]
GPT2 = ["wte.weight", "h.0.attn.c_attn.weight"]


@pytest.mark.parametrize(
    ("stored", "kwargs"),
    [
        (LLAMA, {"target_modules": ["q_proj", "down_proj", "embed_tokens", "lm_head"]}),  # a tied head is not stored
        (LLAMA, {"target_modules": "all-linear", "modules_to_save": ["embed_tokens"]}),
        (LLAMA, {"target_modules": r"model\.layers\.\d+\.mlp\.down_proj", "exclude_modules": ["mlp"]}),
        (GPT2, {"target_modules": r"transformer\.h\.\d+\.attn\.c_attn"}),  # in memory there is a prefix
        (GPT2, {"target_modules": ["transformer.h.0.attn.c_attn"], "rank_pattern": {"transformer.h.0": 2}}),
        (LLAMA, {}),
        (LLAMA, {"target_modules": None, "modules_to_save": None}),
    ],
)
def test_names_of_the_model_pass(stored: list[str], kwargs: dict[str, Any]) -> None:
    assert missing_modules(stored_module_names(stored) or (), plain_names(kwargs)) == []


@pytest.mark.parametrize(
    ("kwargs", "blamed"),
    [
        ({"target_modules": ["q_proj", "p_proj"]}, "target_modules names 'p_proj'"),
        ({"modules_to_save": ["embed_token"]}, "modules_to_save names 'embed_token'"),
        ({"feedforward_modules": ["up_proj"]}, "feedforward_modules names 'up_proj'"),
        ({"exclude_modules": ["mlpp"]}, "exclude_modules names 'mlpp'"),
    ],
)
def test_a_name_of_nothing_is_blamed_with_what_there_is(kwargs: dict[str, Any], blamed: str) -> None:
    (problem,) = missing_modules(stored_module_names(LLAMA) or (), plain_names(kwargs))
    assert blamed in problem
    assert "it has down_proj, embed_tokens, lm_head, mlp, norm, q_proj, self_attn" in problem


def test_models_that_differ_in_memory_from_their_files_are_not_judged() -> None:
    assert stored_module_names(["model.layers.0.block_sparse_moe.experts.0.w1.weight"]) is None
    assert stored_module_names([]) is None

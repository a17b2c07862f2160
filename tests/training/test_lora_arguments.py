"""LoRA's further arguments, each as PEFT used by hand has it: losses, and the merged model."""

from pathlib import Path
from typing import Any

import pytest

LAYERS = ["q_proj", "v_proj", "down_proj"]
ARGUMENTS: dict[str, dict[str, Any]] = {
    "rslora": {"r": 4, "use_rslora": True, "target_modules": LAYERS},
    "dora": {"r": 4, "use_dora": True, "target_modules": LAYERS},
    "lora_bias": {"r": 4, "lora_bias": True, "target_modules": ["q_proj", "v_proj"]},
    "patterns": {
        "r": 4,
        "target_modules": LAYERS,
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"^model.layers.1.*.v_proj": 32},
    },
    "some layers": {"r": 4, "target_modules": LAYERS, "layers_to_transform": [1], "layers_pattern": "layers"},
    "a pattern and exclusions": {"target_modules": r".*\.(v|o)_proj", "exclude_modules": ["layers.0.self_attn.v_proj"]},
    "orthogonal": {"r": 4, "init_lora_weights": "orthogonal", "target_modules": LAYERS},
    "random": {"r": 4, "init_lora_weights": False, "target_modules": LAYERS},
    "embeddings and head": {"r": 4, "target_modules": ["embed_tokens", "lm_head", "q_proj"]},
    "tokens": {"r": 4, "target_modules": LAYERS, "trainable_token_indices": [5, 20, 300]},
    "tokens, tied": {"r": 4, "target_modules": LAYERS, "trainable_token_indices": [5, 20, 300]},
    "biases": {"r": 4, "bias": "all", "target_modules": LAYERS},
    "biases of its layers": {"r": 4, "bias": "lora_only", "target_modules": LAYERS},
    "experts": {"r": 4, "target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj"]},
    "tied": {"r": 4, "target_modules": ["embed_tokens", "lm_head", "q_proj"]},
}
MODELS = {
    "lora_bias": {"architecture": "qwen2"},
    "biases": {"architecture": "qwen2"},
    "biases of its layers": {"architecture": "qwen2"},
    "experts": {"architecture": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 1},
    "tied": {"tie_word_embeddings": True},
    "tokens, tied": {"tie_word_embeddings": True},
}
TRAINING = {"optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0, "learning_rate": 0.2, "max_steps": 3}


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_an_argument_is_pefts_and_merges(argument: str, train_here: Any, make_config: Any, make_model: Any) -> None:
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from finetune_trainer.data import load_training_data, prepare_tokenizer
    from finetune_trainer.train.sampler import epoch_order
    from finetune_trainer.train.seeding import seed_all, seed_for

    base, kwargs = make_model(**MODELS.get(argument, {})), ARGUMENTS[argument]
    config = make_config(model=base, lora=kwargs, total=6, training_args=TRAINING)
    run = train_here(config)

    tokenizer = prepare_tokenizer(config, AutoTokenizer.from_pretrained(base)).tokenizer
    rows = load_training_data(config, tokenizer, Path("/nowhere")).train
    order = epoch_order([len(row) for row in rows], seed=42, epoch=0, sampling="random")
    model = AutoModelForCausalLM.from_pretrained(base)
    seed_all(seed_for(42, "adapter"))
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **kwargs))
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.2)
    for step in range(3):
        chosen = [rows[number] for number in order[step * 6 : step * 6 + 6]]
        total, loss = sum(len(row) - 1 for row in chosen), 0.0
        for row in chosen:
            output = model(torch.tensor([row.input_ids]), labels=torch.tensor([row.labels]))
            loss = loss + output.loss * (len(row) - 1) / total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert run.losses[step + 1] == pytest.approx(loss.item(), rel=2e-5)

    ids = torch.arange(24).reshape(2, 12) + 5

    def logits(one: Any) -> Any:
        with torch.no_grad():
            return one.eval()(input_ids=ids).logits

    wanted = logits(model)
    again = AutoModelForCausalLM.from_pretrained(base)
    assert (wanted - logits(again)).abs().max() > 1e-4
    torch.testing.assert_close(logits(PeftModel.from_pretrained(again, run.final)), wanted, rtol=1e-4, atol=2e-5)
    merged = AutoModelForCausalLM.from_pretrained(run.checkpoints / "checkpoint-final-merged")
    torch.testing.assert_close(logits(merged), wanted, rtol=1e-4, atol=2e-5)


def test_what_could_not_be_merged_is_refused_before_training(train_here: Any, make_config: Any) -> None:
    from finetune_trainer.errors import BadConfiguration

    lora = {"lora_bias": True, "target_modules": ["q_proj"]}
    with pytest.raises(BadConfiguration, match="q_proj, which has no bias; remove it, or set mergeAdapter: false"):
        train_here(make_config(lora=lora))
    arguments = {"max_steps": 1}
    run = train_here(make_config(lora=lora, training_args=arguments, spec={"mergeAdapter": False}))
    assert (run.final / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"target_modules": ["q_proj", "p_proj"]}, "target_modules names 'p_proj', but the model has no such module"),
        ({"target_modules": r".*\.p_proj"}, r"target_modules names '.*p_proj'"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["embed_token"]}, "modules_to_save names 'embed_token'"),
        ({"target_modules": ["q_proj"], "exclude_modules": ["x"]}, "exclude_modules names 'x'"),
        ({"target_modules": ["q_proj"], "rank_pattern": {"qproj": 2}}, "rank_pattern names 'qproj'"),
        ({"target_modules": ["q_proj"], "target_parameters": ["experts.w1"]}, "target_parameters names 'experts.w1'"),
    ],
    ids=lambda value: list(value)[-1] if isinstance(value, dict) else "",
)
def test_a_name_that_nothing_has_is_refused(
    kwargs: dict[str, Any], words: str, train_here: Any, make_config: Any
) -> None:
    """PEFT would leave it out in silence, as long as something else fits."""
    from finetune_trainer.errors import BadConfiguration

    with pytest.raises(BadConfiguration, match=words):
        train_here(make_config(lora=kwargs))

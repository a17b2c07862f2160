"""Base models quantised by bitsandbytes: each option's losses are those of transformers and PEFT by hand, runs resume
exactly, and the merge goes into the original weights."""

import shutil
from pathlib import Path
from typing import Any

import pytest

OPTIONS: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4, nested": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "nf4, bf16": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": "bfloat16",
        "bnb_4bit_quant_storage": "bfloat16",
    },
    "fp4": {"load_in_4bit": True},
    "fp4, some modules": {"load_in_4bit": True, "llm_int8_skip_modules": ["lm_head", "q_proj"]},
    "int8": {"load_in_8bit": True},
    "int8, threshold": {"load_in_8bit": True, "llm_int8_threshold": 0.5},
    "int8, 16-bit weights": {"load_in_8bit": True, "llm_int8_has_fp16_weight": True},
}
LORA = {"r": 4, "lora_alpha": 16, "target_modules": "all-linear"}
# Plain gradient descent: Adam's first steps are signs of gradients, of which rounding decides some.
ARGUMENTS = {"optim": "sgd", "max_steps": 4, "learning_rate": 0.2, "lr_scheduler_type": "constant", "max_grad_norm": 0}


@pytest.fixture(scope="module")
def base(make_model: Any) -> Path:
    """bitsandbytes quantises blocks of 64 weights."""
    folder: Path = make_model(hidden_size=64)
    return folder


def config_of(make_config: Any, base: Path, quantisation: dict[str, Any], **spec: Any) -> Any:
    spec = {"quant_conf": quantisation, **spec}
    return make_config(model=base, lora=LORA, total=6, training_args={**ARGUMENTS, "save_steps": 2}, spec=spec)


def losses_by_hand(config: Any, base: Path, quantisation: dict[str, Any]) -> dict[int, float]:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    from finetune_trainer.data import load_training_data, prepare_tokenizer
    from finetune_trainer.train.sampler import epoch_order
    from finetune_trainer.train.seeding import seed_all, seed_for

    tokenizer = prepare_tokenizer(config, AutoTokenizer.from_pretrained(base)).tokenizer
    rows = load_training_data(config, tokenizer, Path("/nowhere")).train
    order = epoch_order([len(row) for row in rows], seed=42, epoch=0, sampling="random")
    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=BitsAndBytesConfig(**quantisation))
    seed_all(seed_for(42, "adapter"))
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **LORA))
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.2)
    losses = {}
    for step in range(4):
        chosen = [rows[number] for number in order[step * 6 : step * 6 + 6]]
        length = max(len(row) for row in chosen)  # one batch: LLM.int8 looks for outliers in all of it
        ids = torch.tensor([row.input_ids + [tokenizer.pad_token_id] * (length - len(row)) for row in chosen])
        labels = torch.tensor([row.labels + [-100] * (length - len(row)) for row in chosen])
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses[step + 1] = loss.item()
    return losses


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_trains_as_by_hand_and_resumes(
    option: str, train_here: Any, make_config: Any, base: Path, tmp_path: Path
) -> None:
    config = config_of(make_config, base, OPTIONS[option])
    run = train_here(config)
    assert run.losses == pytest.approx(losses_by_hand(config, base, OPTIONS[option]), rel=5e-5)
    plain = train_here(make_config(model=base, total=6, training_args={"max_steps": 1}))
    assert run.report.effective.parameters - run.report.effective.trainable_parameters == (
        plain.report.effective.parameters
    )
    shutil.copytree(run.checkpoints / "checkpoint-2", tmp_path / "checkpoints" / "checkpoint-2")
    assert train_here(config, tmp_path).losses == run.losses


@pytest.mark.parametrize("option", ["nf4", "int8"])
def test_the_merge_goes_into_the_original_weights(option: str, train_here: Any, make_config: Any, base: Path) -> None:
    """Exactly the adapter on the original model. From the quantised model that was trained it differs by about what
    quantisation itself does to the base model's logits: tolerance, twice that."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    run = train_here(config_of(make_config, base, OPTIONS[option]))
    ids = torch.arange(24).reshape(2, 12) + 7

    def logits(model: Any) -> Any:
        with torch.no_grad():
            return model.eval()(input_ids=ids).logits

    how = {"quantization_config": BitsAndBytesConfig(**OPTIONS[option])}
    original, coarse = AutoModelForCausalLM.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base, **how)
    error = (logits(original) - logits(coarse)).abs().max()
    merged = logits(AutoModelForCausalLM.from_pretrained(run.checkpoints / "checkpoint-final-merged"))
    assert error > 1e-4
    assert (merged - logits(original)).abs().max() > 0.05
    trained = logits(PeftModel.from_pretrained(coarse, run.final))
    assert (merged - trained).abs().max() < 2 * error
    torch.testing.assert_close(merged, logits(PeftModel.from_pretrained(original, run.final)), rtol=1e-4, atol=1e-5)


def test_lora_on_a_tied_head_of_a_quantised_model_merges_rightly(
    train_here: Any, make_config: Any, make_model: Any
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = make_model(hidden_size=64, tie_word_embeddings=True)
    lora = {"r": 4, "target_modules": ["embed_tokens", "lm_head", "q_proj"]}
    config = make_config(
        model=base,
        lora=lora,
        training_args={"max_steps": 2, "learning_rate": 0.05},
        spec={"quant_conf": OPTIONS["nf4"]},
    )
    run = train_here(config)
    ids = torch.arange(12)[None] + 7
    with torch.no_grad():
        adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), run.final).eval()
        merged = AutoModelForCausalLM.from_pretrained(run.checkpoints / "checkpoint-final-merged").eval()
        torch.testing.assert_close(merged(input_ids=ids).logits, adapted(input_ids=ids).logits, rtol=1e-4, atol=1e-5)


def test_norms_of_a_16_bit_model_are_held_in_fp32(base: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from finetune_trainer.train.quantization import prepare_quantised, quantization_config

    config = quantization_config(OPTIONS["nf4"])
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, quantization_config=config)
    prepare_quantised(model, OPTIONS["nf4"], mixed=True)
    types = {name.rpartition(".")[0].rpartition(".")[2]: one.dtype for name, one in model.named_parameters()}
    assert types["norm"] == types["input_layernorm"] == torch.float32
    assert types["embed_tokens"] == types["lm_head"] == torch.bfloat16
    assert types["q_proj"] == torch.uint8


def test_a_16_bit_base_may_be_asked_for_where_nothing_casts(train_here: Any, make_config: Any, base: Path) -> None:
    """On the CPU there is no autocast: norms in fp32 would not fit a head in bf16."""
    run_conf = {"model_args": {"torch_dtype": "bfloat16"}}
    run = train_here(config_of(make_config, base, OPTIONS["nf4"], run_conf=run_conf))
    assert run.losses == pytest.approx(train_here(config_of(make_config, base, OPTIONS["nf4"])).losses, rel=0.01)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"llm_int8_skip_modules": ["lm_haed"]}, "llm_int8_skip_modules names 'lm_haed', .* it has .*lm_head"),
        ({"template": "poro"}, "the vocabulary of a quantised model cannot grow"),
    ],
    ids=["a module that does not exist", "new tokens"],
)
def test_what_cannot_be_done_on_a_quantised_model_is_refused(
    changes: dict[str, Any], words: str, train_here: Any, make_config: Any, base: Path
) -> None:
    from finetune_trainer.errors import BadConfiguration

    template = changes.pop("template", "chat-ml")
    config = config_of(make_config, base, {**OPTIONS["nf4"], **changes})
    config.spec["data_conf"]["chat_template_name"] = template
    with pytest.raises(BadConfiguration, match=words):
        train_here(config)


def test_a_model_that_is_stored_quantised_is_refused(
    train_here: Any, make_config: Any, base: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from finetune_trainer.errors import BadConfiguration
    from finetune_trainer.train.quantization import quantization_config

    how = quantization_config(OPTIONS["nf4"])
    AutoModelForCausalLM.from_pretrained(base, quantization_config=how).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path)
    with pytest.raises(BadConfiguration, match=r"stored quantised \(bitsandbytes\); use the original model"):
        train_here(make_config(model=tmp_path, lora=LORA))

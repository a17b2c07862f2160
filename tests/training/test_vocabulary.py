"""Templates that need tokens of their own: the vocabulary grows, the new rows are trained, and what is saved fits."""

from pathlib import Path
from typing import Any

import pytest

NEW = ("<|user|>", "<|assistant|>")


def grown(make_config: Any, peft: dict[str, Any], **rest: Any) -> Any:
    """A job whose template, poro, adds two tokens."""
    config = make_config(
        training_args={"max_steps": 4, "learning_rate": 0.02, "save_steps": 2},
        spec={"peft_conf": peft, **rest.pop("spec", {})},
        **rest,
    )
    config.spec["data_conf"]["chat_template_name"] = "poro"
    return config


def logits(model: Any, ids: Any) -> Any:
    import torch

    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


@pytest.mark.parametrize(
    ("peft", "tied"),
    [
        ({"peft_type": "LORA", "peft_kwargs": {"r": 4, "target_modules": "all-linear"}}, False),
        ({"peft_type": "LORA", "peft_kwargs": {"r": 4, "target_modules": "all-linear"}}, True),
        ({"peft_type": "LORA", "peft_kwargs": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}}, True),
        ({"peft_type": "IA3"}, True),
        ({"peft_type": "POLY", "peft_kwargs": {"target_modules": ["q_proj"]}}, True),
        ({"peft_type": "PREFIX_TUNING", "peft_kwargs": {"num_virtual_tokens": 4}}, False),
    ],
    ids=[
        "lora",
        "lora, tied",
        "lora and a head that is saved already, tied",
        "ia3, tied",
        "poly, tied",
        "prefix tuning",
    ],
)
def test_an_adapter_trains_new_tokens_and_stands_on_the_new_base_model(
    peft: dict[str, Any], tied: bool, train_here: Any, make_config: Any, make_model: Any
) -> None:
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = make_model(tie_word_embeddings=tied)
    run = train_here(grown(make_config, peft, model=base))
    folder = run.checkpoints / "checkpoint-new-basemodel"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    new_base = AutoModelForCausalLM.from_pretrained(folder)
    assert new_base.get_input_embeddings().num_embeddings == len(tokenizer)
    before = AutoModelForCausalLM.from_pretrained(base).get_input_embeddings().weight
    assert torch.equal(new_base.get_input_embeddings().weight[: len(before)], before)
    ids = torch.tensor([[*tokenizer.convert_tokens_to_ids(list(NEW)), 20, 21, 22]])
    assert int(ids.min()) >= 0

    stored = load_file(run.final / "adapter_model.safetensors")
    (embeddings,) = [value for name, value in stored.items() if name.endswith("embed_tokens.weight")]
    (head,) = [value for name, value in stored.items() if name.endswith("lm_head.weight")]
    assert len(embeddings) == len(head) == len(tokenizer)
    moved = (embeddings - new_base.get_input_embeddings().weight).abs().amax(1) > 1e-4
    assert moved[ids[0, :2]].all()

    adapted = PeftModel.from_pretrained(new_base, run.final)
    wanted = logits(adapted, ids)
    assert AutoTokenizer.from_pretrained(run.final).get_vocab() == tokenizer.get_vocab()
    merged = run.checkpoints / "checkpoint-final-merged"
    if merged.exists():
        plain = AutoModelForCausalLM.from_pretrained(merged)
        torch.testing.assert_close(logits(plain, ids), wanted, rtol=1e-4, atol=2e-5)
    assert merged.exists() == (peft["peft_type"] != "PREFIX_TUNING")
    assert (run.final / "adapter_config.json").read_text(encoding="utf-8").count(str(folder)) == 1


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_full_fine_tuning_saves_the_grown_model(
    tied: bool, train_here: Any, make_config: Any, make_model: Any, tmp_path: Path
) -> None:
    import shutil

    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = grown(make_config, {"peft_type": "NO_PEFT"}, model=make_model(tie_word_embeddings=tied))
    run = train_here(config)
    tokenizer, model = AutoTokenizer.from_pretrained(run.final), AutoModelForCausalLM.from_pretrained(run.final)
    assert set(NEW) <= set(tokenizer.get_vocab())
    assert model.config.vocab_size == model.get_input_embeddings().num_embeddings == len(tokenizer)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    assert not (run.checkpoints / "checkpoint-new-basemodel").exists()
    shutil.copytree(run.checkpoints / "checkpoint-2", tmp_path / "checkpoints" / "checkpoint-2")
    assert train_here(config, tmp_path).losses == run.losses


def test_rows_that_the_model_has_already_are_trained_without_growing(
    train_here: Any, make_config: Any, make_model: Any
) -> None:
    """Published models round their embeddings up, so that a few tokens find room."""
    from transformers import AutoModelForCausalLM

    base = make_model(vocab_size=352)
    run = train_here(
        grown(make_config, {"peft_type": "LORA", "peft_kwargs": {"target_modules": ["q_proj"]}}, model=base)
    )
    assert not (run.checkpoints / "checkpoint-new-basemodel").exists()
    merged = AutoModelForCausalLM.from_pretrained(run.checkpoints / "checkpoint-final-merged")
    assert merged.get_input_embeddings().num_embeddings == 352
    assert "embed_tokens" in (run.final / "adapter_config.json").read_text(encoding="utf-8")


def test_an_adapter_that_cannot_train_new_tokens_is_refused(train_here: Any, make_config: Any) -> None:
    from finetune_trainer.errors import BadConfiguration

    peft = {"peft_type": "ADAPTION_PROMPT", "peft_kwargs": {"adapter_len": 4, "adapter_layers": 2}}
    with pytest.raises(BadConfiguration, match=r"ADAPTION_PROMPT cannot train their embeddings: .* or use LORA"):
        train_here(grown(make_config, peft))

"""The result loads in transformers, says what training ended with, and needs nothing that only the pod had."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.train import manifest


@pytest.fixture(scope="module")
def prompt() -> list[dict[str, str]]:
    return [{"role": "user", "content": "what is your name"}]


def _logits(model: Any, tokenizer: Any, prompt: Any) -> Any:
    import torch

    inputs = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        return model.eval()(**inputs).logits


def _load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_a_fine_tuned_model_loads_and_generates(train_here: Any, make_config: Any, prompt: Any) -> None:
    run = train_here(make_config(training_args={"max_steps": 2}))
    assert manifest.fault(run.final) is None
    model, tokenizer = _load(run.final)
    inputs = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    assert tokenizer.decode(inputs["input_ids"][0]).endswith("<|im_start|>assistant\n")
    answer = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert answer.shape[1] > inputs["input_ids"].shape[1]
    assert model.config.use_cache
    stops = model.generation_config.eos_token_id
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in (stops if isinstance(stops, list) else [stops])
    arguments = json.loads((run.final / "training_args.json").read_text())
    assert arguments["training_args"]["learning_rate"] == 5e-3
    card = (run.final / "README.md").read_text()
    assert f"{run.report.loss:.4f}" in card
    assert "library_name: transformers" in card
    assert run.report.model.path == str(run.final)
    assert run.report.model.adapter is None
    assert run.report.model.merged is None


def test_the_merged_model_equals_the_adapter_model(
    train_here: Any, make_config: Any, base_model: Path, prompt: Any
) -> None:
    import torch
    from peft import AutoPeftModelForCausalLM

    run = train_here(make_config(lora=True, training_args={"learning_rate": 0.05}))
    adapted = AutoPeftModelForCausalLM.from_pretrained(run.final)
    merged, tokenizer = _load(run.checkpoints / "checkpoint-final-merged")
    base, _ = _load(base_model)
    with_adapter, with_merged = _logits(adapted, tokenizer, prompt), _logits(merged, tokenizer, prompt)
    torch.testing.assert_close(with_merged, with_adapter, rtol=1e-4, atol=1e-5)
    assert (with_merged - _logits(base, tokenizer, prompt)).abs().max() > 0.1
    assert run.report.model.adapter == str(run.final)
    assert run.report.model.merged == str(run.checkpoints / "checkpoint-final-merged")


def test_lora_on_tied_embedding_and_head_merges_rightly(
    train_here: Any, make_config: Any, make_model: Any, prompt: Any
) -> None:
    """PEFT alone adds both adapters to the one tied tensor."""
    import torch
    from peft import AutoPeftModelForCausalLM

    model = make_model(tie_word_embeddings=True)
    lora = {"r": 4, "target_modules": ["embed_tokens", "lm_head", "q_proj"]}
    run = train_here(make_config(model=model, lora=lora, training_args={"learning_rate": 0.05}))
    adapted = AutoPeftModelForCausalLM.from_pretrained(run.final)
    merged, tokenizer = _load(run.checkpoints / "checkpoint-final-merged")
    torch.testing.assert_close(
        _logits(merged, tokenizer, prompt), _logits(adapted, tokenizer, prompt), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("lora", [False, True], ids=["full", "merged"])
def test_a_bf16_model_stays_one_but_is_trained_in_fp32(
    train_here: Any, make_config: Any, make_model: Any, lora: bool
) -> None:
    from safetensors import safe_open

    run = train_here(make_config(model=make_model(dtype="bfloat16"), lora=lora, training_args={"max_steps": 2}))

    def types(folder: Path, name: str) -> set[str]:
        with safe_open(folder / name, "pt") as file:
            return {str(file.get_slice(key).get_dtype()) for key in file.keys()}  # noqa: SIM118

    result = run.checkpoints / "checkpoint-final-merged" if lora else run.final
    assert types(result, "model.safetensors") == {"BF16"}
    kept = "adapter_model.safetensors" if lora else "model.safetensors"
    assert types(run.checkpoints / "checkpoint-2", kept) == {"F32"}


def test_no_merged_model_is_written_when_it_is_not_wanted(train_here: Any, make_config: Any) -> None:
    run = train_here(make_config(lora=True, training_args={"max_steps": 1}, spec={"mergeAdapter": False}))
    assert (run.final / "adapter_model.safetensors").exists()
    assert not (run.checkpoints / "checkpoint-final-merged").exists()


def test_new_tokens_are_trained_and_their_base_model_is_kept(train_here: Any, make_config: Any, prompt: Any) -> None:
    """poro's template adds tokens: the embeddings grow, and the adapter needs the grown base model from then on."""
    import torch
    from peft import PeftModel

    config = make_config(lora=True, training_args={"learning_rate": 0.05, "max_steps": 4})
    config.spec["data_conf"]["chat_template_name"] = "poro"
    run = train_here(config)
    grown, tokenizer = _load(run.checkpoints / "checkpoint-new-basemodel")
    assert grown.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert "<|user|>" in tokenizer.get_vocab()
    adapted = PeftModel.from_pretrained(grown, run.final)
    merged, tokenizer = _load(run.checkpoints / "checkpoint-final-merged")
    torch.testing.assert_close(
        _logits(merged, tokenizer, prompt), _logits(adapted, tokenizer, prompt), rtol=1e-4, atol=1e-5
    )


def test_a_generation_config_that_cannot_be_saved_is_put_right(
    train_here: Any, make_config: Any, make_model: Any, tmp_path: Path
) -> None:
    """Many published models carry a temperature without do_sample, which transformers refuses to save."""
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(make_model(), folder)
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "temperature": 0.6, "do_sample": False}))
    run = train_here(make_config(model=folder, training_args={"max_steps": 1}))
    assert json.loads((run.final / "generation_config.json").read_text())["temperature"] == 0.6


def test_an_adapter_for_layers_that_do_not_exist_is_refused(train_here: Any, make_config: Any) -> None:
    from finetune_trainer.errors import BadConfiguration

    with pytest.raises(
        BadConfiguration, match=r"names 'no_such_layer', but the model has no such module; it has .*down_proj, .*q_proj"
    ):
        train_here(make_config(lora={"target_modules": ["no_such_layer"]}))


def test_a_model_that_lacks_weights_is_refused(
    train_here: Any, make_config: Any, make_model: Any, tmp_path: Path
) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    from finetune_trainer.errors import BadConfiguration

    folder = tmp_path / "model"
    shutil.copytree(make_model(), folder)
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadConfiguration, match=r"lacks 1 weights of a causal language model \(lm_head.weight"):
        train_here(make_config(model=folder))

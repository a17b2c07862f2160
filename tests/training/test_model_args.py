"""run_conf: how the base model and its tokenizer are loaded, key by key, seen in what is trained and exported."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def run_job(train_here: Any, make_config: Any) -> Any:
    """run_job(model_args, model=folder, …): two steps, or what loading raises."""

    def run(
        model_args: dict[str, Any] | None = None, run_conf: dict[str, Any] | None = None, lora: Any = False, **rest: Any
    ) -> Any:
        conf = {**(run_conf or {}), "model_args": model_args or {}}
        return train_here(
            make_config(
                lora=lora, training_args={"max_steps": 2}, spec={"run_conf": conf, **rest.pop("spec", {})}, **rest
            )
        )

    return run


def stored_types(folder: Path) -> set[str]:
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as file:
        return {str(file.get_slice(key).get_dtype()) for key in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize(("dtype", "stored"), [("auto", "BF16"), ("float32", "F32"), ("float16", "F16")])
def test_torch_dtype_is_the_type_of_the_result(run_job: Any, make_model: Any, dtype: str, stored: str) -> None:
    run = run_job({"torch_dtype": dtype}, model=make_model(dtype="bfloat16"))
    assert stored_types(run.final) == {stored}


def test_attn_implementation_is_the_models(run_job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune_trainer.train import model as models

    used = []
    load = models.load_model

    def watched(*args: Any, **kwargs: Any) -> Any:
        loaded = load(*args, **kwargs)
        used.append(loaded.config._attn_implementation)
        return loaded

    monkeypatch.setattr(models, "load_model", watched)
    eager, sdpa = run_job({"attn_implementation": "eager"}), run_job({"attn_implementation": "sdpa"})
    assert used == ["eager", "sdpa"]
    assert eager.losses == pytest.approx(sdpa.losses, rel=1e-5)


def test_an_attention_that_is_not_installed_is_refused(make_config: Any, base_model: Path) -> None:
    import torch

    from finetune_trainer.errors import BadConfiguration
    from finetune_trainer.train.model import load_model
    from finetune_trainer.train.settings import read_settings, read_spec

    config = make_config()
    settings = replace(read_settings(config, read_spec(config)).model, attention="flash_attention_2")
    with pytest.raises(
        BadConfiguration, match=r"attn_implementation flash_attention_2 cannot be used here: .*use sdpa"
    ):
        load_model(base_model, settings, device=torch.device("cpu"), world_size=1, precision="fp32", trains_all=True)


@pytest.mark.parametrize("wanted", [True, False])
def test_use_cache_is_the_setting_of_the_result(run_job: Any, wanted: bool) -> None:
    run = run_job({"use_cache": wanted})
    assert json.loads((run.final / "config.json").read_text(encoding="utf-8"))["use_cache"] is wanted


def test_subfolder_is_where_the_model_lies(run_job: Any, base_model: Path, tmp_path: Path) -> None:
    (tmp_path / "inner").symlink_to(base_model)
    assert run_job({"subfolder": "inner"}, model=tmp_path).losses == run_job().losses


def resaved(base_model: Path, folder: Path, **how: Any) -> Path:
    """The base model, saved in another way."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(base_model).save_pretrained(folder, **how)
    AutoTokenizer.from_pretrained(base_model).save_pretrained(folder)
    return folder


def test_variant_names_the_weight_files(run_job: Any, base_model: Path, tmp_path: Path) -> None:
    from finetune_trainer.errors import InputMissing

    folder = resaved(base_model, tmp_path, variant="other")
    assert (folder / "model.other.safetensors").is_file()
    assert run_job({"variant": "other"}, model=folder).losses == run_job().losses
    with pytest.raises(InputMissing):
        run_job(model=folder)


def test_use_safetensors_refuses_or_takes_other_weight_files(run_job: Any, base_model: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from finetune_trainer.errors import InputMissing

    folder = resaved(base_model, tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save(AutoModelForCausalLM.from_pretrained(base_model).state_dict(), folder / "pytorch_model.bin")
    assert run_job({"use_safetensors": False}, model=folder).losses == run_job().losses
    with pytest.raises(InputMissing):
        run_job({"use_safetensors": True}, model=folder)


def test_another_tokenizer_is_used_and_exported(run_job: Any, base_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    other = AutoTokenizer.from_pretrained(base_model)
    other.eos_token = "<|im_end|>"
    other.save_pretrained(tmp_path)
    run = run_job(run_conf={"tokenizer": str(tmp_path)})
    assert AutoTokenizer.from_pretrained(run.final).eos_token == "<|im_end|>"
    assert AutoTokenizer.from_pretrained(run_job().final).eos_token == "</s>"


def test_a_grown_base_model_is_saved_under_the_name_given(train_here: Any, make_config: Any) -> None:
    config = make_config(lora=True, training_args={"max_steps": 1})
    config.spec["data_conf"]["chat_template_name"] = "poro"  # adds tokens
    config.spec["sft_args"]["save_name_if_new_basemodel"] = "grown"
    run = train_here(config)
    assert (run.checkpoints / "grown" / "model.safetensors").is_file()
    assert not (run.checkpoints / "checkpoint-new-basemodel").exists()


def test_no_validation_data_is_no_validation(run_job: Any, validation: Path) -> None:
    assert run_job(validation={"type": "NONE"}).report.eval_loss is None
    assert run_job(validation=validation).report.eval_loss is not None


def test_the_first_step_is_logged_when_asked(train_here: Any, make_config: Any) -> None:
    arguments = {"logging_steps": 3, "max_steps": 4}
    assert list(train_here(make_config(training_args=arguments)).losses) == [3, 4]  # the last step always is
    assert list(train_here(make_config(training_args={**arguments, "logging_first_step": True})).losses) == [1, 3, 4]


# The lora_config of document 001.
LORA_CONFIG = {
    "r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "target_modules": [
        *("q_proj", "v_proj", "k_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        *("embed_tokens", "lm_head"),
    ],
    "modules_to_save": [],
    "bias": "none",
    "fan_in_fan_out": False,
    "init_lora_weights": True,
}


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"r": 3, "lora_alpha": 7},
        {"lora_dropout": 0.0},
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["c_attn"], "fan_in_fan_out": True, "bias": "all"},
        {"init_lora_weights": "gaussian"},
    ],
    ids=lambda changed: "-".join(changed) or "as in the document",
)
def test_every_lora_argument_is_pefts(run_job: Any, base_model: Path, make_model: Any, changed: dict[str, Any]) -> None:
    """The same weights are trained, under the same names, as with peft used by hand; and the config says so."""
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    given = {**LORA_CONFIG, **changed}
    folder = make_model(architecture="gpt2") if "fan_in_fan_out" in changed else base_model
    run = run_job(model=folder, lora=given)
    by_hand = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), LoraConfig(task_type="CAUSAL_LM", **given))
    wanted = {
        name: tuple(value.shape)
        for name, value in get_peft_model_state_dict(by_hand, save_embedding_layers=False).items()
    }
    with safe_open(run.final / "adapter_model.safetensors", "pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert found == wanted
    stored = json.loads((run.final / "adapter_config.json").read_text(encoding="utf-8"))
    for key, value in given.items():
        assert (sorted(stored[key]) if isinstance(value, list) else stored[key]) == (
            sorted(value) if isinstance(value, list) else value
        )
    trained = sum(parameter.numel() for parameter in by_hand.parameters() if parameter.requires_grad)
    assert run.report.effective.trainable_parameters == trained

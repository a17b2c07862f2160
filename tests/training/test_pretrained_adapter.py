"""PRETRAINED_PEFT: training goes on from an adapter as PEFT would by hand, whatever type the adapter has."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

KINDS: dict[str, dict[str, Any]] = {
    "LORA": {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj", "embed_tokens"]},
    "IA3": {},
    "PROMPT_TUNING": {"num_virtual_tokens": 4},
    "PREFIX_TUNING": {"num_virtual_tokens": 4},
}
ARGUMENTS = {"optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0, "learning_rate": 0.5, "max_steps": 4}


def config_of(make_config: Any, peft: dict[str, Any], **arguments: Any) -> Any:
    return make_config(total=6, training_args={**ARGUMENTS, "save_steps": 2, **arguments}, spec={"peft_conf": peft})


@pytest.fixture
def pretrained(train_here: Any, make_config: Any) -> Any:
    """pretrained(kind) -> the folder of an adapter after two steps."""
    return lambda kind, kwargs: (
        train_here(config_of(make_config, {"peft_type": kind, "peft_kwargs": kwargs}, max_steps=2)).final
    )


@pytest.mark.parametrize("kind", KINDS)
def test_training_goes_on_as_by_hand_and_resumes(
    kind: str, pretrained: Any, train_here: Any, make_config: Any, base_model: Path, tmp_path: Path
) -> None:
    import torch
    from peft import AutoPeftModelForCausalLM, PeftConfig, PeftModel, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from finetune_trainer.data import load_training_data, prepare_tokenizer
    from finetune_trainer.train.sampler import epoch_order

    adapter = pretrained(kind, KINDS[kind])
    config = config_of(make_config, {"peft_type": "PRETRAINED_PEFT", "name_or_path": str(adapter)})
    run = train_here(config)

    tokenizer = prepare_tokenizer(config, AutoTokenizer.from_pretrained(base_model)).tokenizer
    rows = load_training_data(config, tokenizer, Path("/nowhere")).train
    order = epoch_order([len(row) for row in rows], seed=42, epoch=0, sampling="random")
    base = AutoModelForCausalLM.from_pretrained(base_model)
    if "TUNING" in kind:  # PEFT loads prompts for inference only
        model = get_peft_model(base, PeftConfig.from_pretrained(adapter, inference_mode=False))
        set_peft_model_state_dict(model, load_file(adapter / "adapter_model.safetensors"))
    else:
        model = PeftModel.from_pretrained(base, adapter, is_trainable=True)
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.5)
    for step in range(4):
        chosen = [rows[number] for number in order[step * 6 : step * 6 + 6]]
        total, loss = sum(len(row) - 1 for row in chosen), 0.0
        for row in chosen:
            labels = torch.tensor([[-100, *row.labels[1:]]])
            loss = loss + model(torch.tensor([row.input_ids]), labels=labels).loss * (len(row) - 1) / total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert run.losses[step + 1] == pytest.approx(loss.item(), rel=2e-5)

    ids = torch.arange(12)[None] + 7

    def logits(one: Any) -> Any:
        with torch.no_grad():
            return one.eval()(input_ids=ids).logits

    wanted = logits(model)
    torch.testing.assert_close(
        logits(AutoPeftModelForCausalLM.from_pretrained(run.final)), wanted, rtol=1e-4, atol=2e-5
    )
    merged = run.checkpoints / "checkpoint-final-merged"
    if "TUNING" in kind:  # known only now that the adapter was read
        assert not merged.exists()
        assert any(f"a {kind} adapter cannot be merged" in notice for notice in run.notices)
    else:
        torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(merged)), wanted, rtol=1e-4, atol=2e-5)
    assert f"- {kind.lower()}" in (run.final / "README.md").read_text(encoding="utf-8")

    shutil.copytree(run.checkpoints / "checkpoint-2", tmp_path / "checkpoints" / "checkpoint-2")
    assert train_here(config, tmp_path).losses == run.losses


def test_it_goes_on_quantised_weights_too(pretrained: Any, train_here: Any, make_config: Any, base_model: Path) -> None:
    adapter = pretrained("LORA", KINDS["LORA"])
    peft = {"peft_type": "PRETRAINED_PEFT", "name_or_path": str(adapter)}
    plain = train_here(config_of(make_config, peft))
    coarse = train_here(
        make_config(total=6, training_args=ARGUMENTS, spec={"peft_conf": peft, "quant_conf": {"load_in_8bit": True}})
    )
    assert coarse.losses != plain.losses
    assert coarse.losses == pytest.approx(plain.losses, rel=0.01)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft_type": "P_TUNING"}, "the files of a P_TUNING adapter do not hold all that was trained"),
        ({"peft_type": "XLORA"}, "its type is XLORA; types that can be continued: LORA, IA3"),
        ({"task_type": "SEQ_CLS"}, "its task_type is SEQ_CLS, not CAUSAL_LM"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights pissa changes the base model"),
        ({"from_the_future": 7}, "PEFT here does not know its from_the_future, which is 7"),
        ({"target_modules": ["q_proj"]}, "the model has no place for base_model.*v_proj"),
        ({"r": 8}, "does not fit this base model: .*size mismatch"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_an_adapter_that_cannot_be_continued_is_refused(
    changes: dict[str, Any], words: str, train_here: Any, make_config: Any, lora_folder: Path, tmp_path: Path
) -> None:
    from finetune_trainer.errors import BadConfiguration

    folder = tmp_path / "adapter"
    shutil.copytree(lora_folder, folder)
    given = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    (folder / "adapter_config.json").write_text(json.dumps({**given, **changes}), encoding="utf-8")
    with pytest.raises(BadConfiguration, match=words):
        train_here(config_of(make_config, {"peft_type": "PRETRAINED_PEFT", "name_or_path": str(folder)}))


@pytest.fixture(scope="module")
def lora_folder(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter made by PEFT alone."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("lora")
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"])
    get_peft_model(AutoModelForCausalLM.from_pretrained(base_model), config).save_pretrained(folder)
    return folder


def test_an_adapter_for_another_model_is_refused(
    train_here: Any, make_config: Any, make_model: Any, lora_folder: Path
) -> None:
    from finetune_trainer.errors import BadConfiguration

    peft = {"peft_type": "PRETRAINED_PEFT", "name_or_path": str(lora_folder)}
    config = make_config(model=make_model(hidden_size=64), spec={"peft_conf": peft}, training_args=ARGUMENTS)
    with pytest.raises(BadConfiguration, match=r"does not fit this base model: .*it was trained on"):
        train_here(config)


def test_a_repository_of_the_hub_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lora_folder: Path) -> None:
    import huggingface_hub

    from finetune_api.peft_conf import PretrainedPeftConfig
    from finetune_api.spec import FineTuneJobSpec
    from finetune_trainer.adapter_source import adapter_directory, fetch_adapter

    asked = []

    def download(name: str, **options: Any) -> None:
        asked.append((name, options["allow_patterns"]))
        shutil.copytree(lora_folder, options["local_dir"] / "nested")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    adapter = PretrainedPeftConfig(peft_type="PRETRAINED_PEFT", name_or_path="hf://org/adapter/nested")
    spec = FineTuneJobSpec.model_construct(peft_conf=adapter)
    fetch_adapter(spec, tmp_path, {})
    assert asked == [("org/adapter", ["nested/adapter_config.json", "nested/adapter_model.safetensors"])]
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert adapter_directory(spec, tmp_path) == tmp_path / "adapter"

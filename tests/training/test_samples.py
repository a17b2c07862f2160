"""Samples at evaluations: written greedily, read in the log, on the volume and in MLflow, without touching training."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.errors import BadConfiguration

PROMPTS = ["what is your name", "the cat"]


def sampled(make_config: Any, prompts: list[str] | None = None, **given: Any) -> Any:
    """2 epochs over the dialogues with dropout, an evaluation after each, samples with it."""
    conf = {"evaluation_conf": {"sample_prompts": prompts, "sample_max_new_tokens": 5}} if prompts else {}
    arguments = {"eval_strategy": "epoch", "save_strategy": "epoch", **given.pop("training_args", {})}
    return make_config(
        lora={"r": 4, "lora_dropout": 0.2, "target_modules": "all-linear"},
        validation={"type": "AUTO_SPLIT", "ratio": 0.25},
        training_args=arguments,
        spec={**conf, **given.pop("spec", {})},
        **given,
    )


def samples_of(run: Any) -> list[dict[str, Any]]:
    path = run.work / "records/samples.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_samples_at_every_evaluation_and_the_same_losses(train_here: Any, make_config: Any) -> None:
    without = train_here(sampled(make_config))
    run = train_here(sampled(make_config, PROMPTS))
    assert run.losses == without.losses
    assert run.eval_losses == without.eval_losses
    found = samples_of(run)
    steps = list(run.eval_losses)
    assert len(steps) == 2
    assert [(sample["step"], sample["prompt"]) for sample in found] == [(s, p) for s in steps for p in PROMPTS]
    assert all(isinstance(sample["output"], str) for sample in found)


def test_the_answer_is_greedy_after_the_chat_template(train_here: Any, make_config: Any) -> None:
    """What the exported, merged model writes by hand after the last step: the most probable token, again and again."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = train_here(sampled(make_config, PROMPTS, training_args={"learning_rate": 2e-2}))
    folder = run.checkpoints / "checkpoint-final-merged"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    stops = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")}
    for sample in samples_of(run)[-2:]:
        text = f"<|im_start|>user\n{sample['prompt']}<|im_end|>\n<|im_start|>assistant\n"
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        begin = len(ids)
        for _ in range(5):
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] in stops:
                break
        assert sample["output"] == tokenizer.decode(ids[begin:], skip_special_tokens=True)


def test_plain_text_goes_on_from_the_prompt(train_here: Any, make_config: Any, tmp_path: Path) -> None:
    """Method clm: no chat template."""
    path = tmp_path / "texts.txt"
    path.write_text("the cat sat on a mat\n" * 20, encoding="utf-8")
    files = {"training_data": {"type": "CONCATENATION", "datasets": [{"path": str(path)}]}}
    config = make_config(
        training_args={"eval_strategy": "epoch", "num_train_epochs": 6, "learning_rate": 2e-2},
        spec={
            "method": "clm",
            "data_conf": {**files, "validation_data": {"type": "AUTO_SPLIT"}},
            "sft_args": None,
            "clm_args": {"block_size": 16},
            "evaluation_conf": {"sample_prompts": ["the cat sat on"], "sample_max_new_tokens": 3},
        },
    )
    assert samples_of(train_here(config))[-1]["output"].startswith(" a mat")


def test_a_resumed_run_has_the_samples_of_an_uninterrupted_one(train_here: Any, make_config: Any) -> None:
    config = sampled(make_config, PROMPTS, training_args={"num_train_epochs": 3})
    whole = train_here(config)
    steps = list(whole.eval_losses)
    first = train_here(config, stop_after=steps[1] + 1)
    stale = {"step": steps[-1], "prompt": "of an attempt that went further", "output": ""}
    with (first.work / "records/samples.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(stale) + "\n")
    assert samples_of(train_here(config, work=first.work)) == samples_of(whole)


def test_samples_go_to_mlflow(train_here: Any, make_config: Any, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    uri = str(tmp_path / "mlruns")
    tracking = {"tracking": {"mlflow_server_uri": uri, "experiment_name": "samples"}}
    run = train_here(sampled(make_config, PROMPTS[:1], spec=tracking, training_args={"max_steps": 2}))
    client = MlflowClient(uri)
    (listed,) = client.list_artifacts(run.report.mlflow.run_id, "samples")
    assert listed.path == "samples/step-2.json"
    local = client.download_artifacts(run.report.mlflow.run_id, listed.path, str(tmp_path))
    assert json.loads(Path(local).read_text(encoding="utf-8")) == samples_of(run)


def test_a_model_that_cannot_write_is_trained_all_the_same(
    train_here: Any, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    def broken(*given: Any, **named: Any) -> None:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(LlamaForCausalLM, "generate", broken)
    run = train_here(sampled(make_config, PROMPTS))
    assert run.error is None
    assert [one for one in run.notices if one.startswith("no samples: ")] == [
        "no samples: the model cannot generate (RuntimeError: no such thing)"
    ]


def test_a_prompt_without_room_for_an_answer_is_refused(train_here: Any, make_config: Any, make_model: Any) -> None:
    model = make_model(architecture="gpt2", n_positions=70)
    config = sampled(make_config, ["the cat " * 100], model=model)
    with pytest.raises(BadConfiguration, match=r"sample_prompts\[0\] has \d+ tokens, but the model has 70 positions"):
        train_here(config)


def test_a_template_that_wants_more_than_a_prompt_is_told(base_model: Path) -> None:
    from transformers import AutoTokenizer

    from finetune_trainer.train.samples import prompt_ids

    tokenizer = AutoTokenizer.from_pretrained(base_model)
    tokenizer.chat_template = "{{ raise_exception('a system message first') }}"
    with pytest.raises(BadConfiguration, match=r"refuses a single user's message \(a system message first\)"):
        prompt_ids(tokenizer, "hello", chat=True)

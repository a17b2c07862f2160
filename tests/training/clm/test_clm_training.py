"""Document 004's training: its script as a plain loop and with transformers' Trainer, and ours beside them."""

import math
from pathlib import Path
from typing import Any

import pytest

LENGTH = 24  # document 004's max_length, scaled down: the longest texts are cut, the others padded
ARGUMENTS = {  # document 004's list, with warmup and epochs scaled down
    "evaluation_strategy": "epoch",
    "learning_rate": 5e-3,
    "num_train_epochs": 2,
    "weight_decay": 0.01,
    "warmup_steps": 4,
    "logging_dir": "./logs",
    "logging_steps": 1,
    "save_strategy": "epoch",
    "train_sampling_strategy": "sequential",
}


def document_rows(folder: Path, path: Path) -> list[dict[str, Any]]:
    """Its preprocess_function, and the labels that it forgets: the text's own tokens, -100 where it is padded."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line]
    rows = []
    for line in lines:
        row = tokenizer(line, truncation=True, padding="max_length", max_length=LENGTH, return_tensors="pt")
        labels = torch.where(row["attention_mask"].bool(), row["input_ids"], -100)
        rows.append({"input_ids": row["input_ids"][0], "attention_mask": row["attention_mask"][0], "labels": labels[0]})
    return rows


@pytest.fixture(scope="module")
def rows(gpt2: Path, text_file: Path) -> list[dict[str, Any]]:
    return document_rows(gpt2, text_file)


def job(clm_job: Any, gpt2: Path, text_file: Path, validation: Any = None, **arguments: Any) -> Any:
    given = {**ARGUMENTS, **arguments}
    if validation is None:
        given.pop("evaluation_strategy")
    return clm_job(
        gpt2,
        text_file,
        validation=validation,
        training_args=given,
        total=5,
        per_device=5,
        block_size=LENGTH,
        overlength="truncate",
        padding="max_length",
    )


def test_document_004_as_a_plain_loop(
    train_here: Any, clm_job: Any, gpt2: Path, text_file: Path, validation_file: Path, rows: list[dict[str, Any]]
) -> None:
    """Losses step by step, and the evaluation loss after each epoch with its perplexity."""
    import torch
    from transformers import AutoModelForCausalLM

    config = job(clm_job, gpt2, text_file, validation_file)
    run = train_here(config)

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(gpt2)
    decayed = [p for name, p in model.named_parameters() if p.ndim > 1]  # GPT-2's vectors are biases and norms
    spared = [p for name, p in model.named_parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": spared, "weight_decay": 0.0}], lr=5e-3
    )
    per_epoch = math.ceil(len(rows) / 5)
    total = 2 * per_epoch
    checked = document_rows(gpt2, validation_file)
    step = 0
    for epoch in range(2):
        for at in range(0, len(rows), 5):
            batch = rows[at : at + 5]
            rate = 5e-3 * (step / 4 if step < 4 else (total - step) / (total - 4))
            for group in optimizer.param_groups:
                group["lr"] = rate
            columns = {key: torch.stack([row[key] for row in batch]) for key in batch[0]}
            loss = model(**columns).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            assert run.losses[step] == pytest.approx(loss.item(), rel=2e-5), f"step {step}"
        with torch.no_grad():
            sums = [(model(**{k: v[None] for k, v in row.items()}).loss.item(), targets(row)) for row in checked]
        mean = sum(loss * count for loss, count in sums) / sum(count for _, count in sums)
        assert run.eval_losses[per_epoch * (epoch + 1)] == pytest.approx(mean, rel=2e-5)
    assert step == total == max(run.losses)
    last = [entry for entry in run.history() if "eval_loss" in entry][-1]
    assert last["eval_perplexity"] == pytest.approx(math.exp(mean), rel=1e-4)


def test_with_transformers_own_trainer(
    train_here: Any, clm_job: Any, gpt2: Path, text_file: Path, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    """transformers.Trainer on the same rows. It divides by all labels, so the first one, which nothing predicts, is
    left out; and it rounds what it logs, so each step's loss is taken where it is computed."""
    import torch
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    found: list[float] = []

    class Recorded(Trainer):
        def training_step(self, *given: Any, **named: Any) -> Any:
            loss = super().training_step(*given, **named)
            found.append(loss.item())
            return loss

    class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, index: int) -> dict[str, Any]:
            labels = rows[index]["labels"].clone()
            labels[0] = -100
            return {**rows[index], "labels": labels}

    ours = job(clm_job, gpt2, text_file)
    run = train_here(ours)
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        learning_rate=5e-3,
        per_device_train_batch_size=5,
        num_train_epochs=2,
        weight_decay=0.01,
        warmup_steps=4,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        train_sampling_strategy="sequential",
        disable_tqdm=True,
    )
    Recorded(model=AutoModelForCausalLM.from_pretrained(gpt2), args=arguments, train_dataset=Rows()).train()
    assert list(run.losses.values()) == pytest.approx(found, rel=2e-5)


def test_what_is_saved_loads_and_continues_text(
    train_here: Any, clm_job: Any, gpt2: Path, text_file: Path, validation_file: Path
) -> None:
    """Model and tokenizer, without a chat template of ours; the card says how good it is."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = train_here(job(clm_job, gpt2, text_file, validation_file, num_train_epochs=1))
    model = AutoModelForCausalLM.from_pretrained(run.final)
    tokenizer = AutoTokenizer.from_pretrained(run.final)
    assert tokenizer.chat_template is None
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    written = model.generate(**tokenizer("the cat", return_tensors="pt"), max_new_tokens=4)
    assert written.shape[1] > 2
    card = (run.final / "README.md").read_text(encoding="utf-8")
    assert f"| evaluation perplexity | {math.exp(run.report.eval_loss):.4f} |" in card
    assert "apply_chat_template" not in card
    assert 'tokenizer("' in card


def test_resume_goes_on_with_the_same_losses(train_here: Any, clm_job: Any, gpt2: Path, text_file: Path) -> None:
    """With dropout, packing and shuffling."""
    config = clm_job(
        gpt2,
        text_file,
        training_args={"num_train_epochs": 2},
        run_conf={"model_hyperparameters": {"dropout": 0.2}},
        overlength="pack",
    )
    whole = train_here(config)
    first = train_here(config, stop_after=len(whole.losses) // 2)
    assert first.error is not None
    assert train_here(config, work=first.work).losses == whole.losses


def targets(row: dict[str, Any]) -> int:
    return int((row["labels"][1:] != -100).sum())


def test_an_adapter_on_plain_text(train_here: Any, clm_job: Any, gpt2: Path, text_file: Path) -> None:
    """The exported adapter merges into a model that loads; the loss falls."""
    from transformers import AutoModelForCausalLM

    peft = {"peft_type": "LORA", "peft_kwargs": {"r": 4, "target_modules": ["c_attn"], "fan_in_fan_out": True}}
    run = train_here(
        clm_job(gpt2, text_file, training_args={"max_steps": 8, "learning_rate": 2e-2}, spec={"peft_conf": peft})
    )
    assert run.losses[8] < run.losses[1]
    AutoModelForCausalLM.from_pretrained(run.checkpoints / "checkpoint-final-merged")


def test_the_last_report_says_the_perplexity() -> None:
    from types import SimpleNamespace

    from finetune_trainer.train.rank import Rank

    rank = Rank()
    rank.progress.update(step=9, first_loss=4.0, loss=3.0, eval_loss=2.0)
    for method, told in (("clm", ", evaluation loss 2.0000 (perplexity 7.39)"), ("sft", ", evaluation loss 2.0000")):
        spec = SimpleNamespace(method=method)
        settings = SimpleNamespace(resolved=SimpleNamespace(spec=spec))
        rank.run = SimpleNamespace(settings=settings, remarks=[])  # type: ignore[assignment]
        assert rank._done_text() == f"trained 9 steps, loss 4.0000 to 3.0000{told}"

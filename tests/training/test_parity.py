"""Losses step by step against trainings written without our code: plain torch loops, and TRL's SFTTrainer."""

import math
from pathlib import Path
from typing import Any

import pytest

STEPS = 8
ARGUMENTS = {
    "max_steps": STEPS,
    "learning_rate": 2e-3,
    "optim": "adamw_torch",
    "weight_decay": 0.1,
    "adam_beta1": 0.8,
    "adam_beta2": 0.95,
    "adam_epsilon": 1e-7,
    "max_grad_norm": 0.3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 3,
    "label_smoothing_factor": 0.1,
    "train_sampling_strategy": "sequential",
}


def _rows(config: Any, base_model: Path) -> list[list[int]]:
    """The training rows as token ids; every token is a target."""
    from transformers import AutoTokenizer

    from finetune_trainer.data import load_training_data, prepare_tokenizer

    tokenizer = prepare_tokenizer(config, AutoTokenizer.from_pretrained(base_model)).tokenizer
    rows = load_training_data(config, tokenizer, Path("/nowhere")).train
    assert all(list(row.labels) == list(row.input_ids) for row in rows)
    return [list(row.input_ids) for row in rows]


def _batches(rows: list[list[int]], size: int) -> list[list[list[int]]]:
    """Row after row, epoch after epoch; the last batch of an epoch is short."""
    epoch = [rows[at : at + size] for at in range(0, len(rows), size)]
    return (epoch * math.ceil(STEPS / len(epoch)))[:STEPS]


@pytest.mark.parametrize("per_device", [8, 3, 1])
def test_adamw_with_everything_equals_a_plain_loop(
    train_here: Any, make_config: Any, base_model: Path, per_device: int
) -> None:
    """Decay of matrices only, smoothed labels, clipping, warmup and cosine written out; row by row, no padding."""
    import torch
    from transformers import AutoModelForCausalLM

    total = 9 if per_device == 3 else 8
    config = make_config(total=total, per_device=per_device, training_args=ARGUMENTS)
    losses = train_here(config).losses

    model = AutoModelForCausalLM.from_pretrained(base_model)
    matrices = [one for one in model.parameters() if one.ndim == 2]
    others = [one for one in model.parameters() if one.ndim != 2]
    moments = {one: (torch.zeros_like(one), torch.zeros_like(one)) for one in model.parameters()}
    for step, batch in enumerate(_batches(_rows(config, base_model), total)):
        targets = sum(len(row) - 1 for row in batch)
        loss = torch.zeros(())
        for row in batch:
            logits = model(input_ids=torch.tensor([row])).logits[0, :-1].double()
            log_p = logits - logits.exp().sum(-1, keepdim=True).log()
            chosen = log_p.gather(-1, torch.tensor(row[1:]).unsqueeze(-1)).squeeze(-1)
            loss = loss - (0.9 * chosen + 0.1 * log_p.mean(-1)).sum() / targets
        assert losses[step + 1] == pytest.approx(loss.item(), rel=1e-5)
        model.zero_grad()
        loss.backward()
        norm = math.sqrt(sum(float((one.grad.double() ** 2).sum()) for one in model.parameters()))
        factor = min(1.0, 0.3 / (norm + 1e-6))
        # Warmup reaches the peak with the step after the third; then half a cosine over the other five.
        rate = 2e-3 * (step / 3 if step < 3 else 0.5 * (1 + math.cos(math.pi * (step - 3) / (STEPS - 3))))
        with torch.no_grad():
            for one in [*matrices, *others]:
                gradient = one.grad * factor
                first, second = moments[one]
                first.mul_(0.8).add_(gradient, alpha=0.2)
                second.mul_(0.95).add_(gradient**2, alpha=0.05)
                if one.ndim == 2:
                    one.mul_(1 - rate * 0.1)
                count = step + 1
                one.sub_(rate * (first / (1 - 0.8**count)) / ((second / (1 - 0.95**count)).sqrt() + 1e-7))


@pytest.mark.parametrize(
    ("schedule", "warmup", "rate"),
    [
        ("constant", 0, lambda step: 1.0),
        ("constant_with_warmup", 4, lambda step: min(1.0, step / 4)),
        ("linear", 0, lambda step: 1 - step / 20),
        ("linear", 4, lambda step: step / 4 if step < 4 else (20 - step) / 16),
        ("linear", 0.2, lambda step: step / 4 if step < 4 else (20 - step) / 16),
        ("linear", 0.11, lambda step: step / 3 if step < 3 else (20 - step) / 17),  # 2.2 steps are rounded up
        ("cosine", 0, lambda step: 0.5 * (1 + math.cos(math.pi * step / 20))),
        ("cosine", 4, lambda step: step / 4 if step < 4 else 0.5 * (1 + math.cos(math.pi * (step - 4) / 16))),
        ("cosine", 0.2, lambda step: step / 4 if step < 4 else 0.5 * (1 + math.cos(math.pi * (step - 4) / 16))),
    ],
)
def test_schedules_are_their_formulas(schedule: str, warmup: float, rate: Any, make_config: Any) -> None:
    import torch

    from finetune_trainer.train.optimizer import build_schedule, restore_schedule
    from finetune_trainer.train.settings import read_settings, read_spec

    job = make_config(training_args={"lr_scheduler_type": schedule, "warmup_steps": warmup, "learning_rate": 1e-3})
    settings = read_settings(job, read_spec(job)).optimizer
    weight = torch.nn.Parameter(torch.zeros(()))

    def fresh() -> tuple[Any, Any]:
        optimizer = torch.optim.SGD([weight], lr=1e-3)
        return optimizer, build_schedule(optimizer, settings, 20)

    optimizer, running = fresh()
    for step in range(20):
        resumed, put_back = fresh()
        restore_schedule(put_back, step)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * rate(step), abs=1e-12)
        assert resumed.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
        optimizer.step()
        running.step()


@pytest.mark.parametrize(
    ("per_device", "arguments"),
    [
        (8, {"lr_scheduler_type": "linear", "warmup_steps": 2, "weight_decay": 0.1}),
        (2, {"lr_scheduler_type": "cosine", "warmup_steps": 0.25, "max_grad_norm": 0.5}),
        (4, {"lr_scheduler_type": "constant", "gradient_checkpointing": True}),
    ],
    ids=["linear", "accumulated, cosine", "checkpointed, constant"],
)
def test_losses_and_gradients_are_those_of_trl(
    train_here: Any,
    make_config: Any,
    base_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    per_device: int,
    arguments: dict[str, Any],
) -> None:
    """TRL's SFTTrainer on the same rows in the same order; 5 steps, before the short batch that it fills with rows."""
    shared = {
        "max_steps": 5,
        "learning_rate": 1e-3,
        "optim": "adamw_torch",
        "seed": 42,
        "logging_steps": 1,
        **arguments,
    }
    mine = {**shared, "train_sampling_strategy": "sequential"}
    config = make_config(total=8, per_device=per_device, training_args=mine)
    run = train_here(config)

    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(base_model),
        processing_class=AutoTokenizer.from_pretrained(base_model),
        train_dataset=Dataset.from_list([{"input_ids": row} for row in _rows(config, base_model)]),
        args=SFTConfig(
            **{"gradient_checkpointing": False, **shared},
            output_dir=str(tmp_path),
            per_device_train_batch_size=per_device,
            gradient_accumulation_steps=8 // per_device,
            max_length=128,
            packing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            train_sampling_strategy="sequential",
        ),
    )
    trainer.train()
    theirs = [entry for entry in trainer.state.log_history if "loss" in entry]
    ours = [entry for entry in run.history() if "loss" in entry]
    assert len(ours) == len(theirs) == 5
    for mine_entry, their_entry in zip(ours, theirs, strict=True):
        assert mine_entry["loss"] == pytest.approx(their_entry["loss"], rel=1e-5)
        assert mine_entry["grad_norm"] == pytest.approx(their_entry["grad_norm"], rel=1e-4)
        assert mine_entry["learning_rate"] == pytest.approx(their_entry["learning_rate"], rel=1e-9)


@pytest.mark.parametrize("lora", [False, {"r": 4, "lora_dropout": 0.2}], ids=["full", "lora with dropout"])
def test_gradient_checkpointing_changes_no_number(train_here: Any, make_config: Any, lora: Any) -> None:
    """The activations that are computed again draw the same dropout."""
    plain = train_here(make_config(lora=lora, per_device=4, training_args={"max_steps": 4}))
    again = train_here(
        make_config(lora=lora, per_device=4, training_args={"max_steps": 4, "gradient_checkpointing": True})
    )
    assert again.losses == pytest.approx(plain.losses, rel=1e-7)

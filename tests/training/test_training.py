"""What training does to a model: the loss falls, by the same numbers every time, whatever the batches are made of."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

# Losses of the first four steps with the settings of make_config: seed 42, one thread. A change here changes results
# for users: it must be meant.
PINNED_FULL = {1: 5.829485, 2: 5.637970, 3: 5.492089, 4: 5.403012}
PINNED_LORA = {1: 5.829485, 2: 5.790884, 3: 5.768152, 4: 5.744545}


def test_the_loss_falls(train_here: Any, make_config: Any, validation: Path) -> None:
    run = train_here(
        make_config(validation=validation, training_args={"num_train_epochs": 6, "eval_strategy": "epoch"})
    )
    losses = run.losses
    assert losses[max(losses)] < losses[1] - 1.0
    evaluations = list(run.eval_losses.values())
    assert len(evaluations) == 6
    assert evaluations[-1] < evaluations[0]
    assert run.report.first_loss == losses[1]
    assert run.report.loss == losses[max(losses)]
    assert run.report.eval_loss == evaluations[-1]


@pytest.mark.parametrize(("lora", "pinned"), [(False, PINNED_FULL), (True, PINNED_LORA)], ids=["full", "lora"])
def test_losses_are_those_of_the_last_release(
    train_here: Any, make_config: Any, lora: bool, pinned: dict[int, float]
) -> None:
    run = train_here(make_config(lora=lora, training_args={"max_steps": 4}))
    assert run.losses == pytest.approx(pinned, rel=1e-4)


def test_the_same_job_twice_gives_the_same_losses(train_here: Any, make_config: Any) -> None:
    config = make_config(lora={"r": 4, "lora_dropout": 0.1, "target_modules": "all-linear"})
    assert train_here(config).losses == train_here(config).losses


def test_steps_agree_with_a_loop_written_by_hand(
    train_here: Any, make_config: Any, base_model: Path, dialogues: Path
) -> None:
    """Plain torch on whole batches of single rows: no padding, no accumulation, no sampler of ours."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from finetune_trainer.data import load_training_data, prepare_tokenizer
    from finetune_trainer.train.sampler import epoch_order

    config = make_config(
        per_device=3,
        total=6,
        training_args={"optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0.5, "max_steps": 5},
    )
    run = train_here(config)

    tokenizer = prepare_tokenizer(config, AutoTokenizer.from_pretrained(base_model)).tokenizer
    rows = load_training_data(config, tokenizer, Path("/nowhere")).train
    order = epoch_order([len(row) for row in rows], seed=42, epoch=0, sampling="random")
    model = AutoModelForCausalLM.from_pretrained(base_model)
    optimizer = torch.optim.SGD(model.parameters(), lr=5e-3)
    for step in range(5):
        chosen = [rows[number] for number in order[step * 6 : step * 6 + 6]]
        total = sum(len(row) - 1 for row in chosen)
        loss = sum(
            model(input_ids=torch.tensor([row.input_ids]), labels=torch.tensor([row.labels])).loss * (len(row) - 1)
            for row in chosen
        )
        loss = loss / total
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        assert run.losses[step + 1] == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize(
    "batch",
    [{"per_device": 2}, {"per_device": 3}, {"per_device": 1}],
    ids=["accumulate 4", "accumulate 4 of 2", "one by one"],
)
def test_accumulation_changes_nothing(train_here: Any, make_config: Any, batch: dict[str, int]) -> None:
    """42 rows in batches of 8: the last batch of each epoch has 2 rows, so some micro-batches are short or empty."""
    whole = train_here(make_config(per_device=8)).losses
    assert len(whole) == 12
    assert train_here(make_config(**batch)).losses == pytest.approx(whole, rel=1e-5)


def test_padding_side_changes_nothing(train_here: Any, make_config: Any) -> None:
    right = make_config(training_args={"max_steps": 3})
    left = right.model_copy(deep=True)
    left.spec["data_conf"]["padding_side"] = "left"
    assert train_here(left).losses == pytest.approx(train_here(right).losses, rel=1e-5)


def test_length_grouping_trains_every_row_once_an_epoch(train_here: Any, make_config: Any) -> None:
    run = train_here(make_config(training_args={"train_sampling_strategy": "group_by_length", "num_train_epochs": 1}))
    state = json.loads((run.checkpoints / "checkpoint-6" / "trainer_state.json").read_text())
    assert state["tokens"] == run.report.dataset.tokens


@pytest.mark.parametrize("eval_batch", [1, 3, 64])
def test_evaluation_does_not_depend_on_its_batch(
    train_here: Any, make_config: Any, validation: Path, eval_batch: int
) -> None:
    arguments = {"max_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "eval_on_start": True}
    config = make_config(validation=validation, training_args=arguments, eval_batch=eval_batch)
    run = train_here(config)
    reference = train_here(make_config(validation=validation, training_args=arguments, eval_batch=5))
    assert run.eval_losses == pytest.approx(reference.eval_losses, rel=1e-6)
    assert list(run.eval_losses) == [0, 1]


def test_validation_data_without_a_strategy_is_used_at_the_end(
    train_here: Any, make_config: Any, validation: Path
) -> None:
    run = train_here(make_config(validation=validation, training_args={"max_steps": 2}))
    assert list(run.eval_losses) == [2]
    perplexity = next(entry for entry in run.history() if "eval_loss" in entry)["eval_perplexity"]
    assert perplexity == pytest.approx(math.exp(run.eval_losses[2]))


def test_shares_of_all_steps_are_steps(train_here: Any, make_config: Any, validation: Path) -> None:
    """logging_steps, eval_steps, save_steps and warmup_steps below 1 are shares of the 12 steps."""
    run = train_here(
        make_config(
            validation=validation,
            training_args={
                "logging_steps": 0.25,
                "eval_strategy": "steps",
                "eval_steps": 0.5,
                "save_steps": 0.34,
                "warmup_steps": 0.25,
                "lr_scheduler_type": "constant_with_warmup",
            },
        )
    )
    assert list(run.losses) == [3, 6, 9, 12]
    assert list(run.eval_losses) == [6, 12]
    assert sorted(path.name for path in run.checkpoints.glob("checkpoint-[0-9]*")) == [
        "checkpoint-10",
        "checkpoint-12",
        "checkpoint-5",
    ]
    rates = {entry["step"]: entry["learning_rate"] for entry in run.history() if "learning_rate" in entry}
    assert rates == pytest.approx({3: 5e-3 * 2 / 3, 6: 5e-3, 9: 5e-3, 12: 5e-3})


def test_a_loss_that_is_no_number_ends_the_job_with_advice(train_here: Any, make_config: Any, tmp_path: Path) -> None:
    from finetune_trainer.errors import TrainerError

    config = make_config(
        training_args={
            "learning_rate": 1e3,
            "optim": "sgd",
            "max_grad_norm": 0,
            "save_steps": 1,
            "lr_scheduler_type": "constant",
        }
    )
    with pytest.raises(
        TrainerError, match=r"the training loss is (nan|inf) at step \d+: lower training_args.learning_rate"
    ):
        train_here(config, tmp_path)
    finished = [json.loads(path.read_text()) for path in tmp_path.glob("checkpoints/*/trainer_state.json")]
    assert all(math.isfinite(entry["loss"]) for state in finished for entry in state["history"])


@pytest.mark.parametrize(
    "arguments",
    [
        {"label_smoothing_factor": 0.1},
        {"gradient_checkpointing": True},
        {"bf16": True},
        {"dataloader_num_workers": 1, "dataloader_prefetch_factor": 2},
        {"full_determinism": True},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_switches_take_effect(train_here: Any, make_config: Any, arguments: dict[str, Any]) -> None:
    plain = train_here(make_config(training_args={"max_steps": 2})).losses
    changed = train_here(make_config(training_args={"max_steps": 2, **arguments})).losses
    if arguments.keys() & {"label_smoothing_factor", "bf16"}:
        assert changed != plain
        assert changed == pytest.approx(plain, rel=0.02)
    else:  # these save memory or time, and must not change a result
        assert changed == pytest.approx(plain, rel=1e-6)

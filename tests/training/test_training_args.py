"""training_args key by key, where no other test shows that it acts: against plain torch where it changes numbers."""

import logging
from pathlib import Path
from typing import Any

import pytest


def by_hand(config: Any, base_model: Path, steps: int, **adam: Any) -> dict[int, float]:
    """AdamW of torch over whole batches in the loop's order, constant rate; the loss of each step."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from finetune_trainer.data import load_training_data, prepare_tokenizer
    from finetune_trainer.train.sampler import epoch_order

    tokenizer = prepare_tokenizer(config, AutoTokenizer.from_pretrained(base_model)).tokenizer
    rows = load_training_data(config, tokenizer, Path("/nowhere")).train
    order = epoch_order([len(row) for row in rows], seed=42, epoch=0, sampling="random")
    model = AutoModelForCausalLM.from_pretrained(base_model)
    named = dict(model.named_parameters())
    decayed = [value for name, value in named.items() if "norm" not in name]
    spared = [value for name, value in named.items() if "norm" in name]
    decay = adam.pop("weight_decay", 0.0)
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": decay}, {"params": spared, "weight_decay": 0.0}], **adam
    )
    losses = {}
    for step in range(steps):
        chosen = [rows[number] for number in order[step * 6 : step * 6 + 6]]
        total = sum(len(row) - 1 for row in chosen)
        loss = sum(
            model(input_ids=torch.tensor([row.input_ids]), labels=torch.tensor([row.labels])).loss * (len(row) - 1)
            for row in chosen
        )
        optimizer.zero_grad()
        (loss / total).backward()
        optimizer.step()
        losses[step + 1] = loss.item() / total
    return losses


@pytest.mark.parametrize(
    ("arguments", "adam"),
    [
        ({"adam_beta1": 0.5}, {"betas": (0.5, 0.999)}),
        ({"adam_beta2": 0.8}, {"betas": (0.9, 0.8)}),
        ({"adam_epsilon": 1e-3}, {"eps": 1e-3}),
        ({"weight_decay": 0.5}, {"weight_decay": 0.5}),
    ],
    ids=lambda given: next(iter(given)),
)
def test_adamw_takes_its_numbers(
    train_here: Any, make_config: Any, base_model: Path, arguments: dict[str, Any], adam: dict[str, Any]
) -> None:
    config = make_config(
        total=6,
        per_device=6,
        training_args={
            **{"lr_scheduler_type": "constant", "max_grad_norm": 0, "max_steps": 4, "learning_rate": 0.01},
            **arguments,
        },
    )
    losses = train_here(config).losses
    assert losses == pytest.approx(by_hand(config, base_model, 4, lr=0.01, **adam), rel=1e-5)
    assert losses != pytest.approx(by_hand(config, base_model, 4, lr=0.01), rel=1e-5), "the key changed nothing"


@pytest.mark.parametrize(
    ("arguments", "logged"),
    [
        ({"logging_strategy": "steps", "logging_steps": 4}, [4, 8, 12]),
        ({"logging_strategy": "epoch"}, [6, 12]),
        ({"logging_strategy": "no"}, []),
    ],
    ids=lambda given: given.get("logging_strategy") if isinstance(given, dict) else "",
)
def test_the_loss_is_logged_as_asked(
    train_here: Any, make_config: Any, arguments: dict[str, Any], logged: list[int]
) -> None:
    assert list(train_here(make_config(training_args=arguments)).losses) == logged


@pytest.mark.parametrize(
    ("arguments", "evaluated"),
    [
        ({"eval_strategy": "steps", "eval_steps": 3, "eval_delay": 6}, [6, 9, 12]),
        ({"eval_strategy": "epoch", "eval_delay": 2}, [12]),
        ({"eval_strategy": "steps", "logging_steps": 5}, [5, 10, 12]),  # eval_steps: as logging_steps
    ],
)
def test_evaluation_begins_after_its_delay(
    train_here: Any, make_config: Any, validation: Path, arguments: dict[str, Any], evaluated: list[int]
) -> None:
    assert list(train_here(make_config(validation=validation, training_args=arguments)).eval_losses) == evaluated


def test_seeds_decide_order_and_dropout(train_here: Any, make_config: Any) -> None:
    """data_seed the order of the rows, and seed everything else; data_seed is seed unless it is given."""

    def losses(**seeds: int) -> dict[int, float]:
        lora = {"r": 4, "lora_dropout": 0.5, "target_modules": "all-linear"}
        found: dict[int, float] = train_here(make_config(lora=lora, training_args={"max_steps": 3, **seeds})).losses
        return found

    plain, other = losses(seed=1), losses(seed=2)
    assert losses(seed=1, data_seed=1) == plain
    assert other[1] != plain[1], "another order"
    same_rows = losses(seed=2, data_seed=1)
    assert same_rows[1] == plain[1], "the same rows, and an adapter that begins as nothing"
    assert same_rows[3] != plain[3], "another dropout"


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_takes_its_arguments(
    train_here: Any, make_config: Any, monkeypatch: pytest.MonkeyPatch, reentrant: bool
) -> None:
    from transformers import modeling_utils

    seen = set()
    original = modeling_utils.checkpoint

    def watched(*args: Any, use_reentrant: bool | None = None, **kwargs: Any) -> Any:
        seen.add(use_reentrant)
        return original(*args, use_reentrant=use_reentrant, **kwargs)

    monkeypatch.setattr(modeling_utils, "checkpoint", watched)
    arguments = {"max_steps": 2, "gradient_checkpointing": True}
    run = train_here(
        make_config(training_args={**arguments, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}})
    )
    assert seen == {reentrant}
    assert run.losses == pytest.approx(train_here(make_config(training_args={"max_steps": 2})).losses, rel=1e-6)


@pytest.fixture
def loaders(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of every DataLoader that was made."""
    from finetune_trainer.train import batches

    made: list[dict[str, Any]] = []

    class Watched(batches.DataLoader):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            made.append(kwargs)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(batches, "DataLoader", Watched)
    return made


def test_the_loaders_keys_reach_it_and_change_no_loss(
    train_here: Any, make_config: Any, loaders: list[dict[str, Any]]
) -> None:
    """Two epochs: one set of workers each, or one that persists."""
    plain = train_here(make_config()).losses
    assert [one["num_workers"] for one in loaders] == [0, 0]
    loaders.clear()
    keys = {"dataloader_num_workers": 1, "dataloader_prefetch_factor": 3, "dataloader_persistent_workers": True}
    assert train_here(make_config(training_args=keys)).losses == plain
    assert [(one["num_workers"], one["prefetch_factor"]) for one in loaders] == [(1, 3)]


def test_memory_is_pinned_for_a_gpu(loaders: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune_trainer.train.batches import load

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for wanted in (True, False):
        examples = type("Examples", (list,), {"collate": None})()
        assert list(load(examples, [], {"pin_memory": wanted})) == []
    assert [one["pin_memory"] for one in loaders] == [True, False]


@pytest.mark.parametrize("wanted", [True, False])
def test_tf32_is_switched_on_a_gpu(make_config: Any, monkeypatch: pytest.MonkeyPatch, wanted: bool) -> None:
    import torch

    from finetune_trainer.train.progress import Progress
    from finetune_trainer.train.run import Run
    from finetune_trainer.train.settings import read_settings, read_spec
    from finetune_trainer.train.stopping import Stop

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config = make_config(training_args={"tf32": wanted})
    run = Run(read_settings(config, read_spec(config)), Progress(attempt=1), Stop())
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    try:
        run._set_numerics()
        assert [switch.allow_tf32 for switch in switches] == [wanted, wanted]
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


@pytest.mark.parametrize(("level", "ours"), [("passive", 20), ("info", 20), ("warning", 30), ("error", 40)])
def test_log_level_is_that_of_the_log(level: str, ours: int) -> None:
    from finetune_trainer.train import console

    before = console.logger.level, console.logger.handlers[:], console.logger.propagate
    try:
        console.set_up(level)
        assert logging.getLogger("finetune").getEffectiveLevel() == ours
    finally:
        console.logger.level, console.logger.handlers[:], console.logger.propagate = before


def test_use_cpu_asks_for_what_a_job_without_gpus_does(train_here: Any, make_config: Any) -> None:
    plain = train_here(make_config(training_args={"max_steps": 2}))
    asked = train_here(make_config(training_args={"max_steps": 2, "use_cpu": True}))
    assert asked.losses == plain.losses
    assert asked.report.effective.device == "cpu"

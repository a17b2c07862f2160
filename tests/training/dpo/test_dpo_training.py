"""Training on preferences: every step as a plain torch loop takes it, whatever the batches are made of."""

import contextlib
import copy
import json
from pathlib import Path
from typing import Any

import pytest

SGD = {"optim": "sgd", "lr_scheduler_type": "constant", "learning_rate": 0.5, "max_grad_norm": 1.0, "max_steps": 4}


def by_hand(hand: Any, rows: list[Any], model: Any, reference: Any, steps: int = 4, batch: int = 6) -> dict[str, Any]:
    """DPO's sigmoid loss with beta 0.1, pair by pair. reference: a context in which a second model speaks."""
    import torch

    order = hand.order(len(rows))
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.5)
    seen: dict[str, list[float]] = {"loss": [], "chosen": [], "rejected": [], "accuracy": []}
    for step in range(steps):
        chosen = [rows[number] for number in order[step * batch : step * batch + batch]]
        losses, rewards = [], []
        for pair in chosen:
            with torch.no_grad(), reference() as frozen:
                before = hand.log_prob(frozen, pair.chosen), hand.log_prob(frozen, pair.rejected)
            won = 0.1 * (hand.log_prob(model, pair.chosen) - before[0])
            lost = 0.1 * (hand.log_prob(model, pair.rejected) - before[1])
            losses.append(-torch.log(torch.sigmoid(won - lost)))
            rewards.append((won.item(), lost.item()))
        loss = torch.stack(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seen["loss"].append(loss.item())
        seen["chosen"].append(sum(won for won, _ in rewards) / len(rewards))
        seen["rejected"].append(sum(lost for _, lost in rewards) / len(rewards))
        seen["accuracy"].append(sum(won > lost for won, lost in rewards) / len(rewards))
    return seen


def logged(run: Any, name: str) -> list[float]:
    return [entry[name] for entry in run.history() if name in entry]


def check(run: Any, expected: dict[str, list[float]]) -> None:
    assert logged(run, "loss") == pytest.approx(expected["loss"], rel=1e-5)
    assert logged(run, "rewards/chosen") == pytest.approx(expected["chosen"], rel=1e-4, abs=2e-6)
    assert logged(run, "rewards/rejected") == pytest.approx(expected["rejected"], rel=1e-4, abs=2e-6)
    margins = [won - lost for won, lost in zip(expected["chosen"], expected["rejected"], strict=True)]
    assert logged(run, "rewards/margins") == pytest.approx(margins, rel=1e-4, abs=3e-6)
    assert logged(run, "rewards/accuracies")[1:] == pytest.approx(expected["accuracy"][1:])


def test_all_weights_agree_with_a_loop_written_by_hand(
    train_here: Any, make_dpo: Any, base_model: Path, hand: Any
) -> None:
    from transformers import AutoModelForCausalLM

    config = make_dpo(total=6, per_device=3, training_args=SGD)
    rows, _ = hand.load(config, base_model)
    model = AutoModelForCausalLM.from_pretrained(base_model)
    frozen = copy.deepcopy(model)
    expected = by_hand(hand, rows, model, lambda: contextlib.nullcontext(frozen))
    assert max(abs(loss - expected["loss"][0]) for loss in expected["loss"]) > 0.02
    check(train_here(config), expected)


@pytest.mark.parametrize(
    "kwargs",
    [{}, {"bias": "all"}, {"modules_to_save": ["lm_head"], "target_modules": ["q_proj", "v_proj"]}],
    ids=["lora", "trained biases", "trained head"],
)
def test_an_adapter_agrees_with_a_loop_written_by_hand(
    train_here: Any, make_dpo: Any, make_model: Any, hand: Any, kwargs: dict[str, Any]
) -> None:
    """The reference is the base model: without adapter, with the head and the biases that it had."""
    from transformers import AutoModelForCausalLM

    folder = make_model(attention_bias=True)
    lora = {"r": 4, "lora_alpha": 16, "target_modules": "all-linear", **kwargs}
    config = make_dpo(total=6, per_device=2, training_args=SGD, lora=lora, model=folder)
    rows, _ = hand.load(config, folder)
    frozen = AutoModelForCausalLM.from_pretrained(folder)
    model = hand.lora(AutoModelForCausalLM.from_pretrained(folder), **kwargs)
    check(train_here(config), by_hand(hand, rows, model, lambda: contextlib.nullcontext(frozen)))


def test_a_grown_vocabulary_has_a_reference_with_the_same_new_rows(
    train_here: Any, make_dpo: Any, make_model: Any, pairs: Path
) -> None:
    """poro's tokens are new to the tokenizer: before the first step model and reference agree."""
    folder = make_model()
    config = make_dpo(model=folder, lora=True, training_args={"max_steps": 2, "logging_steps": 1})
    config.spec["data_conf"]["chat_template_name"] = "poro"
    run = train_here(config)
    assert any("vocabulary grew" in notice for notice in run.notices)
    assert logged(run, "rewards/margins")[0] == 0.0
    assert logged(run, "loss")[0] == pytest.approx(0.693147, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "training_args"),
    [
        ({"per_device": 1}, {}),
        ({"per_device": 3}, {}),
        ({}, {"gradient_checkpointing": True}),
        ({}, {"dataloader_num_workers": 1}),
        ({"lora": True}, {}),
    ],
    ids=["one by one", "accumulate 3", "checkpointing", "worker", "lora"],
)
def test_what_must_change_nothing(
    train_here: Any, make_dpo: Any, changes: dict[str, Any], training_args: dict[str, Any]
) -> None:
    """22 pairs in batches of 8: the last batch of an epoch is short, so that some micro-batches are short or empty."""
    lora = changes.get("lora", False)
    whole = train_here(make_dpo(lora=lora))
    changed = train_here(make_dpo(**{"per_device": 4, **changes}, training_args=training_args))
    assert len(whole.losses) == 6
    for name in ("loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected"):
        assert logged(changed, name) == pytest.approx(logged(whole, name), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "lora"])
def test_mixed_precision_keeps_reference_and_model_apart(train_here: Any, make_dpo: Any, lora: bool) -> None:
    """Autocast caches the weights that it casts: the reference must not be given the model's, nor the other way."""
    arguments = {"eval_strategy": "steps", "eval_steps": 2, "learning_rate": 5e-3, "max_steps": 4}
    split = {"type": "AUTO_SPLIT", "ratio": 0.3}
    plain = train_here(make_dpo(lora=lora, training_args=arguments, validation=split))
    mixed = train_here(make_dpo(lora=lora, training_args={**arguments, "bf16": True}, validation=split))
    assert logged(mixed, "rewards/margins")[0] == 0.0
    assert logged(mixed, "eval_rewards/margins") == pytest.approx(logged(plain, "eval_rewards/margins"), rel=0.15)
    assert logged(mixed, "rewards/chosen") == pytest.approx(logged(plain, "rewards/chosen"), rel=0.15, abs=0.02)
    assert logged(mixed, "loss") != logged(plain, "loss")


def test_padding_side_changes_nothing(train_here: Any, make_dpo: Any) -> None:
    right = make_dpo(training_args={"max_steps": 3})
    left = right.model_copy(deep=True)
    left.spec["data_conf"]["padding_side"] = "left"
    assert train_here(left).losses == pytest.approx(train_here(right).losses, rel=1e-5)


def test_evaluation_is_the_mean_over_pairs_at_any_batch_size(
    train_here: Any, make_dpo: Any, base_model: Path, other_pairs: Path, hand: Any
) -> None:
    arguments = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "eval_on_start": True}
    runs = [
        train_here(make_dpo(validation=other_pairs, training_args=arguments, eval_batch=size)) for size in (1, 3, 64)
    ]
    names = [name for name in runs[0].history()[0] if name.startswith("eval_")]
    assert sorted(names) == [
        "eval_logps/chosen",
        "eval_logps/rejected",
        "eval_loss",
        "eval_rewards/accuracies",
        "eval_rewards/chosen",
        "eval_rewards/margins",
        "eval_rewards/rejected",
    ]
    for run in runs[1:]:
        for name in names:
            assert logged(run, name) == pytest.approx(logged(runs[0], name), rel=1e-5, abs=1e-6)
    assert logged(runs[0], "eval_loss")[0] == pytest.approx(0.693147, abs=1e-6)
    margins = logged(runs[0], "eval_rewards/margins")
    assert margins[2] != margins[1] != 0.0

    from transformers import AutoModelForCausalLM

    _, rows = hand.load(make_dpo(validation=other_pairs), base_model)
    model = AutoModelForCausalLM.from_pretrained(base_model)
    mean = sum(hand.log_prob(model, pair.chosen).item() for pair in rows) / len(rows)
    assert logged(runs[0], "eval_logps/chosen")[0] == pytest.approx(mean, rel=1e-5)


SYNC = {"sync_ref_model": True, "ref_model_sync_steps": 2, "ref_model_mixup_alpha": 0.5}


@pytest.mark.parametrize(
    ("dpo_args", "lora", "architecture"),
    [
        ({}, False, "llama"),
        ({"precompute_ref_log_probs": True}, False, "llama"),
        (SYNC, False, "llama"),
        ({**SYNC, "disable_dropout": False}, False, "gpt2"),
        ({"disable_dropout": False}, {"r": 4, "lora_dropout": 0.2, "target_modules": "all-linear"}, "llama"),
        ({"precompute_ref_log_probs": True}, {"r": 4, "bias": "all", "target_modules": "all-linear"}, "llama"),
    ],
    ids=["copy", "precomputed", "moving", "moving, tied, with dropout", "dropout", "precomputed with biases"],
)
def test_an_interrupted_run_continues_with_the_same_losses(
    train_here: Any,
    make_dpo: Any,
    make_model: Any,
    tmp_path: Path,
    dpo_args: dict[str, Any],
    lora: Any,
    architecture: str,
) -> None:
    model = make_model(architecture=architecture)
    config = make_dpo(dpo_args, lora=lora, per_device=4, model=model)
    whole = train_here(config)
    assert len(whole.losses) == 6
    stopped = train_here(config, tmp_path, stop_after=3)
    assert stopped.error is not None
    resumed = train_here(config, tmp_path)
    assert resumed.report.resumed_from_step == 3
    assert resumed.losses == whole.losses
    assert logged(resumed, "rewards/margins") == logged(whole, "rewards/margins")


def test_precomputed_references_give_the_same_steps_and_are_computed_once(
    train_here: Any, make_dpo: Any, other_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune_trainer.train import reference_log_probs

    arguments = {"eval_strategy": "epoch"}
    live = train_here(make_dpo(validation=other_pairs, training_args=arguments))
    config = make_dpo({"precompute_ref_log_probs": True}, validation=other_pairs, training_args=arguments)
    known = train_here(config, tmp_path, stop_after=4)
    for name in ("loss", "rewards/chosen", "eval_loss"):
        seen = logged(known, name)
        assert seen
        assert seen == pytest.approx(logged(live, name)[: len(seen)], rel=1e-5, abs=1e-6)

    def never(*_: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(reference_log_probs, "_compute", never)
    assert train_here(config, tmp_path).losses == pytest.approx(live.losses, rel=1e-5)
    with pytest.raises(AssertionError, match="computed again"):  # another model's numbers are not taken
        train_here(make_dpo({"precompute_ref_log_probs": True}, lora=True, uid="job-2"), tmp_path)


def test_a_moving_reference_follows_by_its_share(train_here: Any, make_dpo: Any, base_model: Path, hand: Any) -> None:
    """After 2 steps the reference is half the start and half the trained model (TR-DPO's soft update)."""
    import torch
    from transformers import AutoModelForCausalLM

    sync = {"sync_ref_model": True, "ref_model_sync_steps": 2, "ref_model_mixup_alpha": 0.25}
    config = make_dpo(sync, total=6, per_device=6, training_args=SGD)
    rows, _ = hand.load(config, base_model)
    model = AutoModelForCausalLM.from_pretrained(base_model)
    frozen = copy.deepcopy(model)
    order = hand.order(len(rows))
    expected = by_hand(hand, rows, model, lambda: contextlib.nullcontext(frozen), steps=2)
    with torch.no_grad():
        for one, trained in zip(frozen.parameters(), model.parameters(), strict=True):
            one.copy_(0.75 * one + 0.25 * trained)
        third = [rows[number] for number in order[12:18]]
        margins = [
            0.1
            * (
                (hand.log_prob(model, pair.chosen) - hand.log_prob(frozen, pair.chosen))
                - (hand.log_prob(model, pair.rejected) - hand.log_prob(frozen, pair.rejected))
            )
            for pair in third
        ]
        loss = -torch.log(torch.sigmoid(torch.stack(margins))).mean().item()
    assert logged(train_here(config), "loss")[:3] == pytest.approx([*expected["loss"], loss], rel=1e-5)


def test_dropout_is_off_unless_asked_for(train_here: Any, make_dpo: Any) -> None:
    lora = {"r": 4, "lora_alpha": 16, "lora_dropout": 0.5, "target_modules": "all-linear"}
    steps = {"max_steps": 3}
    config = make_dpo(lora=lora, training_args=steps)
    assert "peft_kwargs.lora_dropout has no effect: dpo_args.disable_dropout is true" in " ".join(config.notices)
    plain = train_here(make_dpo(lora={**lora, "lora_dropout": 0.0}, training_args=steps)).losses
    assert train_here(config).losses == plain
    dropped = make_dpo({"disable_dropout": False}, lora=lora, training_args=steps)
    assert "disable_dropout" not in " ".join(dropped.notices)
    assert train_here(dropped).losses != plain


def test_the_result_is_exported_and_merged_as_for_other_methods(
    train_here: Any, make_dpo: Any, base_model: Path, hand: Any, other_pairs: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    config = make_dpo(lora=True, validation=other_pairs, training_args={"num_train_epochs": 4})
    run = train_here(config)
    base = AutoModelForCausalLM.from_pretrained(base_model)
    adapter = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_model), run.report.model.adapter)
    merged = AutoModelForCausalLM.from_pretrained(run.report.model.merged)
    _, rows = hand.load(config, base_model)
    with torch.no_grad():
        margins = [
            0.1
            * sum(
                sign * (hand.log_prob(adapter, side) - hand.log_prob(base, side)).item()
                for sign, side in ((1, pair.chosen), (-1, pair.rejected))
            )
            for pair in rows
        ]
        assert hand.log_prob(merged, rows[0].chosen).item() == pytest.approx(
            hand.log_prob(adapter, rows[0].chosen).item(), rel=1e-5
        )
    assert logged(run, "eval_rewards/margins")[-1] == pytest.approx(sum(margins) / len(margins), rel=1e-3, abs=1e-5)
    assert json.loads((run.final / "training_args.json").read_text())["dpo_args"]["beta"] == 0.1
    assert "perplexity" not in (run.final / "README.md").read_text()


def test_metrics_reach_the_log_and_mlflow(
    train_here: Any, make_dpo: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune_trainer.train.run import Run

    sent: dict[str, float] = {}
    monkeypatch.setattr(Run, "_metrics", lambda run, numbers, step: sent.update(numbers))
    with caplog.at_level("INFO", logger="finetune"):
        train_here(make_dpo(training_args={"max_steps": 1}))
    assert {f"rewards/{name}" for name in ("chosen", "rejected", "accuracies", "margins")} < set(sent)
    assert sent["logps/chosen"] < 0.0
    line = next(text for text in caplog.messages if text.startswith("step 1/1"))
    assert "margin 0" in line
    assert "accuracy 0" in line


@pytest.mark.parametrize(
    ("dpo_args", "lora"),
    [({}, False), ({"precompute_ref_log_probs": True}, True)],
    ids=["all weights", "adapter, precomputed"],
)
def test_two_processes_take_the_same_steps_as_one(
    train_here: Any, launch: Any, make_dpo: Any, other_pairs: Path, dpo_args: dict[str, Any], lora: bool
) -> None:
    """22 pairs in batches of 8 over 2 processes; the reference speaks outside of DDP."""
    shared = {"lora": lora, "per_device": 2, "validation": other_pairs}
    arguments = {"eval_strategy": "epoch", "num_train_epochs": 1}
    one = train_here(make_dpo(training_args=arguments, **shared))
    two = launch(make_dpo(dpo_args, training_args=arguments, spec_more={"cpuProcesses": 2}, **shared))
    assert two.wait() == 0, two.text
    state = json.loads((two.checkpoints / "checkpoint-3" / "trainer_state.json").read_text())
    for name in ("loss", "rewards/margins", "logps/chosen", "eval_loss", "eval_rewards/margins"):
        seen = [entry[name] for entry in state["history"] if name in entry]
        assert seen == pytest.approx(logged(one, name), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("loss_type", ["sigmoid", "sigmoid_norm", "hinge", "ipo", "sppo_hard", "apo_zero", "sft"])
def test_a_process_without_rows_adds_nothing(base_model: Path, loss_type: str) -> None:
    """It takes part in the reduction of gradients with a filler, whose loss would be that of equal answers."""
    import torch
    from transformers import AutoModelForCausalLM

    from finetune_trainer.train.batches import Padding
    from finetune_trainer.train.preference import PreferenceLearning
    from finetune_trainer.train.preference_loss import PreferenceSettings
    from finetune_trainer.train.reference import FrozenCopy
    from finetune_trainer.train.sampler import FILLER

    model = AutoModelForCausalLM.from_pretrained(base_model)
    objective = PreferenceLearning(model, Padding(0, "right"), PreferenceSettings(loss_type), FrozenCopy(model))
    examples = objective.examples([])
    sums = objective.sums(model, examples.collate([examples[FILLER]]), training=True)
    sums.loss.backward()
    assert sums.loss.item() == 0.0
    assert sums.metrics is not None
    assert torch.equal(sums.metrics, torch.zeros_like(sums.metrics))
    assert all(one.grad is not None and not one.grad.any() for one in model.parameters())

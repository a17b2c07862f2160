"""TRL's DPOTrainer as the reference: the same steps for every loss, and the same tokens of a row."""

from pathlib import Path
from typing import Any

import pytest

TRAINING = {"learning_rate": 2e-3, "max_steps": 3, "train_sampling_strategy": "sequential", "logging_steps": 1}
METRICS = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
)


def trl_rows(pairs: list[Any]) -> Any:
    """Our tokens as TRL's columns. What follows an answer's end (a template's line feed) is no part of it here."""
    from datasets import Dataset

    def answer(side: Any) -> list[int]:
        labels = side.labels
        last = max(place for place, label in enumerate(labels) if label != -100)
        return side.input_ids[first : last + 1]

    rows = []
    for pair in pairs:
        first = next(place for place, label in enumerate(pair.chosen.labels) if label != -100)
        rows.append(
            {
                "prompt_ids": pair.chosen.input_ids[:first],
                "chosen_ids": answer(pair.chosen),
                "rejected_ids": answer(pair.rejected),
            }
        )
    return Dataset.from_list(rows)


def train_with_trl(folder: Path, model: Any, rows: Any, work: Path, **arguments: Any) -> list[dict[str, float]]:
    """What TRL logs at each of 3 steps of 4 pairs, with the loss unrounded."""
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    class Tokenised(DPOTrainer):  # type: ignore[misc]
        losses: list[float]

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def compute_loss(self, *given: Any, **more: Any) -> Any:
            loss = super().compute_loss(*given, **more)
            self.losses.append(loss.item())
            return loss

    config = DPOConfig(
        output_dir=str(work),
        per_device_train_batch_size=4,
        max_length=None,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        **TRAINING,
        **arguments,
    )
    Tokenised.losses = []
    tokenizer = AutoTokenizer.from_pretrained(folder)
    trainer = Tokenised(model=model, args=config, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "rewards/chosen" in entry]
    return [{**entry, "loss": loss} for entry, loss in zip(logs, trainer.losses, strict=True)]


def compare(run: Any, expected: list[dict[str, float]]) -> None:
    found = [entry for entry in run.history() if "loss" in entry]
    assert len(found) == len(expected) == 3
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5, abs=1e-6)
        for name in METRICS:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=2e-5), name
    assert max(abs(entry["rewards/margins"]) for entry in found) > 1e-3


@pytest.mark.parametrize(
    "dpo_args",
    [
        {"loss_type": "sigmoid"},
        {"loss_type": "sigmoid_norm"},
        {"loss_type": "hinge", "beta": 0.3},
        {"loss_type": "ipo"},
        {"loss_type": "exo_pair", "label_smoothing": 0.05},
        {"loss_type": "nca_pair"},
        {"loss_type": "robust", "label_smoothing": 0.2},
        {"loss_type": "bco_pair"},
        {"loss_type": "sppo_hard"},
        {"loss_type": "apo_zero"},
        {"loss_type": "apo_down"},
        {"loss_type": "discopop", "discopop_tau": 0.1},
        {"loss_type": "sft"},
        {"ld_alpha": 0.4},
        {"ld_alpha": 0.0, "loss_type": "ipo"},
        {"f_divergence_type": "forward_kl"},
        {"f_divergence_type": "js_divergence"},
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3},
        {"use_weighting": True},
        {"precompute_ref_log_probs": True},
        {"sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 0.5},
    ],
    ids=lambda given: ",".join(f"{key}={value}" for key, value in given.items()),
)
def test_steps_are_those_of_trl(
    train_here: Any, make_dpo: Any, base_model: Path, hand: Any, tmp_path: Path, dpo_args: dict[str, Any]
) -> None:
    """All weights are trained; TRL loads the reference from the model's folder."""
    from transformers import AutoModelForCausalLM

    config = make_dpo(dpo_args, total=4, per_device=4, training_args=TRAINING)
    rows, _ = hand.load(config, base_model)
    model = AutoModelForCausalLM.from_pretrained(base_model)
    expected = train_with_trl(base_model, model, trl_rows(rows), tmp_path, **dpo_args)
    compare(train_here(config), expected)


def test_steps_with_an_adapter_are_those_of_trl(
    train_here: Any, make_dpo: Any, base_model: Path, hand: Any, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    config = make_dpo(lora=True, total=4, per_device=4, training_args=TRAINING)
    rows, _ = hand.load(config, base_model)
    model = hand.lora(AutoModelForCausalLM.from_pretrained(base_model))
    compare(train_here(config), train_with_trl(base_model, model, trl_rows(rows), tmp_path))


def test_rows_have_the_tokens_that_trl_gives_them(make_dpo: Any, base_model: Path, hand: Any, pairs: Path) -> None:
    """TRL counts whatever the template writes after the prompt; we stop at the answer's end marker."""
    import json

    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    from finetune_trainer.data import prepare_tokenizer

    config = make_dpo()
    tokenizer = prepare_tokenizer(config, AutoTokenizer.from_pretrained(base_model)).tokenizer
    ours, _ = hand.load(config, base_model)
    given = [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()]
    raw = Dataset.from_list([{key.removesuffix("_messages"): value for key, value in row.items()} for row in given])
    trainer = DPOTrainer.__new__(DPOTrainer)
    trainer._tokenizer = tokenizer
    arguments = DPOConfig(output_dir="/nowhere", bf16=False, use_cpu=True, report_to="none", max_length=None)
    theirs = trainer._prepare_dataset(raw, tokenizer, arguments, "train")
    line_feed = tokenizer.encode("\n")
    for row, expected in zip(trl_rows(ours), theirs, strict=True):
        assert row["prompt_ids"] == expected["prompt_ids"]
        for key in ("chosen_ids", "rejected_ids"):
            assert row[key] + line_feed == expected[key]

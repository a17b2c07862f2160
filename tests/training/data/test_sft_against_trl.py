"""TRL's SFTTrainer as the reference: it renders, tokenises, masks and packs the same rows by itself, step by step."""

import json
from pathlib import Path
from typing import Any

import pytest

TRAINING = {"learning_rate": 2e-3, "max_steps": 4, "train_sampling_strategy": "sequential", "logging_steps": 1}
CHAT_ML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}{% else %}"
    "{{ message['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def train_with_trl(model: Path, rows: Path, work: Path, batch: int, **arguments: Any) -> list[float]:
    """The unrounded loss of each step."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    class Watched(SFTTrainer):  # type: ignore[misc]
        losses: list[float]

        def compute_loss(self, *given: Any, **more: Any) -> Any:
            loss = super().compute_loss(*given, **more)
            self.losses.append(loss.item())
            return loss

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = CHAT_ML
    config = SFTConfig(
        output_dir=str(work),
        per_device_train_batch_size=batch,
        max_length=128,
        eos_token="<|im_end|>",
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        **TRAINING,
        **arguments,
    )
    Watched.losses = []
    trainer = Watched(
        model=AutoModelForCausalLM.from_pretrained(model),
        args=config,
        train_dataset=Dataset.from_list([json.loads(line) for line in rows.read_text().splitlines()]),
        processing_class=tokenizer,
    )
    trainer.train()
    return trainer.losses


@pytest.mark.parametrize(
    ("ours", "theirs", "batch"),
    [
        ({}, {}, 8),
        ({"train_on_completions_only": True}, {"assistant_only_loss": True}, 8),
        # packed into other sequences than TRL's, so all of them are one batch
        (
            {"train_on_completions_only": True, "overlength": "pack"},
            {"assistant_only_loss": True, "packing": True, "packing_strategy": "bfd"},
            42,
        ),
    ],
    ids=["whole", "completions", "packed"],
)
def test_steps_are_those_of_trl(
    train_here: Any,
    make_config: Any,
    base_model: Path,
    dialogues: Path,
    tmp_path: Path,
    ours: dict[str, Any],
    theirs: dict[str, Any],
    batch: int,
) -> None:
    run = train_here(
        make_config(
            total=batch, per_device=batch, training_args=TRAINING, spec={"sft_args": {"max_seq_length": 128, **ours}}
        )
    )
    expected = train_with_trl(base_model, dialogues, tmp_path, batch, **theirs)
    assert list(run.losses.values()) == pytest.approx(expected, rel=1e-5)
    assert len(expected) == 4

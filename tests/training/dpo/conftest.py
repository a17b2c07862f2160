"""What the tests of preference learning share: pairs of answers, and a resolved job of method dpo on CPU."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_api.job_config import JobConfig

WORDS = str.split(
    "the cat dog sat on a mat ran to my house and saw one bird with red blue green hat who what is your name I am fine"
)


def make_pairs(count: int, seed: int = 3) -> list[dict[str, Any]]:
    """Rows of a prompt of 1 to 3 messages and two answers of 1 to 9 words."""
    draw = random.Random(seed)

    def say(most: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(1, most)))

    rows = []
    for number in range(count):
        prompt = [{"role": "user", "content": say(6)}]
        if number % 3 == 0:
            prompt = [*prompt, {"role": "assistant", "content": say(3)}, {"role": "user", "content": say(4)}]
        answers = [[{"role": "assistant", "content": say(9)}] for _ in range(2)]
        rows.append({"prompt_messages": prompt, "chosen_messages": answers[0], "rejected_messages": answers[1]})
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """22 pairs: no multiple of most batches."""
    return write_rows(tmp_path_factory.mktemp("pairs") / "train.jsonl", make_pairs(22))


@pytest.fixture(scope="session")
def other_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """7 pairs for validation."""
    return write_rows(tmp_path_factory.mktemp("pairs") / "validation.jsonl", make_pairs(7, seed=4))


MakeJob = Callable[..., JobConfig]


@pytest.fixture
def make_dpo(make_config: Any, pairs: Path) -> MakeJob:
    """make_dpo(dpo_args={…}, training_args={…}, …) -> a resolved job of make_config's with method dpo."""

    def make(
        dpo_args: dict[str, Any] | None = None,
        *,
        training_args: dict[str, Any] | None = None,
        data: Path | None = None,
        spec_more: dict[str, Any] | None = None,
        **more: Any,
    ) -> JobConfig:
        return make_config(
            data=data or pairs,
            training_args={"learning_rate": 1e-3, **(training_args or {})},
            spec={
                "method": "dpo",
                "sft_args": None,
                "dpo_args": {"max_seq_length": 128, **(dpo_args or {})},
                **(spec_more or {}),
            },
            **more,
        )

    return make


class Hand:
    """What the loops written by hand begin with."""

    make_pairs = staticmethod(make_pairs)
    write_rows = staticmethod(write_rows)

    @staticmethod
    def load(config: JobConfig, model: Path) -> tuple[list[Any], list[Any]]:
        """The training and validation pairs of a job."""
        from transformers import AutoTokenizer

        from finetune_trainer.data import load_training_data, prepare_tokenizer

        tokenizer = prepare_tokenizer(config, AutoTokenizer.from_pretrained(model)).tokenizer
        data = load_training_data(config, tokenizer, Path("/nowhere"))
        return data.train, data.eval or []

    @staticmethod
    def order(count: int) -> list[int]:
        """The order of a job's first epoch."""
        from finetune_trainer.train.sampler import epoch_order

        return epoch_order([0] * count, seed=42, epoch=0, sampling="random")

    @staticmethod
    def log_prob(model: Any, side: Any) -> Any:
        """log p(answer | prompt) of one sequence, computed the slow way: alone, without padding."""
        import torch

        ids = torch.tensor(side.input_ids)
        counted = torch.tensor(side.labels)[1:] != -100
        log_probs = torch.log_softmax(model(input_ids=ids[None]).logits[0, :-1].float(), dim=-1)
        return log_probs[torch.arange(len(ids) - 1), ids[1:]][counted].sum()

    @staticmethod
    def lora(model: Any, **kwargs: Any) -> Any:
        """The adapter that a job begins with."""
        import torch
        from peft import LoraConfig, get_peft_model

        from finetune_trainer.train.seeding import seed_for

        torch.manual_seed(seed_for(42, "adapter"))
        given = {"r": 4, "lora_alpha": 16, "target_modules": "all-linear", **kwargs}
        return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **given))


@pytest.fixture(scope="session")
def hand() -> Hand:
    return Hand()

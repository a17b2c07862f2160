"""What the tests of plain text share: texts, and a resolved job of method clm on CPU."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_api.job_config import JobConfig
from finetune_api.resolve import resolve
from finetune_api.spec import FineTuneJobSpec

WORDS = str.split(
    "the cat dog sat on a mat ran to my house and saw one bird with red blue green hat who what is your name I am fine"
)


def make_texts(count: int, seed: int = 3) -> list[str]:
    """Texts of 3 to 30 words."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(3, 30))) for _ in range(count)]


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 lines of text, with empty ones between, as in wikitext."""
    path = tmp_path_factory.mktemp("texts") / "train.txt"
    path.write_text("".join(f"{text}\n\n" for text in make_texts(24)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def validation_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "validation.txt"
    path.write_text("".join(f"{text}\n" for text in make_texts(7, seed=4)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small GPT-2 without dropout. As in the original, one token is BOS and EOS, none is put around a text, and none
    pads."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    end = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=end, eos_token=end, unk_token=end)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    folder = tmp_path_factory.mktemp("gpt2")
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


ClmJob = Callable[..., JobConfig]


@pytest.fixture(scope="session")
def clm_job() -> ClmJob:
    """clm_job(model, data, block_size=…, …) -> a resolved job of plain text on CPU."""
    return _job


def _job(
    model: Path,
    data: Path | list[Path],
    *,
    validation: Any = None,
    training_args: dict[str, Any] | None = None,
    total: int = 4,
    per_device: int = 4,
    spec: dict[str, Any] | None = None,
    data_conf: dict[str, Any] | None = None,
    run_conf: dict[str, Any] | None = None,
    uid: str = "clm-1",
    **clm_args: Any,
) -> JobConfig:
    """A job over the files, with logging at every step."""
    checked: Any = {"type": "NONE"}
    if isinstance(validation, Path):
        checked = {"type": "CONCATENATION", "datasets": [{"path": str(validation)}]}
    elif validation:
        checked = validation
    files = [data] if isinstance(data, Path) else data
    raw = {
        "basemodel": str(model),
        "method": "clm",
        "finetuningGpus": 0,
        "data_conf": {
            "training_data": {"type": "CONCATENATION", "datasets": [{"path": str(file)} for file in files]},
            "validation_data": checked,
            **(data_conf or {}),
        },
        "training_args": {"learning_rate": 5e-3, "logging_steps": 1, "save_steps": 1000, **(training_args or {})},
        "batchsize_conf": {"total_train_batch_size": total, "max_per_device_train_batch_size": per_device},
        "peft_conf": {"peft_type": "NO_PEFT"},
        "run_conf": run_conf or {},
        "clm_args": {"block_size": 16, **clm_args},
        **(spec or {}),
    }
    resolved = resolve(FineTuneJobSpec.model_validate(raw))
    return JobConfig(name="small", uid=uid, spec=resolved.spec.to_dict(), notices=resolved.notices)

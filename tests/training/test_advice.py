"""What the job's condition tells the user to change when the machine is too small for it."""

import errno
from pathlib import Path

import pytest

from finetune_trainer.errors import BadConfiguration
from finetune_trainer.train.advice import (
    evaluation_advice,
    is_out_of_memory,
    memory_advice,
    model_advice,
    volume_named,
)


@pytest.mark.parametrize(
    ("per_device", "checkpointing", "adapter", "advice"),
    [
        (
            8,
            False,
            False,
            "batch_size from 8 to 4 (the total batch stays the same, by accumulation), or set",
        ),
        (
            3,
            True,
            True,
            "batch_size from 3 to 1 (the total batch stays the same, by accumulation). (",
        ),
        (1, False, True, "set training_args.gradient_checkpointing: true. ("),
        (1, True, False, "train an adapter (peft_conf.peft_type: LORA)"),
        (1, True, True, "lower sft_args.max_seq_length"),
    ],
)
def test_memory(per_device: int, checkpointing: bool, adapter: bool, advice: str) -> None:
    text = memory_advice(per_device, checkpointing, adapter, "CUDA out of memory. Tried to allocate 2 GiB\nstack")
    assert advice in text
    assert text.endswith("(CUDA out of memory. Tried to allocate 2 GiB)")


def test_the_length_is_lowered_to_half_of_what_the_data_has() -> None:
    text = memory_advice(1, True, True, "out of memory", longest=700)
    assert "lower sft_args.max_seq_length to 350 (the longest example has 700 tokens)" in text


@pytest.mark.parametrize(
    ("adapter", "quantized", "advice"),
    [(False, False, "peft_type: LORA"), (True, False, "quant_conf.load_in_4bit"), (True, True, "smaller basemodel")],
)
def test_no_batch_helps_a_model_that_does_not_fit(adapter: bool, quantized: bool, advice: str) -> None:
    text = model_advice(adapter, quantized, "out of memory")
    assert advice in text
    assert "batch" not in text


def test_the_evaluation_has_a_batch_of_its_own() -> None:
    assert "per_device_eval_batch_size to 4" in evaluation_advice(8, "out of memory")


def test_the_length_is_named_as_the_method_has_it() -> None:
    assert "lower dpo_args.max_seq_length" in memory_advice(1, True, True, "out of memory", "dpo_args.max_seq_length")


def test_out_of_memory_is_known_on_cpu_too() -> None:
    import torch

    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("I/O error: No space left (os error 28)")]
)
def test_a_full_volume_names_the_key(error: Exception) -> None:
    with (
        pytest.raises(BadConfiguration, match="raise checkpointsReservedSize") as caught,
        volume_named(Path("/workdir")),
    ):
        raise error
    assert caught.value.reason == "VolumeFull"


def test_other_errors_pass() -> None:
    with pytest.raises(PermissionError), volume_named(Path("/workdir")):
        raise PermissionError(errno.EACCES, "denied")

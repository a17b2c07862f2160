"""What to do about a machine that is too small: memory of the device, space on the volume."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from finetune_trainer.errors import BadConfiguration


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice, of a GPU or of the pod: torch says the latter by text only."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def memory_advice(
    per_device: int,
    gradient_checkpointing: bool,
    has_adapter: bool,
    error: str,
    length_key: str = "sft_args.max_seq_length",
    longest: int | None = None,
) -> str:
    """Which key to turn down, and to what, keeping the total batch. longest: tokens of the longest example."""
    if per_device > 1:
        cure = (
            f"lower batchsize_conf.max_per_device_train_batch_size from {per_device} to {per_device // 2} "
            "(the total batch stays the same, by accumulation)"
        )
        if not gradient_checkpointing:
            cure += ", or set training_args.gradient_checkpointing: true"
    elif not gradient_checkpointing:
        cure = "set training_args.gradient_checkpointing: true"
    elif not has_adapter:
        cure = "train an adapter (peft_conf.peft_type: LORA) instead of all weights, or use a GPU with more memory"
    elif longest is not None and longest > 1:
        cure = (
            f"lower {length_key} to {longest // 2} (the longest example has {longest} tokens), or use a GPU with more"
        )
        cure += " memory"
    else:
        cure = f"lower {length_key}, or use a GPU with more memory"
    return f"the device's memory did not suffice for a per-device batch of {per_device}: {cure}. ({_first(error)})"


def evaluation_advice(eval_per_device: int, error: str) -> str:
    """The same for the evaluation, whose loss does not depend on its batch."""
    return (
        f"the device's memory did not suffice for an evaluation batch of {eval_per_device} per device: lower "
        f"batchsize_conf.per_device_eval_batch_size to {eval_per_device // 2}; the evaluation loss does not depend on "
        f"it. ({_first(error)})"
    )


def model_advice(has_adapter: bool, quantized: bool, error: str) -> str:
    """The same where no batch had been tried yet: no batch size would help."""
    if not has_adapter:
        cure = "train an adapter (peft_conf.peft_type: LORA) instead of all weights, or use a GPU with more memory"
    elif not quantized:
        cure = "load it in 4 bits (quant_conf.load_in_4bit: true), or use a GPU with more memory"
    else:
        cure = "use a GPU with more memory, or a smaller basemodel"
    return f"the device's memory did not suffice for the model itself: {cure}. ({_first(error)})"


def export_advice(error: str) -> str:
    """The same for the result's export."""
    return (
        "the device's memory did not suffice to export the result; the checkpoints are complete. Set mergeAdapter: "
        f"false and merge the adapter elsewhere, or use a GPU with more memory. ({_first(error)})"
    )


def _first(error: str) -> str:
    return (error.splitlines() or [""])[0][:300]


@contextlib.contextmanager
def volume_named(folder: Path) -> Iterator[None]:
    """Says which key makes the volume larger when it is full; safetensors reports that in its own words."""
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left" in str(error) or "os error 28" in str(error):
            raise BadConfiguration(
                f"no space left on the volume of {folder}; raise checkpointsReservedSize, or keep fewer checkpoints "
                "with training_args.save_total_limit",
                reason="VolumeFull",
            ) from error
        raise

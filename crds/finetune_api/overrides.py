"""Overrides: the few knobs that a chart or a user interface lifts to the top, and the learning-rate arithmetic."""

import math
from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import SpecModel

BatchSizeScaling = Literal["none", "sqrt", "linear"]
Epochs = Annotated[float, Field(gt=0, le=100_000)]
Auto = Literal["learning_rate", "per_device_batch", "precision"]
Multiplier = Annotated[float, Field(gt=0, le=1_000_000)]


class Overrides(SpecModel):
    """Options that override training_args.

    Document 003's three may also stand at the top of spec, with the same value if both.
    """

    num_train_epochs: Epochs | None = Field(
        None, description="Overrides the number of epochs in training_args. Fractions are allowed."
    )
    lr_multiplier: Multiplier = Field(1.0, description="Multiplier applied to the learning rate in training_args.")
    lr_batch_size_scaling: BatchSizeScaling = Field(
        "none",
        description=(
            "Scales the learning rate by a factor of the total training batch size B: none (no scaling), "
            "sqrt (times the square root of B), linear (times B)."
        ),
    )
    min_update_steps: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = Field(
        None,
        description=("Without epochs and max_steps: whole epochs until at least so many optimizer steps are done."),
    )
    auto: Annotated[list[Auto], Field(max_length=3)] | None = Field(
        None,
        description=(
            "What the trainer finds itself: learning_rate (range test), per_device_batch (the largest that fits, at "
            "most max_per_device_train_batch_size), precision (bf16, else fp16, else fp32)."
        ),
    )


LIFTED_KEYS = ("num_train_epochs", "lr_multiplier", "lr_batch_size_scaling")  # may also stand at the top of spec


def scale_learning_rate(
    learning_rate: float, multiplier: float, scaling: BatchSizeScaling, total_batch_size: int
) -> float:
    """The learning rate after overrides: lr * multiplier * (1, sqrt(B) or B), B being the raw total batch size."""
    factor = {"none": 1.0, "sqrt": math.sqrt(total_batch_size), "linear": float(total_batch_size)}[scaling]
    return learning_rate * multiplier * factor

"""Overrides: the few knobs that a chart or a user interface lifts to the top, and the learning-rate arithmetic."""

import math
from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import SpecModel

BatchSizeScaling = Literal["none", "sqrt", "linear"]
Epochs = Annotated[float, Field(gt=0, le=100_000)]
Multiplier = Annotated[float, Field(gt=0, le=1_000_000)]


class Overrides(SpecModel):
    """Options that override training_args; each may also stand at the top of spec, with the same value if both."""

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


LIFTED_KEYS = tuple(Overrides.model_fields)  # those that may also stand at the top of spec


def scale_learning_rate(
    learning_rate: float, multiplier: float, scaling: BatchSizeScaling, total_batch_size: int
) -> float:
    """The learning rate after overrides: lr * multiplier * (1, sqrt(B) or B), B being the raw total batch size."""
    factor = {"none": 1.0, "sqrt": math.sqrt(total_batch_size), "linear": float(total_batch_size)}[scaling]
    return learning_rate * multiplier * factor

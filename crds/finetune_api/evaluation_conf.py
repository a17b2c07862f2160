"""evaluation_conf: when the model is validated and kept, when training stops early, and samples of what it writes.

Ours, for what LLMForge has and transformers' arguments cannot say: an event is a validation together with a checkpoint,
so that every checkpoint has a validation loss and the best ones can be kept.
"""

from typing import Annotated

from pydantic import Field

from finetune_api.base import SpecModel, Text

Count = Annotated[int, Field(ge=1, le=10_000)]
Prompt = Annotated[Text, Field(min_length=1)]


class EvaluationConfig(SpecModel):
    """Validation and checkpoints as one event, retention, early stopping, samples."""

    every_n_epochs: Count | None = Field(None, description="Validate and save together, every so many epochs.")
    max_events: Count | None = Field(
        None, description="At most so many such events; without every_n_epochs, spread evenly over the training."
    )
    keep_best: Count | None = Field(
        None, description="Keep so many checkpoints with the lowest validation loss, and the newest. Default: all."
    )
    early_stopping_patience: Count | None = Field(
        None, description="Stop after so many evaluations without improvement; the best checkpoint is the result."
    )
    early_stopping_threshold: Annotated[float, Field(ge=0, le=1_000)] = Field(
        0.0, description="The least decrease of the validation loss that counts as improvement."
    )
    sample_prompts: Annotated[list[Prompt], Field(min_length=1, max_length=16)] | None = Field(
        None, description="Prompts that the model answers at every evaluation; the answers go to MLflow."
    )
    sample_max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = Field(64, description="Longest answer, in tokens.")

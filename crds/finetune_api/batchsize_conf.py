"""batchsize_conf: the total batch is what the user decides; per-device batch and accumulation follow from it."""

from typing import Annotated

from pydantic import Field

from finetune_api.base import SpecModel

BatchSize = Annotated[int, Field(ge=1, le=1_048_576)]


class BatchsizeConfig(SpecModel):
    """Total batch size = number of processes x per-device batch size x gradient accumulation."""

    total_train_batch_size: BatchSize = Field(
        description="The total batch size for the training run. Must be divisible by nodes x finetuningGpus."
    )
    max_per_device_train_batch_size: BatchSize = Field(
        description="The largest training batch that fits on a single device; mostly limited by its memory."
    )
    per_device_eval_batch_size: BatchSize | None = Field(
        None, description="The evaluation batch per device. Default: the training batch size per device."
    )

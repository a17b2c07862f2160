"""The loss of a causal language model as a sum over target tokens, so that any split of a batch adds up to the same."""

from typing import Any

import torch
from torch.nn import functional

from finetune_trainer.train.batches import MicroBatch


def to_device(batch: MicroBatch, device: torch.device) -> MicroBatch:
    """The batch on the device; copies do not wait where memory is pinned."""
    if device.type == "cpu":
        return batch
    return batch.apply(lambda tensor: tensor.to(device, non_blocking=True))


def target_logits(model: Any, batch: MicroBatch) -> torch.Tensor:
    """The logits that predict the targets of a micro-batch, (targets, vocabulary), in fp32.

    The cache is off: with one, packed sequences would silently attend to each other, and memory is wasted.
    """
    arguments = {"attention_mask": batch.attention_mask, "position_ids": batch.position_ids}
    given = {name: value for name, value in arguments.items() if value is not None}
    logits = model(input_ids=batch.input_ids, use_cache=False, **given).logits
    logits = logits[:, -batch.input_ids.shape[1] :]  # virtual tokens of a learnt prompt stand before the row's own
    chosen: torch.Tensor = logits.flatten(0, 1).index_select(0, batch.target_positions).float()
    return chosen


def cross_entropy_sum(model: Any, batch: MicroBatch, label_smoothing: float = 0.0) -> torch.Tensor:
    """Cross-entropy summed over the targets of a micro-batch; 0 if there is none."""
    return functional.cross_entropy(
        target_logits(model, batch), batch.target_ids, reduction="sum", label_smoothing=label_smoothing
    )

"""Evaluation loss: the mean over target tokens, the same for any batch size and any number of processes."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from finetune_trainer.train.batches import Examples
from finetune_trainer.train.distributed import World, autocast
from finetune_trainer.train.loss import loss_sum, to_device


@dataclass(frozen=True)
class Evaluation:
    """Loss per target token, in nats."""

    loss: float
    targets: int

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss) if self.loss < 700 else math.inf


def evaluate(
    model: Any,
    examples: Examples,
    *,
    batch_size: int,
    world: World,
    precision: str,
    stopping: Callable[[], bool] = lambda: False,
    beat: Callable[[], None] = lambda: None,
) -> Evaluation | None:
    """The loss over all examples, longest first; None if it was interrupted. `model` is not wrapped for training."""
    order = sorted(range(len(examples)), key=lambda row: (-examples.lengths[row], row))
    batches = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
    total = torch.zeros((), dtype=torch.float64, device=world.device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), autocast(world.device, precision):
            for rows in batches[world.rank :: world.size]:
                if stopping():
                    break
                batch = to_device(examples.collate([examples[row] for row in rows]), world.device)
                total += loss_sum(model, batch)
                beat()
    finally:
        model.train(was_training)
    (loss,) = world.sum([float(total)])
    if world.any(stopping()):
        return None
    targets = sum(examples.targets)
    return Evaluation(loss / max(1, targets), targets)

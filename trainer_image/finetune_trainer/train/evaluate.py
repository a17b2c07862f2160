"""Evaluation: means over all rows' targets, the same for any batch size and any number of processes."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from finetune_trainer.train.batches import Examples
from finetune_trainer.train.distributed import World, autocast
from finetune_trainer.train.loss import to_device
from finetune_trainer.train.objective import Objective


@dataclass(frozen=True)
class Evaluation:
    """The loss per weight (target token, pair), and what else the objective measures, as means over rows."""

    loss: float
    metrics: dict[str, float] = field(default_factory=dict)

    def numbers(self) -> dict[str, float]:
        """All of it under the names that are logged."""
        return {"eval_loss": self.loss, **{f"eval_{name}": value for name, value in self.metrics.items()}}


def perplexity(loss: float) -> float:
    """Of a loss per token in nats."""
    return math.exp(loss) if loss < 700 else math.inf


def evaluate(
    model: Any,
    examples: Examples,
    objective: Objective,
    *,
    batch_size: int,
    world: World,
    precision: str,
    stopping: Callable[[], bool] = lambda: False,
    beat: Callable[[], None] = lambda: None,
) -> Evaluation | None:
    """Means over all examples, longest first; None if it was interrupted. `model` is not wrapped for training.

    In lockstep every process makes equally many forward passes: one without rows left repeats the last, uncounted.
    """
    order = sorted(range(len(examples)), key=lambda row: (-examples.lengths[row], row))
    batches = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
    total = torch.zeros(1 + len(objective.metrics), dtype=torch.float64, device=world.device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), autocast(world.device, precision):
            own = batches[world.rank :: world.size]
            passes = math.ceil(len(batches) / world.size) if world.lockstep else len(own)
            for index in range(passes):
                if world.any(stopping()) if world.lockstep else stopping():
                    break
                rows = own[index] if index < len(own) else batches[-1]
                batch = to_device(examples.collate([examples[row] for row in rows]), world.device)
                sums = objective.sums(model, batch, training=False)
                if index >= len(own):
                    continue
                total[0] += sums.loss
                if sums.metrics is not None:
                    total[1:] += sums.metrics
                beat()
    finally:
        model.train(was_training)
    loss, *metrics = world.sum(total.tolist())
    if world.any(stopping()):
        return None
    found = {name: value / max(1, len(examples)) for name, value in zip(objective.metrics, metrics, strict=True)}
    mean = loss / max(1, sum(examples.weights))
    if objective.perplexity:
        found = {"perplexity": perplexity(mean), **found}
    return Evaluation(mean, found)

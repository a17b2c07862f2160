"""How many optimizer steps a job takes."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Steps:
    """Optimizer steps of one epoch and in all."""

    per_epoch: int
    total: int


def count_steps(examples: int, total_batch: int, epochs: float, max_steps: int) -> Steps:
    """A short last batch is a step like any other; max_steps, where positive, wins over epochs."""
    per_epoch = math.ceil(examples / total_batch)
    return Steps(per_epoch, max_steps if max_steps > 0 else max(1, math.ceil(epochs * per_epoch)))

"""What a run minimises: how rows become batches, and what a batch's loss is.

The loop, accumulation, data parallelism and evaluation know no method. They ask an objective for sums over rows and
divide by the rows' weights, counted over the whole global batch: target tokens for language modelling, pairs for
preferences. So any split of a batch adds up to the same.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finetune_trainer.train.batches import Examples, MicroBatch, Padding
from finetune_trainer.train.loss import cross_entropy_sum


@dataclass(frozen=True)
class Sums:
    """Of one micro-batch: the loss, to be divided by the weights of its rows, and each of the objective's metrics, to
    be divided by the number of rows. A filler row adds 0 to all of them."""

    loss: torch.Tensor
    metrics: torch.Tensor | None = None


class Objective(ABC):
    """metrics: names of what `sums` adds up beside the loss. perplexity: whether exp(loss) is one."""

    metrics: tuple[str, ...] = ()
    perplexity = False

    @abstractmethod
    def examples(self, rows: Sequence[Any]) -> Examples:
        """The rows with their lengths, weights and batches."""

    @abstractmethod
    def sums(self, model: Any, batch: MicroBatch, *, training: bool) -> Sums:
        """Loss and metrics of a batch that lies on the device, inside the run's autocast."""

    def after_step(self, step: int) -> None:  # noqa: B027 - most objectives change nothing of their own
        """What the objective itself changes after `step` optimizer steps."""

    def save(self, folder: Path) -> None:  # noqa: B027
        """Adds to a checkpoint what `after_step` changed."""

    def load(self, folder: Path) -> None:  # noqa: B027
        """Takes it from a checkpoint again."""


class LanguageModelling(Objective):
    """Cross-entropy over target tokens: methods sft and clm. Labels are smoothed in training only."""

    perplexity = True

    def __init__(self, padding: Padding, label_smoothing: float = 0.0) -> None:
        self._padding = padding
        self._label_smoothing = label_smoothing

    def examples(self, rows: Sequence[Any]) -> Examples:
        return Examples(rows, self._padding)

    def sums(self, model: Any, batch: MicroBatch, *, training: bool) -> Sums:
        return Sums(cross_entropy_sum(model, batch, self._label_smoothing if training else 0.0))

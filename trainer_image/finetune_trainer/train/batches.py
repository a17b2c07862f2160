"""The stream of micro-batches of one process: collated, with the counts that weight the loss."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, tee
from typing import Any

import torch
from torch.utils.data import DataLoader

from finetune_trainer.data import IGNORED, Example, collate
from finetune_trainer.train.sampler import FILLER, BatchShape, deal, global_batches


@dataclass(frozen=True)
class Padding:
    """How rows of a batch are made equally long. takes_positions: whether the model can be told where a row begins.
    length: of every batch; None: its longest row's."""

    pad_input_id: int
    side: str
    takes_positions: bool = True
    length: int | None = None


@dataclass(frozen=True)
class MicroBatch:
    """input_ids (rows, length); attention_mask only where the model needs one; targets: the flat positions (in the
    shifted labels) that the loss counts and their token ids. reference: what a reference model said of each row."""

    input_ids: Any
    attention_mask: Any
    position_ids: Any
    target_positions: Any
    target_ids: Any
    reference: Any = None

    def apply(self, change: Callable[[Any], Any]) -> "MicroBatch":
        """The same with every tensor changed."""
        return MicroBatch(**{name: None if value is None else change(value) for name, value in vars(self).items()})

    def pin_memory(self) -> "MicroBatch":
        """The same in pinned memory; DataLoader calls it, and would pin nothing of a class that it does not know."""
        return self.apply(lambda tensor: tensor.pin_memory())


@dataclass(frozen=True)
class StepPlan:
    """One optimizer step of this process. Counts are over the whole global batch; weight: what its loss is divided
    by."""

    epoch: int
    index: int
    micro_rows: list[list[int]]
    weight: int
    tokens: int
    rows: int


class Examples:
    """Examples with what the loop asks of each: length and weight, which is its number of targets (the first token is
    never predicted)."""

    def __init__(self, examples: Sequence[Example], padding: Padding) -> None:
        self._examples = examples
        self._padding = padding
        self._filler = Example([padding.pad_input_id] * 2, [IGNORED] * 2)
        self.lengths = [len(example) for example in examples]
        self.weights = [example.targets for example in examples]

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, row: int) -> Example:
        return self._filler if row == FILLER else self._examples[row]

    def collate(self, examples: Sequence[Example]) -> MicroBatch:
        """One padded batch. With padding on the right, causal attention never sees it: no mask is needed. Nor with
        packed rows, whose positions keep documents and padding apart, and only without a mask."""
        batch = collate(examples, self._padding.pad_input_id, self._padding.side, self._padding.length)
        mask, position_ids = None, batch.get("position_ids")
        width = batch["input_ids"].shape[1]
        if self._padding.side == "left" and position_ids is None and any(len(row) < width for row in examples):
            mask = batch["attention_mask"]
            position_ids = (mask.cumsum(-1) - 1).clamp(min=0) if self._padding.takes_positions else None
        if self._padding.side == "left":  # a row's first token would be predicted from padding
            for row, example in enumerate(examples):
                batch["labels"][row, width - len(example)] = IGNORED
        labels = batch["labels"][:, 1:]
        rows, columns = (labels != IGNORED).nonzero(as_tuple=True)
        return MicroBatch(
            input_ids=batch["input_ids"],
            attention_mask=mask,
            position_ids=position_ids,
            target_positions=rows * width + columns,
            target_ids=labels[rows, columns],
        )


def plan_epoch(
    examples: Examples, shape: BatchShape, rank: int, *, seed: int, epoch: int, sampling: str, start: int
) -> Iterator[StepPlan]:
    """The steps of an epoch from the `start`th on."""
    stream = global_batches(
        examples.lengths, seed=seed, epoch=epoch, sampling=sampling, batch_size=shape.total, start=start
    )
    for index, rows in enumerate(stream, start):
        yield StepPlan(
            epoch=epoch,
            index=index,
            micro_rows=deal(rows, shape, rank),
            weight=sum(examples.weights[row] for row in rows),
            tokens=sum(examples.lengths[row] for row in rows),
            rows=len(rows),
        )


def load(
    examples: Examples, plans: Iterable[StepPlan], loader: dict[str, Any]
) -> Iterator[tuple[StepPlan, Iterator[MicroBatch]]]:
    """Each step with its micro-batches, which worker processes may prepare ahead. Draws no global random number."""
    workers = loader.get("num_workers", 0)
    plans, ahead = tee(plans)
    batches = iter(
        DataLoader(
            examples,
            batch_sampler=(rows for plan in ahead for rows in plan.micro_rows),
            collate_fn=examples.collate,
            num_workers=workers,
            pin_memory=bool(loader.get("pin_memory")) and torch.cuda.is_available(),
            prefetch_factor=loader.get("prefetch_factor") if workers else None,
            generator=torch.Generator(),
        )
    )
    for plan in plans:
        yield plan, islice(batches, len(plan.micro_rows))

"""Which rows make a batch: a pure function of (seed, epoch), the same for any number of processes.

Global batch k of an epoch is rows [k*B, (k+1)*B) of that epoch's order, dealt over processes and micro-batches. A short
last batch is filled with FILLER rows, which carry no target: no sample is doubled, none is lost.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

FILLER = -1
MEGABATCHES = 50  # group_by_length sorts within pools of so many batches, as transformers does


@dataclass(frozen=True)
class BatchShape:
    """per_device rows in each of `accumulation` micro-batches on each of `world_size` processes."""

    per_device: int
    accumulation: int
    world_size: int

    @property
    def total(self) -> int:
        return self.per_device * self.accumulation * self.world_size


def epoch_order(lengths: Sequence[int], seed: int, epoch: int, sampling: str) -> list[int]:
    """The order of the rows in an epoch (counted from 0)."""
    rows = list(range(len(lengths)))
    if sampling == "sequential":
        return rows
    # A string seed is hashed with SHA-512: neighbouring seeds and epochs give unrelated orders.
    random.Random(f"{seed}/{epoch}").shuffle(rows)
    return rows


def group_by_length(order: Sequence[int], lengths: Sequence[int], batch_size: int) -> list[int]:
    """Rows of like length together: pools of MEGABATCHES batches, each sorted, the longest row of all first."""
    pool = max(1, min(MEGABATCHES, len(order) // (batch_size * 4) or 1)) * batch_size
    pools = [sorted(order[at : at + pool], key=lambda row: -lengths[row]) for at in range(0, len(order), pool)]
    if pools:  # running out of memory shows at the first step, not in the middle
        longest = max(range(len(pools)), key=lambda number: lengths[pools[number][0]])
        pools[0][0], pools[longest][0] = pools[longest][0], pools[0][0]
    return [row for rows in pools for row in rows]


def global_batches(
    lengths: Sequence[int], *, seed: int, epoch: int, sampling: str, batch_size: int, start: int = 0
) -> Iterator[list[int]]:
    """The batches of an epoch from the `start`th on; the last one may be short."""
    order = epoch_order(lengths, seed, epoch, sampling)
    if sampling == "group_by_length":
        order = group_by_length(order, lengths, batch_size)
    for at in range(start * batch_size, len(order), batch_size):
        yield order[at : at + batch_size]


def deal(batch: Sequence[int], shape: BatchShape, rank: int) -> list[list[int]]:
    """One process's micro-batches of a global batch. Micro-batches that nobody has rows for are left out."""
    rows = list(batch) + [FILLER] * (shape.total - len(batch))
    stride = shape.per_device * shape.world_size
    micro = []
    for at in range(0, shape.total, stride):
        if rows[at] == FILLER:
            break
        mine = rows[at + rank * shape.per_device : at + (rank + 1) * shape.per_device]
        kept = [row for row in mine if row != FILLER]
        micro.append(kept or [FILLER])  # a process without rows still takes part in the reduction of gradients
    return micro

"""Which rows make a batch: every row once, in an order that depends on seed and epoch alone."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.train.sampler import FILLER, BatchShape, deal, epoch_order, global_batches, group_by_length

SAMPLINGS = st.sampled_from(["random", "sequential", "group_by_length"])


@given(
    rows=st.integers(1, 60),
    per_device=st.integers(1, 5),
    accumulation=st.integers(1, 4),
    world=st.integers(1, 4),
    sampling=SAMPLINGS,
    epoch=st.integers(0, 3),
)
def test_every_row_is_dealt_once_and_every_process_takes_part(
    rows: int, per_device: int, accumulation: int, world: int, sampling: str, epoch: int
) -> None:
    shape = BatchShape(per_device, accumulation, world)
    dealt: Counter[int] = Counter()
    lengths = [1 + row % 7 for row in range(rows)]
    for batch in global_batches(lengths, seed=1, epoch=epoch, sampling=sampling, batch_size=shape.total):
        micro = [deal(batch, shape, rank) for rank in range(world)]
        assert len({len(one) for one in micro}) == 1, "processes would wait for each other for ever"
        assert all(one for batches in micro for one in batches)
        assert all(len(one) <= per_device for batches in micro for one in batches)
        dealt.update(row for batches in micro for one in batches for row in one if row != FILLER)
    assert dealt == Counter(range(rows))


@given(
    rows=st.integers(1, 60),
    total=st.sampled_from([4, 6, 12]),
    step=st.integers(0, 5),
    sampling=SAMPLINGS,
    data=st.data(),
)
def test_a_step_has_the_same_rows_however_its_batch_is_spread(
    rows: int, total: int, step: int, sampling: str, data: st.DataObject
) -> None:
    """Any world size, any per-device batch: the same rows in the same step, since every epoch's order is fixed."""
    lengths = [1 + row * 5 % 11 for row in range(rows)]
    batches = list(global_batches(lengths, seed=2, epoch=1, sampling=sampling, batch_size=total))
    batch = batches[step % len(batches)]
    world = data.draw(st.sampled_from([size for size in range(1, total + 1) if total % size == 0]))
    share = total // world
    per_device = data.draw(st.sampled_from([size for size in range(1, share + 1) if share % size == 0]))
    shape = BatchShape(per_device, share // per_device, world)
    spread = [row for rank in range(world) for one in deal(batch, shape, rank) for row in one if row != FILLER]
    assert sorted(spread) == sorted(batch)


@given(rows=st.integers(1, 40), start=st.integers(0, 10))
def test_starting_in_the_middle_gives_the_same_batches(rows: int, start: int) -> None:
    lengths = list(range(rows))
    arguments = {"seed": 3, "epoch": 2, "sampling": "group_by_length", "batch_size": 4}
    assert list(global_batches(lengths, **arguments, start=start)) == list(global_batches(lengths, **arguments))[start:]


def test_the_order_changes_with_seed_and_epoch_only() -> None:
    lengths = [5] * 30
    order = epoch_order(lengths, seed=1, epoch=0, sampling="random")
    assert order == epoch_order(lengths, seed=1, epoch=0, sampling="random")
    assert order != epoch_order(lengths, seed=1, epoch=1, sampling="random")
    assert order != epoch_order(lengths, seed=2, epoch=0, sampling="random")
    assert epoch_order(lengths, seed=1, epoch=0, sampling="sequential") == list(range(30))


def test_grouping_begins_with_the_longest_row_and_keeps_like_lengths_together() -> None:
    lengths = [(row * 37) % 101 for row in range(800)]
    order = group_by_length(epoch_order(lengths, seed=1, epoch=0, sampling="random"), lengths, batch_size=4)
    assert sorted(order) == list(range(800))
    assert lengths[order[0]] == max(lengths)
    spread = [
        max(lengths[row] for row in order[at : at + 4]) - min(lengths[row] for row in order[at : at + 4])
        for at in range(0, 800, 4)
    ]
    assert sum(spread) / len(spread) < 10


@pytest.mark.parametrize(
    ("batch", "rank", "expected"),
    [
        ([1, 2, 3, 4, 5, 6, 7, 8], 0, [[1, 2], [5, 6]]),
        ([1, 2, 3, 4, 5, 6, 7, 8], 1, [[3, 4], [7, 8]]),
        ([1, 2, 3, 4, 5], 0, [[1, 2], [5]]),
        ([1, 2, 3, 4, 5], 1, [[3, 4], [FILLER]]),
        ([1, 2], 1, [[FILLER]]),
    ],
)
def test_a_short_last_batch_is_filled(batch: list[int], rank: int, expected: list[list[int]]) -> None:
    assert deal(batch, BatchShape(per_device=2, accumulation=2, world_size=2), rank) == expected

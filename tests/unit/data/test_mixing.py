"""PRECOMPUTE_WEIGHTED_MIX and AUTO_SPLIT: nothing lost, nothing in both, the same for the same seed."""

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data import mixing
from finetune_trainer.data.mixing import interleave
from finetune_trainer.data.splitting import auto_split
from finetune_trainer.errors import BadConfiguration, BadData

SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=4)


def test_equal_weights_take_turns_until_the_longest_is_used_up() -> None:
    assert interleave([3, 1], [1.0, 1.0], seed=7) == [(0, 0), (1, 0), (0, 1), (1, 0), (0, 2), (1, 0)]


def test_a_weight_of_zero_leaves_a_dataset_out() -> None:
    assert interleave([2, 5, 1], [1.0, 0.0, 1.0], seed=7) == [(0, 0), (2, 0), (0, 1), (2, 0)]
    assert {number for number, _ in interleave([4, 0], [0.3, 0.0], seed=7)} == {0}


@pytest.mark.parametrize(
    ("sizes", "weights", "seed", "order"),
    [
        ([3, 2], [0.5, 0.5], 1, "a0 b0 b1 a1 a2"),
        ([3, 2], [0.5, 0.5], 2, "b0 b1 a0 a1 b0 b1 b0 a2"),
        ([3, 2], [1.5, 0.5], 1, "a0 b0 b1 a1 a2"),
        ([3, 2], [3.0, 1.0], 1, "a0 b0 b1 a1 a2"),
        ([2, 4, 1], [2.0, 1.0, 1.0], 19851243, "a0 c0 a1 b0 a0 c0 a1 a0 a1 a0 b1 a1 a0 b2 b3"),
        ([2, 9, 1], [1.0, 0.0, 2.0], 19851243, "c0 c0 a0 c0 a1"),
        ([2, 3, 1], [1.0, 1.0, 1.0], 5, "a0 b0 c0 a1 b1 c0 a0 b2 c0"),
        ([2, 3, 9], [1.0, 1.0, 0.0], 5, "a0 b0 a1 b1 a0 b2"),
    ],
)
def test_the_order_is_pinned(sizes: list[int], weights: list[float], seed: int, order: str) -> None:
    """Old jobs must draw the same rows with a new version, on every machine and at any number of processes."""
    assert " ".join(f"{'abc'[number]}{row}" for number, row in interleave(sizes, weights, seed)) == order


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.7, 0.2, 1.3], [5.0, 1.0, 1.0]])
def test_as_the_datasets_library_mixes_with_the_same_draws(
    weights: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """interleave_datasets with stopping_strategy all_exhausted; only the random generator is another."""
    import numpy
    from datasets import Dataset, interleave_datasets

    sizes = [7, 2, 11]
    parts = [Dataset.from_list([{"id": [part, row]} for row in range(size)]) for part, size in enumerate(sizes)]
    equal = set(weights) == {1.0}
    shares = None if equal else [weight / sum(weights) for weight in weights]
    mixed = interleave_datasets(parts, probabilities=shares, seed=3, stopping_strategy="all_exhausted")

    def draws(given: list[float], seed: int) -> Iterator[int]:
        generator = numpy.random.default_rng(seed)
        while True:
            yield from (int(place) for place in generator.choice(len(given), size=1000, p=shares))

    monkeypatch.setattr(mixing, "_places", draws)
    assert [list(place) for place in interleave(sizes, weights, seed=3)] == mixed["id"]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, -0.5], r"datasets\[1\]\.sampling_weight is -0\.5"),
        ([0.0, 0.0], "every sampling_weight is 0"),
        ([float("nan"), 1.0], r"datasets\[0\]\.sampling_weight is nan"),
    ],
)
def test_impossible_weights_are_refused(weights: list[float], message: str) -> None:
    with pytest.raises(BadConfiguration, match=message):
        interleave([1, 1], weights, seed=7)


@given(SIZES, st.data())
def test_every_row_is_drawn_and_rows_of_a_dataset_come_in_order(sizes: list[int], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.floats(0.05, 3.0), min_size=len(sizes), max_size=len(sizes)))
    order = interleave(sizes, weights, seed=11)
    assert set(order) == {(number, row) for number, size in enumerate(sizes) for row in range(size)}
    for number, size in enumerate(sizes):
        rows = [row for dataset, row in order if dataset == number]
        assert rows == [position % size for position in range(len(rows))]
    assert order == interleave(sizes, weights, seed=11)
    if any(weight != 1.0 for weight in weights):
        assert order[-1] not in order[:-1]  # it ends with the row that was still missing


def test_draws_follow_the_weights() -> None:
    counts = Counter(number for number, _ in interleave([3000, 1000], [3.0, 1.0], seed=5))
    assert 2.6 < counts[0] / counts[1] < 3.4
    assert interleave([30, 30], [0.5, 0.4], seed=1) != interleave([30, 30], [0.5, 0.4], seed=2)
    assert interleave([30, 30], [3.0, 1.0], seed=1) == interleave([30, 30], [0.75, 0.25], seed=1)


@given(st.integers(2, 300), st.floats(0.01, 0.99), st.integers(0, 2**32 - 1))
def test_a_split_is_disjoint_whole_and_stable(rows: int, ratio: float, seed: int) -> None:
    try:
        train, validation = auto_split(rows, ratio, seed)
    except BadData:
        assert rows - rows * ratio < 1  # nothing would be left to train on
        return
    assert sorted(train + validation) == list(range(rows))
    assert abs(len(validation) - rows * ratio) <= 1
    assert (train, validation) == auto_split(rows, ratio, seed)


def test_the_default_split_is_pinned() -> None:
    """The rows of old jobs must not change sides with a new version."""
    assert auto_split(10, 0.2, 1289525893) == ([0, 1, 3, 5, 6, 7, 8, 9], [2, 4])
    assert len(auto_split(10, 0.3, 1)[1]) == 3  # 10 * 0.3 is 3.0000000000000004 in floating point


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_rows_to_split(rows: int) -> None:
    with pytest.raises(BadData, match=r"AUTO_SPLIT with ratio 0\.2"):
        auto_split(rows, 0.2, 1)

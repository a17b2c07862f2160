"""PRECOMPUTE_WEIGHTED_MIX: which row of which dataset comes next, until every row of every dataset was drawn.

Datasets of weight 0 are left out. Equal weights of 1.0 take turns exactly; other weights are probabilities after
normalising, drawn from a generator that is a function of the seed alone. A dataset that ends before the others starts
over.
"""

import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, cycle

from finetune_trainer.errors import BadConfiguration


def check_weights(weights: Sequence[float]) -> None:
    """Raises BadConfiguration if a weight is negative or all are 0."""
    for number, weight in enumerate(weights):
        if not 0 <= weight < float("inf"):
            raise BadConfiguration(
                f"data_conf.training_data.datasets[{number}].sampling_weight is {weight}; it must be 0 or more"
            )
    if not sum(weights) > 0:
        raise BadConfiguration(
            "data_conf.training_data: every sampling_weight is 0, so no dataset is left; give one of them a weight"
        )


def interleave(sizes: Sequence[int], weights: Sequence[float], seed: int) -> list[tuple[int, int]]:
    """(dataset, row) in training order: each dataset of a positive weight whole at least once.

    sizes: rows of each dataset; those of a positive weight must have rows.
    """
    check_weights(weights)
    chosen = [number for number, weight in enumerate(weights) if weight > 0]
    if any(sizes[number] == 0 for number in chosen):
        raise ValueError("a dataset with a weight has no rows")
    if all(weights[number] == 1.0 for number in chosen):
        rounds = max(sizes[number] for number in chosen)
        return [(number, row % sizes[number]) for row in range(rounds) for number in chosen]
    return _draw(sizes, chosen, [weights[number] for number in chosen], seed)


def _draw(sizes: Sequence[int], chosen: list[int], weights: list[float], seed: int) -> list[tuple[int, int]]:
    rows = {number: cycle(range(sizes[number])) for number in chosen}
    missing = {number: sizes[number] for number in chosen}
    order: list[tuple[int, int]] = []
    for place in _places(weights, seed):
        number = chosen[place]
        order.append((number, next(rows[number])))
        if number in missing:
            missing[number] -= 1
            if not missing[number]:
                del missing[number]
        if not missing:
            break
    return order


def _places(weights: Sequence[float], seed: int) -> Iterator[int]:
    """Endless draws by weight. random() is the one method whose sequence Python promises to keep for a seed."""
    bounds = list(accumulate(weights))
    uniform = random.Random(seed).random
    while True:
        yield min(bisect_right(bounds, uniform() * bounds[-1]), len(weights) - 1)

"""AUTO_SPLIT: the same rows go to validation for the same data, ratio and seed; no row stands in both."""

import math
import random

from finetune_trainer.errors import BadData


def auto_split(rows: int, ratio: float, seed: int) -> tuple[list[int], list[int]]:
    """(train, validation) row numbers, each ascending; validation gets `ratio` of the rows, rounded up.

    Raises BadData if either would be empty.
    """
    validation = math.ceil(round(rows * ratio, 9))
    if not 0 < validation < rows:
        raise BadData(
            f"AUTO_SPLIT with ratio {ratio} of {rows} usable row{'' if rows == 1 else 's'} leaves "
            f"{rows - validation} for training and {validation} for validation; "
            "add rows, change data_conf.validation_data.ratio, or set its type to NONE"
        )
    uniform = random.Random(seed).random  # the one method whose sequence Python promises to keep for a seed
    keys = [uniform() for _ in range(rows)]
    shuffled = sorted(range(rows), key=lambda row: (keys[row], row))
    return sorted(shuffled[validation:]), sorted(shuffled[:validation])

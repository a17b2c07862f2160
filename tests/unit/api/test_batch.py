"""The engine's batch arithmetic, vector for vector."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.batch import BatchError, BatchPlan, plan_batch


@pytest.mark.parametrize(
    ("total", "largest", "processes", "per_device", "accumulation"),
    [
        (8, 4, 1, 4, 2),
        (8, 3, 2, 2, 2),
        (512, 4, 8, 4, 16),
        (7, 4, 1, 1, 7),
        (1, 1, 1, 1, 1),
        (8, 8, 1, 8, 1),
        (8, 100, 2, 4, 1),
        (12, 5, 1, 4, 3),
    ],
)
def test_vectors(total: int, largest: int, processes: int, per_device: int, accumulation: int) -> None:
    assert plan_batch(total, largest, processes) == BatchPlan(per_device, accumulation, per_device)


def test_the_evaluation_batch_can_be_given() -> None:
    assert plan_batch(8, 4, 1, eval_per_device=16).eval_per_device == 16


@pytest.mark.parametrize(
    ("total", "processes", "advice"), [(8, 3, "use 6 or 9"), (2, 4, "use 4,"), (512, 5, "use 510 or 515")]
)
def test_what_does_not_divide_names_what_would(total: int, processes: int, advice: str) -> None:
    with pytest.raises(BatchError, match=advice):
        plan_batch(total, 4, processes)


@given(share=st.integers(1, 300), largest=st.integers(1, 300), processes=st.integers(1, 64))
def test_the_total_is_kept_and_the_limit_held(share: int, largest: int, processes: int) -> None:
    plan = plan_batch(share * processes, largest, processes)
    assert plan.per_device * plan.accumulation * processes == share * processes
    assert plan.per_device <= largest
    larger = [size for size in range(plan.per_device + 1, largest + 1) if share % size == 0]
    assert larger == [], "a larger batch per device would have done"

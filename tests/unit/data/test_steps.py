"""How many steps a job takes, and after which of them it validates and saves."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.steps import Steps, count_steps
from finetune_trainer.timetable import Events, Rhythm


@pytest.mark.parametrize(
    ("examples", "batch", "epochs", "max_steps", "least", "expected"),
    [
        (96, 4, None, -1, 100, Steps(24, 120, 5)),  # LLMForge's own example: ceil(100 / 24) = 5 epochs
        (96, 4, None, -1, 24, Steps(24, 24, 1)),
        (96, 4, None, -1, 1, Steps(24, 24, 1)),
        (97, 4, None, -1, 100, Steps(25, 100, 4)),
        (96, 4, 3.0, 7, 100, Steps(24, 7, 7 / 24)),  # max_steps beats epochs, and the least number beside it
        (42, 8, 2.0, -1, None, Steps(6, 12, 2.0)),
        (42, 8, 0.1, -1, None, Steps(6, 1, 0.1)),
    ],
)
def test_steps(
    examples: int, batch: int, epochs: float | None, max_steps: int, least: int | None, expected: Steps
) -> None:
    assert count_steps(examples, batch, epochs, max_steps, least) == expected


def _due(when: Events | Rhythm, steps: Steps) -> list[int]:
    return [step for step in range(1, steps.total + 1) if when.due(step, steps)]


@pytest.mark.parametrize(
    ("events", "steps", "expected"),
    [
        (Events(every_n_epochs=1), Steps(6, 12, 2), [6, 12]),
        (Events(every_n_epochs=2), Steps(6, 30, 5), [12, 24, 30]),
        (Events(every_n_epochs=9), Steps(6, 12, 2), [12]),
        (Events(max_events=4), Steps(6, 12, 2), [3, 6, 9, 12]),
        (Events(max_events=5), Steps(6, 12, 2), [3, 5, 8, 10, 12]),
        (Events(max_events=1), Steps(6, 12, 2), [12]),
        (Events(max_events=99), Steps(6, 3, 0.5), [1, 2, 3]),
        (Events(every_n_epochs=1, max_events=10), Steps(6, 12, 2), [6, 12]),
        (Events(every_n_epochs=1, max_events=2), Steps(6, 24, 4), [12, 24]),
        (Events(every_n_epochs=1, max_events=3), Steps(6, 30, 5), [12, 24, 30]),
        (Events(every_n_epochs=5, max_events=10), Steps(1, 100, 100), [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]),
    ],
    ids=str,
)
def test_events(events: Events, steps: Steps, expected: list[int]) -> None:
    assert _due(events, steps) == expected
    assert events.count(steps) == len(expected)


@given(
    n=st.none() | st.integers(1, 5),
    most=st.none() | st.integers(1, 12),
    per_epoch=st.integers(1, 9),
    total=st.integers(1, 60),
)
def test_events_end_with_the_training_and_are_never_too_many(
    n: int | None, most: int | None, per_epoch: int, total: int
) -> None:
    if n is None and most is None:
        return
    steps = Steps(per_epoch, total, total / per_epoch)
    found = _due(Events(n, most), steps)
    assert found[-1] == total
    assert len(found) == Events(n, most).count(steps)
    assert most is None or len(found) <= most
    if n is not None:
        assert all(step % (n * per_epoch) == 0 for step in found[:-1]), "an event inside an epoch"
    else:
        gaps = [after - before for before, after in zip([0, *found], found, strict=False)]
        assert max(gaps) - min(gaps) <= 1, "not spread evenly"


@given(
    strategy=st.sampled_from(["no", "steps", "epoch"]),
    every=st.sampled_from([0.1, 0.5, 1, 3, 7]),
    per_epoch=st.integers(1, 9),
    total=st.integers(1, 60),
)
def test_a_rhythm_is_counted_as_it_happens(strategy: str, every: float, per_epoch: int, total: int) -> None:
    steps = Steps(per_epoch, total, total / per_epoch)
    rhythm = Rhythm(strategy, every)
    assert rhythm.count(steps) == len(_due(rhythm, steps))
    if strategy == "epoch":
        assert rhythm.count(steps) == math.ceil(total / per_epoch)

"""Backoff and counting: table tests over histories."""

from datetime import timedelta

import pytest

from finetune_operator.plan.attempts import failures as count
from finetune_operator.plan.retry import backoff, next_try
from finetune_operator.plan.times import render


def history(now, *outcomes, length=300):
    """Attempts that ended one after another, the last of them now."""
    start = now - timedelta(seconds=length)
    return [
        {
            "outcome": outcome,
            "reason": "Suspended" if outcome == "suspended" else "X",
            "startTime": render(start),
            "endTime": render(now),
        }
        for outcome in outcomes
    ]


@pytest.mark.parametrize(
    ("outcomes", "wait", "failures"),
    [
        (["retry"], 10, 1),
        (["retry", "retry"], 20, 2),
        (["retry", "retry", "retry"], 40, 3),
        (["retry", "resume"], 0, 1),
        (["resume", "resume", "resume", "resume"], 0, 0),
        (["retry", "resume", "retry"], 20, 2),
    ],
)
def test_waits_and_counts(world, outcomes, wait, failures):
    attempts = history(world.now, *outcomes)
    assert count(attempts) == failures
    coming = next_try(attempts, failures, 5, 10, 300)
    assert (coming.at, coming.failures) == (world.now + timedelta(seconds=wait), failures)


def test_no_try_after_the_last(world):
    assert next_try(history(world.now, "retry", "retry", "retry"), 3, 3, 10, 300).at is None


def test_interruptions_are_not_limited_by_max_attempts(world):
    assert next_try(history(world.now, *["resume"] * 15), 0, 1, 10, 300).at == world.now


@pytest.mark.parametrize(("row", "wait"), [(1, 0), (2, 0), (3, 10), (4, 20), (5, 40)])
def test_interruptions_within_moments_do_not_loop_tightly(world, row, wait):
    coming = next_try(history(world.now, *["resume"] * row, length=3), 0, 3, 10, 300)
    assert coming.at == world.now + timedelta(seconds=wait)


@pytest.mark.parametrize(("exponent", "seconds"), [(0, 10), (1, 20), (4, 160), (5, 300), (99, 300)])
def test_backoff_doubles_up_to_its_cap(exponent, seconds):
    assert backoff(exponent, 10, 300) == seconds

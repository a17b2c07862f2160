"""The queue: one key once, never to two workers, events during work are not lost, failures back off."""

import asyncio

import pytest

from finetune_operator.workqueue import WorkQueue


@pytest.fixture
async def queue():
    return WorkQueue(asyncio.get_running_loop().time, min_interval=0.0, base_backoff=0.05, max_backoff=0.2)


async def taken(queue, within=0.05):
    """The next key, or None if none becomes due."""
    try:
        return await asyncio.wait_for(queue.get(), within)
    except TimeoutError:
        return None


async def test_many_events_are_one_piece_of_work(queue):
    for _ in range(100):
        queue.add("a")
    assert await taken(queue) == "a"
    queue.done("a")
    assert await taken(queue) is None


async def test_an_event_during_the_work_makes_it_due_again_but_not_twice_at_once(queue):
    queue.add("a")
    assert await taken(queue) == "a"
    queue.add("a")
    assert await taken(queue) is None
    queue.done("a")
    assert await taken(queue) == "a"


async def test_the_sooner_of_two_times_counts(queue):
    queue.add("a", after=30)
    assert await taken(queue) is None
    queue.add("a")
    assert await taken(queue) == "a"
    queue.done("a")
    assert await taken(queue) is None


async def test_failures_back_off_and_success_starts_over(queue):
    queue.add("a")
    delays = []
    for _ in range(4):
        assert await taken(queue, 0.5) == "a"
        delays.append(queue.retry("a"))
    assert 0.03 < delays[0] < delays[1] < delays[2]
    assert delays[3] <= 0.25
    assert await taken(queue, 0.5) == "a"
    queue.done("a")
    queue.add("a")
    assert await taken(queue) == "a"
    assert queue.retry("a") < 0.07


async def test_a_server_that_asks_to_wait_is_obeyed(queue):
    queue.add("a")
    await queue.get()
    assert queue.retry("a", at_least=7.0) == 7.0


async def test_bursts_after_our_own_writes_are_merged():
    queue = WorkQueue(asyncio.get_running_loop().time, min_interval=0.15)
    queue.add("a")
    assert await taken(queue) == "a"
    queue.done("a")
    queue.add("a")
    assert await taken(queue) is None
    assert await taken(queue, 0.5) == "a"


async def test_all_workers_are_woken(queue):
    waiting = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    for key in "abc":
        queue.add(key)
    assert {await asyncio.wait_for(task, 1) for task in waiting} == {"a", "b", "c"}


async def test_a_key_that_nobody_takes_shows_as_overdue(queue):
    queue.add("a")
    await asyncio.sleep(0.03)
    assert queue.overdue() >= 0.02
    assert await taken(queue) == "a"
    assert queue.overdue() == 0.0
    assert queue.longest_work() >= 0.0

"""The queue between watch events and reconcile: keyed, de-duplicating, delayed, rate-limited (as client-go's).

A key waits at most once, however many events name it; it is never handed to two workers; an event that comes while it
is being worked on makes it due again afterwards; failures back off exponentially per key. `min_interval` merges the
burst of events that our own writes cause.
"""

import asyncio
import heapq
import itertools
import random
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class WorkQueue(Generic[Key]):
    """Times are seconds of `clock`, which tests may replace only together with the loop's."""

    def __init__(
        self,
        clock: Callable[[], float],
        min_interval: float = 0.2,
        base_backoff: float = 0.5,
        max_backoff: float = 60.0,
    ) -> None:
        self._clock = clock
        self._min_interval = min_interval
        self._base_backoff = base_backoff
        self._max_backoff = max_backoff
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._order = itertools.count()
        self._working: set[Key] = set()
        self._started: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._changed = asyncio.Event()

    def add(self, key: Key, after: float = 0.0) -> None:
        """Make the key due in `after` seconds, or sooner if it already is."""
        earliest = self._started.get(key, -self._min_interval) + self._min_interval
        due = max(self._clock() + after, earliest)
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            if key not in self._working:
                self._push(key)

    async def get(self) -> Key:
        """The next due key; it is the caller's until done() or retry()."""
        while True:
            self._changed.clear()
            entry = self._peek()
            wait = None if entry is None else entry[0] - self._clock()
            if entry is not None and wait is not None and wait <= 0:
                return self._take(entry[1])
            try:
                await asyncio.wait_for(self._changed.wait(), wait)
            except TimeoutError:
                pass

    def _take(self, key: Key) -> Key:
        heapq.heappop(self._heap)
        del self._due[key]
        self._working.add(key)
        self._started[key] = self._clock()
        self._changed.set()  # let the other waiting workers look at what is next
        return key

    def done(self, key: Key, gone: bool = False) -> None:
        """The key's work has succeeded: its backoff starts over. `gone`: nothing is left to remember of it."""
        self._failures.pop(key, None)
        self._release(key)
        if gone and key not in self._due:
            self._started.pop(key, None)

    def retry(self, key: Key, at_least: float = 0.0) -> float:
        """The key's work has failed: due again after its backoff, which is returned."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay = min(self._base_backoff * float(2 ** min(failures - 1, 16)), self._max_backoff) * random.uniform(
            0.8, 1.2
        )
        delay = max(delay, at_least)
        self._due.pop(key, None)  # an event during the failed work must not undo the backoff
        self._release(key)
        self.add(key, after=delay)
        return delay

    def __len__(self) -> int:
        return len(self._due)

    def depth(self) -> int:
        """How many keys are due and wait for a worker."""
        now = self._clock()
        return sum(due <= now and key not in self._working for key, due in self._due.items())

    def working(self) -> int:
        return len(self._working)

    def overdue(self) -> float:
        """For how many seconds the most overdue key has been waiting for a worker: near 0 in a healthy queue."""
        now = self._clock()
        return max((now - due for key, due in self._due.items() if key not in self._working), default=0.0)

    def longest_work(self) -> float:
        """For how many seconds the slowest piece of work has been going on."""
        now = self._clock()
        return max((now - self._started[key] for key in self._working), default=0.0)

    def _release(self, key: Key) -> None:
        self._working.discard(key)
        if key in self._due:
            self._push(key)

    def _push(self, key: Key) -> None:
        heapq.heappush(self._heap, (self._due[key], next(self._order), key))
        self._changed.set()

    def _peek(self) -> tuple[float, Key] | None:
        """The earliest valid entry. Entries that were superseded, or whose key is being worked on, are dropped: a
        released key is pushed anew."""
        while self._heap:
            due, _, key = self._heap[0]
            if self._due.get(key) == due and key not in self._working:
                return due, key
            heapq.heappop(self._heap)
        return None

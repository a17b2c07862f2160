"""Packing: rows that are too long are cut into pieces, and pieces fill sequences, so that little padding is computed.

Best-fit decreasing: the longest piece first, each into the fullest sequence that it still fits. The result depends on
the rows and their order alone. Packed pieces do not see one another (Example.starts, collate).
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from finetune_trainer.data.example import Example


def pieces(row: Example, limit: int) -> Iterator[Example]:
    """The row, or its pieces of at most `limit` tokens, without those in which nothing is a target."""
    if len(row) <= limit:
        yield row
        return
    for at in range(0, len(row), limit):
        piece = row.part(at, min(at + limit, len(row)))
        if piece.targets:
            yield piece


def pack(rows: Iterable[Example], limit: int) -> list[Example]:
    """Sequences of at most `limit` tokens that hold all the rows' pieces, in the order of their first ones."""
    documents = [piece for row in rows for piece in pieces(row, limit)]
    return [Example.packed([documents[number] for number in group]) for group in fit(list(map(len, documents)), limit)]


def fit(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Groups of item numbers whose lengths sum up to at most `limit`; every item in one of them, ascending."""
    groups: list[list[int]] = []
    open_by_room: dict[int, deque[int]] = {}
    rooms: list[int] = []  # the keys of open_by_room, ascending: at most `limit` of them, however many items
    for item in sorted(range(len(lengths)), key=lambda item: (-lengths[item], item)):
        length = lengths[item]
        at = bisect_left(rooms, length)
        if at == len(rooms):
            groups.append([])
            group, room = len(groups) - 1, limit
        else:
            room = rooms[at]
            group = open_by_room[room].popleft()
            if not open_by_room[room]:
                del open_by_room[room], rooms[at]
        groups[group].append(item)
        left = room - length
        if left:
            if left not in open_by_room:
                open_by_room[left] = deque()
                insort(rooms, left)
            open_by_room[left].append(group)
    return sorted(sorted(group) for group in groups)

"""One tokenised training example, held compactly: millions of them must fit in a pod's memory."""

from array import array
from collections.abc import Iterable, Sequence

IGNORED = -100  # the label that a cross-entropy loss skips


class Example:
    """Token ids and their labels, equally long and unshifted (the model shifts); labels are IGNORED outside trained
    spans.

    Held as 4 bytes a token and the trained spans, not as two lists of Python ints; `input_ids` and `labels` build
    lists.
    """

    __slots__ = ("_ids", "_spans")

    def __init__(self, input_ids: Iterable[int], labels: Sequence[int]) -> None:
        self._ids = array("i", input_ids)
        if len(labels) != len(self._ids):
            raise ValueError(f"{len(self._ids)} token ids but {len(labels)} labels")
        self._spans = _trained_spans(self._ids, labels)

    @classmethod
    def from_spans(cls, input_ids: Iterable[int], spans: Iterable[tuple[int, int]]) -> "Example":
        """An example of which only the token ranges `spans` (start, end) are trained."""
        example = cls.__new__(cls)
        example._ids = array("i", input_ids)
        example._spans = tuple(spans)
        return example

    def __len__(self) -> int:
        return len(self._ids)

    def __repr__(self) -> str:
        return f"Example(tokens={len(self)}, trained={self.trained_tokens})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Example) and self._ids == other._ids and self._spans == other._spans

    def __hash__(self) -> int:
        return hash((self._ids.tobytes(), self._spans))

    @property
    def input_ids(self) -> list[int]:
        return self._ids.tolist()

    @property
    def labels(self) -> list[int]:
        labels = [IGNORED] * len(self._ids)
        for start, end in self._spans:
            labels[start:end] = self._ids[start:end].tolist()
        return labels

    @property
    def trained_tokens(self) -> int:
        return sum(end - start for start, end in self._spans)


def _trained_spans(ids: "array[int]", labels: Sequence[int]) -> tuple[tuple[int, int], ...]:
    spans: list[tuple[int, int]] = []
    start: int | None = None
    for position, label in enumerate(labels):
        if label != IGNORED and label != ids[position]:
            raise ValueError(
                f"label {label} at position {position} is neither the token id {ids[position]} nor {IGNORED}"
            )
        if label != IGNORED and start is None:
            start = position
        elif label == IGNORED and start is not None:
            spans.append((start, position))
            start = None
    if start is not None:
        spans.append((start, len(labels)))
    return tuple(spans)

"""One tokenised training example, held compactly: millions of them must fit in a pod's memory."""

from array import array
from collections.abc import Iterable, Sequence

IGNORED = -100  # the label that a cross-entropy loss skips
ALONE: tuple[int, ...] = (0,)  # where the documents of an example that is not packed begin


class Example:
    """Token ids and their labels, equally long and unshifted (the model shifts); labels are IGNORED outside trained
    spans.

    Several documents may be packed into one example: `starts` are the places of their first tokens, which are never
    trained (but for the example's own first token, which no model predicts). Held as 4 bytes a token and the trained
    spans, not as two lists of Python ints; `input_ids` and `labels` build lists.
    """

    __slots__ = ("_ids", "_spans", "starts")

    def __init__(self, input_ids: Iterable[int], labels: Sequence[int]) -> None:
        self._ids = array("i", input_ids)
        if len(labels) != len(self._ids):
            raise ValueError(f"{len(self._ids)} token ids but {len(labels)} labels")
        self._spans = _trained_spans(self._ids, labels)
        self.starts = ALONE

    @classmethod
    def from_spans(cls, input_ids: Iterable[int], spans: Iterable[tuple[int, int]]) -> "Example":
        """An example of which only the token ranges `spans` (start, end) are trained."""
        example = cls.__new__(cls)
        example._ids = array("i", input_ids)
        example._spans = tuple(spans)
        example.starts = ALONE
        return example

    @classmethod
    def packed(cls, documents: Sequence["Example"]) -> "Example":
        """The documents one after another; nothing in one is a target for the one before."""
        ids, spans, starts = array("i"), [], []
        for document in documents:
            at = len(ids)
            starts.append(at)
            for start, end in document._spans:
                first = max(start, 1) if at else start
                if first < end:
                    spans.append((at + first, at + end))
            ids.extend(document._ids)
        example = cls.from_spans((), spans)
        example._ids, example.starts = ids, tuple(starts)
        return example

    def part(self, start: int, end: int) -> "Example":
        """The tokens from start to before end, trained where they were."""
        spans = [(max(a, start) - start, min(b, end) - start) for a, b in self._spans if a < end and b > start]
        return Example.from_spans(self._ids[start:end], spans)

    def __len__(self) -> int:
        return len(self._ids)

    def __repr__(self) -> str:
        return f"Example(tokens={len(self)}, trained={self.trained_tokens})"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Example)
            and self._ids == other._ids
            and self._spans == other._spans
            and self.starts == other.starts
        )

    def __hash__(self) -> int:
        return hash((self._ids.tobytes(), self._spans, self.starts))

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

    @property
    def targets(self) -> int:
        """The tokens that the loss counts: the trained ones but the first of all, which nothing predicts."""
        return self.trained_tokens - any(start == 0 for start, _ in self._spans)


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

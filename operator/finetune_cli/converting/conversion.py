"""What a converter collects: the spec, a note for each key it translated, an error for each that has no meaning.

Nothing is silently lost: every key of the source ends in `put`, `drop` or `refuse`. Where a key of spec came from is
remembered, so that what validation finds wrong can be said of the key that the user wrote.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable
from typing import Any

SHOWN = 100  # characters of a value in a message
COMPUTED = "the program computes it; write its value"


class Conversion:
    """One source on its way to a FineTuneJob."""

    def __init__(self, source: str) -> None:
        self.source = source  # as messages call it
        self.name: str | None = None
        self.spec: dict[str, Any] = {}
        self.annotations: dict[str, str] = {}
        self.notes: list[str] = []
        self.errors: list[str] = []
        self.origins: dict[str, str] = {}  # path of spec -> "key: value" of the source
        self.later: list[Callable[[], None]] = []  # what depends on the flags of the command line

    def put(self, path: str, value: Any, key: str, old: Any, why: str = "", shown: Any = None) -> None:
        """Set a key of spec to what `key: old` of the source means. `shown` stands for a value too long for a note."""
        if computed(value):
            self.refuse(key, old, COMPUTED)
            return
        self._set(path, value)
        self.origins[path] = f"{key}: {show(old)}"
        new = path if same(value, old) else f"{path}: {show(value if shown is None else shown)}"
        self.notes.append(f"{key}: {show(old)} -> {new}{because(why)}")

    def default(self, path: str, value: Any, key: str, why: str = "", old: Any = None) -> None:
        """Write a default of the source out, since ours may differ. `old`: the source's value, if it is another one."""
        self._set(path, value)
        shown = show(value if old is None else old)
        whose = f"{self.source}'" if self.source.endswith("s") else f"{self.source}'s"
        self.notes.append(f"{key} is not given: {whose} {shown} -> {path}: {show(value)}{because(why)}")

    def choose(self, path: str, value: Any, why: str) -> None:
        """Set a key of spec that the source does not speak of."""
        self._set(path, value)
        self.notes.append(f"{path}: {show(value)} was chosen: {why}")

    def silent(self, path: str, value: Any) -> None:
        """Set what has to be there and says nothing."""
        self._set(path, value)

    def drop(self, key: str, value: Any, why: str) -> None:
        """Leave a key of the source out because it asks for nothing here."""
        self.notes.append(f"{key}: {show(value)} is left out: {why}")

    def refuse(self, key: str, value: Any, fix: str) -> None:
        """A key of the source that has no meaning here; `fix` says why and what to do."""
        self.errors.append(f"{key}: {show(value)}: {fix}")

    def missing(self, what: str, fix: str) -> None:
        """Something that a FineTuneJob needs and the source does not have."""
        self.errors.append(f"{what}: {fix}")

    def unknown(self, key: str, value: Any, known: Iterable[str]) -> None:
        """A key that the source's own documentation does not have."""
        near = difflib.get_close_matches(key.rpartition(".")[2], list(known), n=1)
        hint = f"did you mean {near[0]}?" if near else "remove it"
        self.refuse(key, value, f"{self.source} has no such key; {hint}")

    def get(self, path: str) -> Any:
        """The value of a key of spec, or None."""
        here: Any = self.spec
        for step in path.split("."):
            here = here.get(step) if isinstance(here, dict) else None
        return here

    def _set(self, path: str, value: Any) -> None:
        *parents, last = path.split(".")
        here = self.spec
        for step in parents:
            here = here.setdefault(step, {})
        here[last] = value


def show(value: Any) -> str:
    """A value as a message shows it: JSON, cut to a line."""
    text = value.text if isinstance(value, Code) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def same(one: Any, other: Any) -> bool:
    """Whether two values are written alike (1 and true are not)."""
    return bool(show(one) == show(other))


def because(why: str) -> str:
    """`why` as the end of a sentence."""
    return f" ({why})" if why else ""


class Code:
    """An expression of a Python source that no literal stands for; only its text is known."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def computed(value: Any) -> bool:
    """Whether a value is or holds what only the program knows."""
    if isinstance(value, dict):
        return any(computed(one) for one in value.values())
    if isinstance(value, list | tuple):
        return any(computed(one) for one in value)
    return isinstance(value, Code)


def whole(conversion: Conversion, key: str, value: Any, least: int = 1) -> int | None:
    """An integer of at least `least`, or None after an error that names the key."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        conversion.refuse(key, value, f"give a whole number of at least {least}")
        return None
    return value

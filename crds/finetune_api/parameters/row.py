"""One row of the table of parameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Required(Enum):
    """The default of a parameter that has none because it must be given."""

    REQUIRED = "required"


REQUIRED = Required.REQUIRED


@dataclass(frozen=True)
class Parameter:
    """A parameter as one document names it.

    `default` is the document's, or the value of its example; None where it gives none. `ours` are the keys of spec that
    it becomes, none where nothing of ours corresponds; `how` says what else there is to know about the translation.
    `beyond` marks what the document's system takes although the document itself does not name it.
    """

    document: str
    section: str
    key: str
    default: Any
    ours: tuple[str, ...]
    how: str
    where: tuple[str, ...]
    beyond: bool = False

    @property
    def name(self) -> str:
        """Section and key, as an error or a page names it."""
        return f"{self.section}.{self.key}" if self.section != self.key else self.key

    @property
    def default_text(self) -> str:
        """The default as JSON, 'required', or '' for none."""
        import json

        if self.default is REQUIRED:
            return "required"
        return "" if self.default is None else json.dumps(self.default)


Told = tuple[Any, str, str] | tuple[Any, str, str, str]


def rows(document: str, section: str, keys: Mapping[str, Told], beyond: bool = False) -> tuple[Parameter, ...]:
    """Rows of key -> (default, ours, where[, how]); several keys or modules are separated by spaces."""
    return tuple(
        Parameter(
            document,
            section,
            key,
            told[0],
            tuple(told[1].split()),
            told[3] if len(told) == 4 else "",
            tuple(told[2].split()),
            beyond,
        )
        for key, told in keys.items()
    )

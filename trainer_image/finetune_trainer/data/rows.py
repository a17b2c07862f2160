"""Reads JSONL rows of conversations and says of every bad line which file, which line and what to do.

All lines of all files are checked before anything is refused, so that a user mends the data once.
"""

import codecs
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from finetune_trainer.errors import BadData, InputMissing

ROLES = ("system", "user", "assistant")
LISTED_BAD_LINES = 10
_EXPECTED = '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'


@dataclass(frozen=True)
class DataFile:
    """A file as the user named it, and where it lies now."""

    name: str
    path: Path


@dataclass(frozen=True)
class Row:
    """One valid conversation and the line it stands on (from 1)."""

    line: int
    messages: list[dict[str, str]]


@dataclass
class BadLines:
    """What is wrong with the data so far: the first few lines in words, all of them counted."""

    count: int = 0
    listed: list[str] = field(default_factory=list)

    def add(self, file: str, line: int | None, reason: str) -> None:
        self.count += 1
        if len(self.listed) < LISTED_BAD_LINES:
            self.listed.append(f"{file}:{line}: {reason}" if line else f"{file}: {reason}")

    def raise_if_any(self) -> None:
        """Raises BadData with the total and the first lines."""
        if not self.count:
            return
        more = f"\n… and {self.count - len(self.listed)} more" if self.count > len(self.listed) else ""
        noun = "line" if self.count == 1 else "lines"
        raise BadData(f"{self.count} bad {noun} in the data:\n" + "\n".join(self.listed) + more)


class RowError(ValueError):
    """Why one line is not a conversation."""


def read_rows(file: DataFile, bad: BadLines, *, need_assistant: bool = False) -> Iterator[Row]:
    """The valid rows of a file in order; invalid ones go to `bad`, and so does a file without rows.

    need_assistant: a row without an assistant message is invalid, since nothing in it would be trained.
    Raises InputMissing if the file is not there.
    """
    seen = 0
    for number, raw in _lines(file):
        seen += 1
        try:
            messages = parse_row(raw)
            if need_assistant and all(message["role"] != "assistant" for message in messages):
                raise RowError(
                    "no message of the role assistant: with train_on_completions_only nothing would be trained"
                )
            yield Row(number, messages)
        except RowError as error:
            bad.add(file.name, number, str(error))
    if not seen:
        bad.add(file.name, None, f"the file is empty; each line must be {_EXPECTED}")


def _lines(file: DataFile) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that are not blank, without a byte order mark."""
    try:
        with file.path.open("rb") as stream:
            for number, raw in enumerate(stream, start=1):
                text = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
                if text.strip():
                    yield number, text.rstrip(b"\r\n")
    except FileNotFoundError:
        raise InputMissing(f"{file.name}: no such file ({file.path})") from None
    except IsADirectoryError:
        raise InputMissing(f"{file.name}: is a directory; name one JSONL file in it") from None
    except PermissionError as error:
        raise InputMissing(f"{file.name}: cannot be read: {error.strerror} ({file.path})") from None


def parse_row(raw: bytes) -> list[dict[str, str]]:
    """The messages of one line. Raises RowError with what is wrong and what was expected."""
    return _messages(_json_object(raw))


def _json_object(raw: bytes) -> dict[str, Any]:
    try:
        row = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RowError(
            f"not UTF-8 (byte {error.start + 1} is 0x{raw[error.start]:02x}); save the file as UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        hint = "; one JSON object per line is expected, not a JSON array" if raw.lstrip().startswith(b"[") else ""
        raise RowError(f"broken JSON at column {error.colno}: {error.msg}{hint}") from None
    except RecursionError:
        raise RowError("broken JSON: nested too deeply") from None
    if not isinstance(row, dict):
        raise RowError(f"a line must be a JSON object, not {_kind(row)}: {_EXPECTED}")
    return row


def _messages(row: dict[str, Any]) -> list[dict[str, str]]:
    if "messages" not in row:
        if "prompt_messages" in row:
            raise RowError("a preference row (prompt_messages, …); method sft trains on rows with 'messages'")
        found = ", ".join(repr(key) for key in list(row)[:5]) or "nothing"
        raise RowError(f"no key 'messages' (found {found}); expected {_EXPECTED}")
    messages = row["messages"]
    if not isinstance(messages, list):
        raise RowError(f"'messages' must be a list of {{role, content}}, not {_kind(messages)}")
    if not messages:
        raise RowError("'messages' is empty")
    return [_message(number, message) for number, message in enumerate(messages, start=1)]


def _message(number: int, message: Any) -> dict[str, str]:
    where = f"message {number}"
    if not isinstance(message, dict):
        raise RowError(f"{where} must be an object {{role, content}}, not {_kind(message)}")
    _check_keys(where, message)
    role, content = message["role"], message["content"]
    if role not in ROLES:
        close = get_close_matches(str(role), ROLES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; roles are {', '.join(ROLES)}"
        raise RowError(f"{where} has the unknown role {role!r}{hint}")
    if not isinstance(content, str):
        raise RowError(f"{where} ({role}) must have text as content, not {_kind(content)}")
    if not content.strip():
        raise RowError(f"{where} ({role}) has empty content")
    if any("\ud800" <= character <= "\udfff" for character in content):
        raise RowError(f"{where} ({role}) holds half of a surrogate pair, which is no text")
    return {"role": role, "content": content}


def _check_keys(where: str, message: dict[str, Any]) -> None:
    for key in ("role", "content"):
        if key not in message:
            close = get_close_matches(key, message, n=1)
            raise RowError(f"{where} has no {key!r}" + (f" (found {close[0]!r})" if close else ""))
    unknown = sorted(set(message) - {"role", "content"})
    if unknown:
        raise RowError(
            f"{where} has the key {unknown[0]!r}, which training would ignore; only role and content are used"
        )


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    kinds: Iterable[tuple[type, str]] = (
        (bool, "boolean"),
        (int, "number"),
        (float, "number"),
        (str, "string"),
        (list, "list"),
    )
    return next((name for kind, name in kinds if isinstance(value, kind)), "object")

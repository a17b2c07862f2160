"""Conversations out of the rows of data files: `messages`, or pairs of an input and an output; what is wrong with a bad
row, in words.

All rows of all files are checked before anything is refused, so that a user mends the data once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from finetune_trainer.data.files import BadLines, DataFile, RowError, format_of, kind_of, read_records

ROLES = ("system", "user", "assistant")
_EXPECTED = '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'


@dataclass(frozen=True)
class PairKeys:
    """The keys of rows that are pairs of an input and an output."""

    input: str
    output: str


@dataclass(frozen=True)
class Row:
    """One valid conversation and the line it stands on (from 1)."""

    line: int
    messages: list[dict[str, str]]


def read_rows(
    file: DataFile, bad: BadLines, *, need_assistant: bool = False, pairs: PairKeys | None = None
) -> Iterator[Row]:
    """The valid rows of a file in order; invalid ones go to `bad`, and so does a file without rows.

    pairs: rows are pairs, and become a user's and an assistant's message. need_assistant: a row without an assistant
    message is invalid, since nothing in it would be trained. Raises InputMissing if the file is not there.
    """
    for record in read_records(file, bad, _expected_pair(pairs) if pairs else _EXPECTED):
        try:
            messages = pair_messages(record.fields, pairs) if pairs else _messages(record.fields, file)
            if need_assistant and all(message["role"] != "assistant" for message in messages):
                raise RowError(
                    "no message of the role assistant: with train_on_completions_only nothing would be trained"
                )
            yield Row(record.line, messages)
        except RowError as error:
            bad.add(file.name, record.line, str(error))


def _expected_pair(pairs: PairKeys) -> str:
    return f'{{"{pairs.input}": "…", "{pairs.output}": "…"}}'


def pair_messages(row: dict[str, Any], pairs: PairKeys) -> list[dict[str, str]]:
    """A pair as two messages; a missing output is empty. Raises RowError."""
    if pairs.input not in row:
        raise RowError(
            f"no key {pairs.input!r} (found {_keys(row)}); expected {_expected_pair(pairs)}, "
            "or name the row's own keys in data_conf.input_key and output_key"
        )
    question = _text(pairs.input, row[pairs.input])
    answer = row.get(pairs.output)
    answer = "" if answer is None else _text(pairs.output, answer)
    if not question.strip() and not answer.strip():
        raise RowError(f"{pairs.input!r} and {pairs.output!r} are both empty")
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _messages(row: dict[str, Any], file: DataFile) -> list[dict[str, str]]:
    if "messages" not in row:
        if "prompt_messages" in row:
            raise RowError("a preference row (prompt_messages, …); method sft trains on rows with 'messages'")
        raise RowError(f"no key 'messages' (found {_keys(row)}); expected {_EXPECTED}")
    return message_list("messages", row["messages"], file)


def message_list(name: str, messages: Any, file: DataFile) -> list[dict[str, str]]:
    """A list of {role, content} under the key `name`, checked. Raises RowError."""
    if not isinstance(messages, list):
        hint = ""
        if format_of(file.path, file.format) == "csv":
            hint = "; a CSV file has no lists: use rows of pairs (data_conf.input_key, output_key), JSONL or Parquet"
        raise RowError(f"{name!r} must be a list of {{role, content}}, not {kind_of(messages)}{hint}")
    if not messages:
        raise RowError(f"{name!r} is empty")
    return [_message(number, message) for number, message in enumerate(messages, start=1)]


def _message(number: int, message: Any) -> dict[str, str]:
    where = f"message {number}"
    if not isinstance(message, dict):
        raise RowError(f"{where} must be an object {{role, content}}, not {kind_of(message)}")
    _check_keys(where, message)
    role, content = message["role"], message["content"]
    if role not in ROLES:
        close = get_close_matches(str(role), ROLES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; roles are {', '.join(ROLES)}"
        raise RowError(f"{where} has the unknown role {role!r}{hint}")
    if not isinstance(content, str):
        raise RowError(f"{where} ({role}) must have text as content, not {kind_of(content)}")
    if not content.strip():
        raise RowError(f"{where} ({role}) has empty content")
    _check_surrogates(f"{where} ({role})", content)
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


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise RowError(f"{key!r} must be text, not {kind_of(value)}")
    _check_surrogates(repr(key), value)
    return value


def _check_surrogates(where: str, text: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise RowError(f"{where} holds half of a surrogate pair, which is no text")


def _keys(row: dict[str, Any]) -> str:
    return ", ".join(repr(key) for key in list(row)[:5]) or "nothing"

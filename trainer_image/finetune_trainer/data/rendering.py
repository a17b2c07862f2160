"""Renders conversations through a chat template and says which characters the assistant wrote.

One renderer serves our templates and a model's own: the environment is what transformers gives templates (sandboxed,
trimmed blocks, raise_exception, strftime_now, tojson, loop controls, generation tags), without importing transformers,
so that the download pod counts the same tokens that the train pod trains. tests/training/data holds the two to
equality.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from finetune_trainer.data.templates import marks_generation

Message = Mapping[str, str]
Span = tuple[int, int]


class UnstableTemplate(Exception):
    """The template rewrites earlier text as the conversation grows, so the assistant's text cannot be located."""


@dataclass(frozen=True)
class Rendered:
    """A conversation's text, and the character ranges of the assistant's content with its end marker."""

    text: str
    spans: tuple[Span, ...]


# A template comes with a model: what it does wrong, or too much of, is the model's fault and no internal error.
_FAULTS = (ArithmeticError, TypeError, ValueError, LookupError, AttributeError, RecursionError, MemoryError)


class _GenerationMarks(jinja2.ext.Extension):
    """Puts a {% generation %} block's text between the environment's two marks, which the renderer takes out again."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own interface

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Any) -> str:
        start, end = self.environment.marks  # type: ignore[attr-defined]
        return f"{start}{caller()}{end}"


class _Environment(ImmutableSandboxedEnvironment):
    marks = ("", "")


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


@cache
def _environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationMarks, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
    return environment


@contextmanager
def _marks(start: str, end: str) -> Iterator[None]:
    environment = _environment()
    environment.marks = (start, end)
    try:
        yield
    finally:
        environment.marks = ("", "")


def _absent_characters(messages: Sequence[Message]) -> tuple[str, str]:
    """Two private-use characters that occur in no message."""
    used: set[str] = set().union(*(message["content"] for message in messages))
    free = (character for character in map(chr, range(0xF0000, 0xFFFFE)) if character not in used)
    return next(free), next(free)


class Renderer:
    """A compiled template with the special tokens that it may use (bos_token, eos_token, …)."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self.source = source
        self._template = _environment().from_string(source)
        self._special_tokens = dict(special_tokens)
        self._marked = marks_generation(source)

    def text(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        """The conversation as text. Raises jinja2.TemplateError, whatever goes wrong in the template."""
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
        except _FAULTS as error:
            raise jinja2.TemplateRuntimeError(f"{type(error).__name__}: {error}") from None

    def with_spans(self, messages: Sequence[Message]) -> Rendered:
        """The conversation as text with the assistant's spans. Raises UnstableTemplate where they cannot be known."""
        return self._by_marks(messages) if self._marked else self._by_prefixes(messages)

    def _by_marks(self, messages: Sequence[Message]) -> Rendered:
        start, end = _absent_characters(messages)
        with _marks(start, end):
            marked = self.text(messages)
        pieces: list[str] = []
        spans: list[Span] = []
        length = 0
        for number, piece in enumerate(marked.split(start)):
            inside, _, outside = piece.partition(end) if number else ("", "", piece)
            if number:
                spans.append((length, length + len(inside)))
            pieces += (inside, outside)
            length += len(inside) + len(outside)
        return Rendered("".join(pieces), tuple(span for span in spans if span[0] < span[1]))

    def _by_prefixes(self, messages: Sequence[Message]) -> Rendered:
        """Each assistant turn lies between the prompt for it and the conversation up to it, if both are prefixes."""
        whole = self.text(messages)
        spans = []
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt = self.text(messages[:index], add_generation_prompt=True)
            turn = self.text(messages[: index + 1])
            if not (turn.startswith(prompt) and whole.startswith(turn)):
                raise UnstableTemplate(f"message {index + 1} is rendered otherwise once the conversation goes on")
            if message["content"].strip():
                begins = self._where_content_begins(messages[:index])
                spans.append(_content_and_end(turn, len(prompt), begins, message["content"]))
            else:
                spans.append(self._empty_content(messages[:index], turn))
        return Rendered(whole, tuple(spans))

    def _empty_content(self, before: Sequence[Message], turn: str) -> Span:
        """Only the end marker, which begins where any content would."""
        start = self._where_content_begins(before)
        if start < 0:
            raise UnstableTemplate("the template leaves out what the assistant says")
        return start, max(len(turn.rstrip()), start)

    def _where_content_begins(self, before: Sequence[Message]) -> int:
        """Where the assistant's content begins after these messages; -1 if it is left out."""
        stand_in, _ = _absent_characters(before)
        return self.text([*before, {"role": "assistant", "content": stand_in}]).find(stand_in)


def _content_and_end(turn: str, prompt_end: int, begins: int, content: str) -> Span:
    """From the content (after a header that has no generation prompt) to the end marker, without white space after
    it. The header may hold the content's words too: they are looked for where any content `begins`."""
    words = content.strip()
    at = len(turn) - len(turn[begins:].lstrip()) if begins >= 0 else len(turn)
    found = at if turn.startswith(words, at) else turn.find(words, prompt_end)
    if found < 0:
        raise UnstableTemplate("the template changes what the assistant said")
    start = prompt_end if not turn[prompt_end:found].strip() else found
    return start, max(len(turn.rstrip()), found + len(content.strip()))

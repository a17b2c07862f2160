"""Preference learning's data (method dpo): rows of a prompt with a chosen and a rejected answer.

Each answer is tokenised with its prompt as one conversation, as inference will see it; only the assistant's text in the
answer counts. Both sides have the same prompt tokens: where an answer's first characters merge with the end of the
prompt into other tokens, the answer begins where the two sides part.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import jinja2

from finetune_api.data_conf import ChatTrainValidConfig
from finetune_api.methods import DPOArguments
from finetune_trainer.data.assembling import Account, DataPlan, Dataset, gather
from finetune_trainer.data.example import Example
from finetune_trainer.data.files import BadLines, DataFile, RowError, read_records
from finetune_trainer.data.preparing import add_template_tokens, backend_of, chat_renderer
from finetune_trainer.data.rendering import Rendered, Renderer, UnstableTemplate
from finetune_trainer.data.rows import message_list
from finetune_trainer.data.tokenizing import BATCH_ROWS, trained_tokens
from finetune_trainer.errors import BadConfiguration

KEYS = ("prompt_messages", "chosen_messages", "rejected_messages")
_EXPECTED = (
    '{"prompt_messages": [{"role": "user", "content": "…"}], '
    '"chosen_messages": [{"role": "assistant", "content": "…"}], '
    '"rejected_messages": [{"role": "assistant", "content": "…"}]}'
)


@dataclass(frozen=True, slots=True)
class Preference:
    """A pair of answers to one prompt, each with the prompt as a whole sequence of which the answer is trained."""

    chosen: Example
    rejected: Example

    def __len__(self) -> int:
        """The tokens of both sequences: what a model has to read."""
        return len(self.chosen) + len(self.rejected)

    @property
    def trained_tokens(self) -> int:
        return self.chosen.trained_tokens + self.rejected.trained_tokens


@dataclass(frozen=True)
class PreferenceRow:
    """One valid row and the line it stands on (from 1)."""

    line: int
    prompt: list[dict[str, str]]
    chosen: list[dict[str, str]]
    rejected: list[dict[str, str]]


def load_preferences(
    plan: DataPlan, data_conf: ChatTrainValidConfig, arguments: DPOArguments, tokenizer: Any
) -> Dataset[Preference]:
    """Reads everything the plan names. Raises BadData, InputMissing or BadConfiguration, naming file and line."""
    account = Account(arguments.max_seq_length, "dpo_args.max_seq_length")
    plan.used()  # impossible weights are told before any file is read
    reader = _Reader(data_conf.chat_template_name, arguments.overlength == "truncate", tokenizer, account)
    dataset = gather(plan, reader.read, account)
    rows = account.usable + account.dropped
    if account.truncated:
        account.notices.append(
            f"{account.truncated} of {rows} pairs were cut at their end to max_seq_length ({account.limit} tokens)"
        )
    if account.dropped:
        account.notices.append(
            f"{account.dropped} of {rows} pairs were left out, since {reader.why_dropped} max_seq_length "
            f"({account.limit} tokens)"
        )
    if reader.equal:
        account.notices.append(f"{reader.equal} of {rows} pairs have the same answer twice; they teach no preference")
    return dataset


def read_preferences(file: DataFile, bad: BadLines) -> Iterator[PreferenceRow]:
    """The valid rows of a file in order; invalid ones go to `bad`, and so does a file without rows."""
    for record in read_records(file, bad, _EXPECTED):
        try:
            yield _row(record.line, record.fields, file)
        except RowError as error:
            bad.add(file.name, record.line, str(error))


def _row(line: int, fields: dict[str, Any], file: DataFile) -> PreferenceRow:
    absent = [key for key in KEYS if key not in fields]
    if absent:
        found = ", ".join(repr(key) for key in list(fields)[:5]) or "nothing"
        hint = "; method sft trains on rows with 'messages'" if "messages" in fields else ""
        raise RowError(f"no key {absent[0]!r} (found {found}); expected {_EXPECTED}{hint}")
    prompt, chosen, rejected = (_messages(key, fields[key], file) for key in KEYS)
    for key, answer in zip(KEYS[1:], (chosen, rejected), strict=True):
        if answer[0]["role"] != "assistant":
            raise RowError(
                f"{key!r} must begin with a message of the role assistant, not {answer[0]['role']}: what comes before "
                "the answer belongs into 'prompt_messages'"
            )
    return PreferenceRow(line, prompt, chosen, rejected)


def _messages(key: str, value: Any, file: DataFile) -> list[dict[str, str]]:
    try:
        return message_list(key, value, file)
    except RowError as error:
        text = str(error)
        raise RowError(text if key in text else f"{key!r}: {text}") from None


class _Reader:
    """Reads files one by one and keeps the account over all of them."""

    def __init__(self, chat_template_name: str, truncate: bool, tokenizer: Any, account: Account) -> None:
        add_template_tokens(tokenizer, chat_template_name)
        self._backend = backend_of(tokenizer)
        self._renderer = chat_renderer(tokenizer, chat_template_name)
        self._truncate = truncate
        self._account = account
        self.equal = 0

    @property
    def why_dropped(self) -> str:
        return "nothing of an answer would be left within" if self._truncate else "prompt and answer are longer than"

    def read(self, file: DataFile, bad: BadLines) -> Iterator[Preference]:
        account = self._account
        for pair in self._pairs(self._render(read_preferences(file, bad), file, bad)):
            longest = max(len(pair.chosen), len(pair.rejected))
            kept: Preference | None = pair
            if not account.measure(longest):
                kept = _truncated(pair, account.limit) if self._truncate else None
                account.truncated += kept is not None
            if kept is None:
                account.dropped += 1
                continue
            account.keep(min(longest, account.limit))
            self.equal += kept.chosen == kept.rejected
            yield kept

    def _render(
        self, rows: Iterable[PreferenceRow], file: DataFile, bad: BadLines
    ) -> Iterator[tuple[Rendered, Rendered]]:
        for row in rows:
            try:
                yield self._render_row(row)
            except UnstableTemplate as error:
                raise BadConfiguration(
                    "method dpo needs to know where an answer lies, but the model's chat template does not tell "
                    f"({file.name}:{row.line}: {error}); choose another data_conf.chat_template_name, or mark the "
                    "text with {% generation %} in the template"
                ) from None
            except jinja2.TemplateError as error:
                bad.add(file.name, row.line, f"the chat template refuses the conversation: {error}")

    def _render_row(self, row: PreferenceRow) -> tuple[Rendered, Rendered]:
        chosen, rejected = (_answer(self._renderer, row.prompt, answer) for answer in (row.chosen, row.rejected))
        if _prompt_text(chosen) != _prompt_text(rejected):
            raise UnstableTemplate("the prompt is rendered otherwise before the other answer")
        return chosen, rejected

    def _pairs(self, rendered: Iterator[tuple[Rendered, Rendered]]) -> Iterator[Preference]:
        self._backend.no_truncation()  # tokenizer.json may carry both, and they would cut and pad in silence
        self._backend.no_padding()
        while batch := list(islice(rendered, BATCH_ROWS)):
            sides = [side for pair in batch for side in pair]
            encodings = self._backend.encode_batch([side.text for side in sides], add_special_tokens=False)
            found = [
                (list(encoding.ids), trained_tokens(side, encoding.offsets))
                for side, encoding in zip(sides, encodings, strict=True)
            ]
            for at in range(0, len(found), 2):
                yield _pair(*found[at], *found[at + 1])


def _answer(renderer: Renderer, prompt: list[dict[str, str]], answer: list[dict[str, str]]) -> Rendered:
    """Prompt and answer as one text, with the spans of the assistant's turns in the answer alone."""
    messages = [*prompt, *answer]
    rendered = renderer.with_spans(messages)
    turns = [message["role"] for message in messages].count("assistant")
    if len(rendered.spans) != turns:
        raise UnstableTemplate(f"it marks {len(rendered.spans)} texts of the assistant in a conversation with {turns}")
    before = [message["role"] for message in prompt].count("assistant")
    return Rendered(rendered.text, rendered.spans[before:])


def _prompt_text(rendered: Rendered) -> str:
    return rendered.text[: rendered.spans[0][0]]


def _pair(
    chosen: list[int], chosen_spans: list[tuple[int, int]], rejected: list[int], rejected_spans: list[tuple[int, int]]
) -> Preference:
    first = min(_common(chosen, rejected), chosen_spans[0][0], rejected_spans[0][0])
    return Preference(
        Example.from_spans(chosen, [(first, chosen_spans[0][1]), *chosen_spans[1:]]),
        Example.from_spans(rejected, [(first, rejected_spans[0][1]), *rejected_spans[1:]]),
    )


def _common(left: list[int], right: list[int]) -> int:
    """How many tokens the two begin with alike."""
    return next(
        (place for place, (one, other) in enumerate(zip(left, right, strict=False)) if one != other),
        min(len(left), len(right)),
    )


def _truncated(pair: Preference, limit: int) -> Preference | None:
    """The pair cut to its first `limit` tokens; None if nothing of an answer is left."""
    chosen, rejected = (Example(side.input_ids[:limit], side.labels[:limit]) for side in (pair.chosen, pair.rejected))
    return Preference(chosen, rejected) if chosen.trained_tokens and rejected.trained_tokens else None

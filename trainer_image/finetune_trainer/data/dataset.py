"""Supervised fine-tuning's data: files of conversations read, checked, tokenised, filtered, mixed and split, with an
account of it all.

The download pod calls it for the account, before any GPU is asked for; the train pod for the examples. Takes plain
arguments; from_job_config.py reads them from the configuration.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from finetune_trainer.data.assembling import Account, DataPlan, Dataset, gather
from finetune_trainer.data.example import Example
from finetune_trainer.data.files import BadLines, DataFile
from finetune_trainer.data.packing import pack
from finetune_trainer.data.preparing import add_template_tokens, backend_of, chat_renderer
from finetune_trainer.data.rows import PairKeys, Row, read_rows
from finetune_trainer.data.tokenizing import tokenize_rows
from finetune_trainer.errors import BadData


@dataclass(frozen=True)
class Chats:
    """How conversations become examples.

    overlength: what happens to rows of more than max_seq_length tokens: drop, truncate, or pack, which cuts them into
    pieces and packs all rows into sequences. pairs: rows are pairs of an input and an output.
    """

    chat_template_name: str
    max_seq_length: int
    completions_only: bool
    overlength: str = "drop"
    pairs: PairKeys | None = None


def load_dataset(plan: DataPlan, chats: Chats, tokenizer: Any) -> Dataset[Example]:
    """Reads everything the plan names. Raises BadData, InputMissing or BadConfiguration, naming file and line."""
    account = Account(chats.max_seq_length, "sft_args.max_seq_length")
    plan.used()  # impossible weights are told before any file is read
    reader = _Reader(chats, tokenizer, account)
    dataset = gather(plan, reader.read, account)
    if chats.overlength == "pack":
        dataset = _packed(dataset, chats.max_seq_length)
    account.notices += reader.notices()
    return dataset


def _packed(dataset: Dataset[Example], limit: int) -> Dataset[Example]:
    """The same rows in fewer sequences. It comes after the split, the mix and max_examples, which count rows."""
    account = dataset.account
    account.packed_from = len(dataset.train)
    train = pack(dataset.train, limit)
    evaluation = None
    if dataset.eval:
        account.validation_from = len(dataset.eval)
        evaluation = pack(dataset.eval, limit)
    for name, sequences in (("training_data", train), ("validation_data", evaluation)):
        if sequences == []:
            raise BadData(
                f"nothing is left to train of data_conf.{name} in pieces of {limit} tokens; raise "
                f"{account.limit_key} or shorten the rows"
            )
    return Dataset(train, evaluation, account)


class _Reader:
    """Reads files one by one and keeps the account over all of them."""

    def __init__(self, chats: Chats, tokenizer: Any, account: Account) -> None:
        add_template_tokens(tokenizer, chats.chat_template_name)
        self._chats = chats
        self._backend = backend_of(tokenizer)
        self._renderer = chat_renderer(tokenizer, chats.chat_template_name)
        self._account = account
        self._untrained = 0  # rows in which truncation left nothing to train
        self._unanswered = 0  # pairs without an output

    def read(self, file: DataFile, bad: BadLines) -> Iterator[Example]:
        chats = self._chats
        rows = read_rows(file, bad, need_assistant=chats.completions_only, pairs=chats.pairs)
        for example in tokenize_rows(
            self._watched(rows) if chats.pairs else rows,
            file,
            bad,
            backend=self._backend,
            renderer=self._renderer,
            completions_only=chats.completions_only,
        ):
            used = self._within_limit(example)
            if used is not None:
                yield used

    def _watched(self, rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            self._unanswered += not row.messages[-1]["content"]
            yield row

    def _within_limit(self, example: Example) -> Example | None:
        """What is used of a row; None if it is left out."""
        account, chats = self._account, self._chats
        if not account.measure(len(example)):
            if chats.overlength == "drop":
                account.dropped += 1
                return None
            if chats.overlength == "truncate":
                example = example.part(0, chats.max_seq_length)
                if not example.targets:
                    account.dropped += 1
                    self._untrained += 1
                    return None
            account.truncated += 1
        account.keep(min(len(example), chats.max_seq_length))
        return example

    def notices(self) -> Iterator[str]:
        """What the user should know of what became of the rows."""
        account = self._account
        limit = f"max_seq_length ({account.limit} tokens)"
        rows = account.usable + account.dropped
        if self._unanswered and self._chats.pairs:
            yield (
                f"{self._unanswered} of {rows} rows have no output under {self._chats.pairs.output!r} "
                "(data_conf.output_key): they train only the end of the text after their input"
            )
        if self._untrained:
            yield (
                f"{self._untrained} of {rows} rows were left out, since nothing that is trained is within their first "
                f"{account.limit} tokens (sft_args.overlength truncate)"
            )
        elif account.dropped:
            yield f"{account.dropped} of {rows} rows were left out, since they are longer than {limit}"
        if account.truncated:
            done = "cut into pieces of at most" if self._chats.overlength == "pack" else "cut to"
            yield f"{account.truncated} of {rows} rows were {done} {limit}"

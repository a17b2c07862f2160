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
from finetune_trainer.data.preparing import add_template_tokens, backend_of, chat_renderer
from finetune_trainer.data.rows import read_rows
from finetune_trainer.data.tokenizing import tokenize_rows


@dataclass(frozen=True)
class Chats:
    """How conversations become examples."""

    chat_template_name: str
    max_seq_length: int
    completions_only: bool


def load_dataset(plan: DataPlan, chats: Chats, tokenizer: Any) -> Dataset[Example]:
    """Reads everything the plan names. Raises BadData, InputMissing or BadConfiguration, naming file and line."""
    account = Account(chats.max_seq_length, "sft_args.max_seq_length")
    plan.used()  # impossible weights are told before any file is read
    dataset = gather(plan, _Reader(chats, tokenizer, account).read, account)
    if account.dropped:
        account.notices.append(
            f"{account.dropped} of {account.usable + account.dropped} rows were left out, since they are longer than "
            f"max_seq_length ({chats.max_seq_length} tokens)"
        )
    return dataset


class _Reader:
    """Reads files one by one and keeps the account over all of them."""

    def __init__(self, chats: Chats, tokenizer: Any, account: Account) -> None:
        add_template_tokens(tokenizer, chats.chat_template_name)
        self._chats = chats
        self._backend = backend_of(tokenizer)
        self._renderer = chat_renderer(tokenizer, chats.chat_template_name)
        self._account = account

    def read(self, file: DataFile, bad: BadLines) -> Iterator[Example]:
        chats, account = self._chats, self._account
        rows = read_rows(file, bad, need_assistant=chats.completions_only)
        for example in tokenize_rows(
            rows,
            file,
            bad,
            backend=self._backend,
            renderer=self._renderer,
            completions_only=chats.completions_only,
        ):
            if account.measure(len(example)):
                account.keep(len(example))
                yield example
            else:
                account.dropped += 1

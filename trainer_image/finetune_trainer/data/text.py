"""Plain text's data (method clm): texts read, tokenised, and packed into blocks or taken one by one.

A text is a line of a text file, and otherwise the record's `text_key`. No chat template is applied: a text is tokenised
as the tokenizer does it, with the special tokens that it puts around a text by itself.

pack joins all texts and cuts them into blocks of block_size tokens, as transformers' run_clm does, so that every block
is full: each text is followed by EOS, blocks are cut wherever they end, and a block's tokens see the end of the text
before theirs. Packing comes after the split, the mix and max_examples, which count texts. truncate and drop take each
text as a sequence of its own, and add no EOS (document 004's script has none).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from finetune_trainer.data.assembling import Account, DataPlan, Dataset, gather
from finetune_trainer.data.example import Example
from finetune_trainer.data.files import TEXT_KEY, BadLines, DataFile, RowError, format_of, kind_of, read_records
from finetune_trainer.data.preparing import backend_of
from finetune_trainer.errors import BadConfiguration, BadData

BATCH_ROWS = 1000  # enough to keep the library's threads busy, few enough to stay small in memory
SHORTEST = 2  # tokens: in a sequence of one there is nothing to predict


@dataclass(frozen=True)
class Texts:
    """How texts become examples. overlength: pack, truncate or drop."""

    text_key: str
    block_size: int
    overlength: str


def load_texts(plan: DataPlan, texts: Texts, tokenizer: Any) -> Dataset[Example]:
    """Reads everything the plan names. Raises BadData, InputMissing or BadConfiguration, naming file and line."""
    account = Account(texts.block_size, "clm_args.block_size")
    reader = _Reader(texts, tokenizer, account)
    dataset = gather(plan, reader.read, account)
    if texts.overlength == "pack":
        dataset = _packed(dataset, texts.block_size)
    _tell(account, reader.empty, texts)
    return dataset


def _packed(dataset: Dataset[Example], block_size: int) -> Dataset[Example]:
    account = dataset.account
    account.packed_from = len(dataset.train)
    train = list(pack(dataset.train, block_size))
    evaluation = None
    if dataset.eval:
        account.validation_from = len(dataset.eval)
        evaluation = list(pack(dataset.eval, block_size))
    for name, blocks in (("training_data", train), ("validation_data", evaluation)):
        if blocks == []:
            raise BadData(f"the texts of data_conf.{name} are too short: there is nothing to predict in a single token")
    account.longest_usable = max(len(block) for block in (*train, *(evaluation or ())))
    return Dataset(train, evaluation, account)


def pack(texts: Iterable[Example], block_size: int) -> Iterator[Example]:
    """The texts joined and cut into blocks; the rest is a shorter block.

    Nothing is left out but a rest of a single token, in which there is nothing to predict.
    """
    waiting: list[int] = []
    for text in texts:
        waiting += text.input_ids
        whole = len(waiting) - len(waiting) % block_size
        for at in range(0, whole, block_size):
            yield _whole(waiting[at : at + block_size])
        waiting = waiting[whole:]
    if len(waiting) >= SHORTEST:
        yield _whole(waiting)


def _whole(ids: list[int]) -> Example:
    return Example.from_spans(ids, [(0, len(ids))])


def _tell(account: Account, empty: int, texts: Texts) -> None:
    key = f"clm_args.block_size ({texts.block_size} tokens)"
    if account.dropped:
        account.notices.append(
            f"{account.dropped} of {account.usable + account.dropped} texts were left out, since they are longer than "
            f"{key}"
        )
    if account.truncated:
        account.notices.append(f"{account.truncated} of {account.usable} texts were cut to {key}")
    if empty:
        account.notices.append(f"{empty} texts were left out, since they are empty or a single token")


class _Reader:
    """Reads files one by one and keeps the account over all of them. empty: texts in which nothing is to predict."""

    def __init__(self, texts: Texts, tokenizer: Any, account: Account) -> None:
        self._texts = texts
        self._account = account
        self._backend = backend_of(tokenizer)
        self._before, self._after = special_tokens(tokenizer)
        self._end = tokenizer.eos_token_id
        self.empty = 0
        around = len(self._before) + len(self._after)
        if texts.block_size < around + SHORTEST:
            raise BadConfiguration(
                f"clm_args.block_size is {texts.block_size}, which leaves no room for text: make it "
                f"{around + SHORTEST} or more"
            )
        if texts.overlength == "pack" and self._end is None:
            account.notices.append("the tokenizer has no EOS token: packed texts follow one another without a mark")

    def read(self, file: DataFile, bad: BadLines) -> Iterator[Example]:
        """The examples of a file; with pack its texts, which are cut later."""
        self._backend.no_truncation()  # tokenizer.json may carry both, and they would cut and pad in silence
        self._backend.no_padding()
        texts = self._read_texts(file, bad)
        while batch := list(islice(texts, BATCH_ROWS)):
            for encoding in self._backend.encode_batch(batch, add_special_tokens=False):
                example = self._example(encoding.ids)
                if example is not None:
                    yield example

    def _read_texts(self, file: DataFile, bad: BadLines) -> Iterator[str]:
        key, last = self._texts.text_key, 0
        lines = format_of(file.path, file.format) == "text"
        counted = lines and not file.path.is_dir()
        for record in read_records(file, bad, f'{{"{key}": "…"}}'):
            if counted:
                self.empty += record.line - last - 1  # blank lines, which the reader leaves out
                last = record.line
            try:
                text = _text(record.fields, TEXT_KEY if lines else key)
            except RowError as error:
                bad.add(file.name, record.line, str(error))
                continue
            if text.strip():
                yield text
            else:
                self.empty += 1

    def _example(self, ids: list[int]) -> Example | None:
        """What is used of a text; None if it is left out."""
        account, limit = self._account, self._texts.block_size
        whole = [*self._before, *ids, *self._after]
        if self._texts.overlength == "pack":
            if self._end is not None and whole[-1:] != [self._end]:
                whole.append(self._end)
            account.measure(len(whole))
            account.keep(min(len(whole), limit))
            return _whole(whole)
        if len(whole) < SHORTEST:
            self.empty += 1
            return None
        if not account.measure(len(whole)):
            if self._texts.overlength == "drop":
                account.dropped += 1
                return None
            account.truncated += 1
            whole = [*self._before, *ids[: limit - len(self._before) - len(self._after)], *self._after]
        account.keep(len(whole))
        return _whole(whole)


def _text(fields: dict[str, Any], key: str) -> str:
    if key not in fields:
        found = ", ".join(map(repr, list(fields)[:5])) or "nothing"
        raise RowError(f"no {key!r} (found {found}); name the key of the text in clm_args.text_key")
    text = fields[key]
    if not isinstance(text, str):
        raise RowError(f"{key!r} must be text, not {kind_of(text)}")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise RowError(f"{key!r} holds half of a surrogate pair, which is no text")
    return text


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What the tokenizer itself puts before and after a text."""
    backend = backend_of(tokenizer)
    plain, whole = backend.encode("a", add_special_tokens=False).ids, backend.encode("a").ids
    at = next((at for at in range(len(whole)) if whole[at : at + len(plain)] == plain), 0)
    return whole[:at], whole[at + len(plain) :]

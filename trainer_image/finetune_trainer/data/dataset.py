"""The data of a job: files of conversations read, checked, tokenised, filtered, mixed and split, with an account of it
all.

The download pod calls it for the account, before any GPU is asked for; the train pod for the examples. Takes plain
arguments; from_job_config.py reads them from the configuration.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_trainer.data.example import Example
from finetune_trainer.data.mixing import check_weights, interleave
from finetune_trainer.data.preparing import add_template_tokens, backend_of, chat_renderer
from finetune_trainer.data.rows import BadLines, DataFile, read_rows
from finetune_trainer.data.splitting import auto_split
from finetune_trainer.data.tokenizing import tokenize_rows
from finetune_trainer.errors import BadData


@dataclass(frozen=True)
class AutoSplit:
    """Validation rows are taken from the training rows."""

    ratio: float
    seed: int


@dataclass(frozen=True)
class WeightedMix:
    """One weight for each training file, and the seed of the draws."""

    weights: tuple[float, ...]
    seed: int


@dataclass(frozen=True)
class DataPlan:
    """What to read and how. mix None: the files follow one another. validation: files, a split, or None."""

    training: tuple[DataFile, ...]
    mix: WeightedMix | None
    validation: tuple[DataFile, ...] | AutoSplit | None
    chat_template_name: str
    max_seq_length: int
    completions_only: bool


@dataclass
class Account:
    """What became of the rows of all files. usable: short enough; dropped: longer than max_seq_length; lengths in
    tokens."""

    usable: int = 0
    dropped: int = 0
    duplicates: int = 0
    longest_usable: int = 0
    longest: int = 0
    shortest: int | None = None
    notices: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Dataset:
    """The examples in training order before shuffling, those for evaluation, and the account."""

    train: list[Example]
    eval: list[Example] | None
    account: Account


def load_dataset(plan: DataPlan, tokenizer: Any) -> Dataset:
    """Reads everything the plan names. Raises BadData, InputMissing or BadConfiguration, naming file and line."""
    if plan.mix:
        check_weights(plan.mix.weights)
    reader = _Reader(plan, tokenizer)
    used = [file for file, weight in zip(plan.training, _weights(plan), strict=True) if weight > 0]
    training = [reader.read(file) for file in used]
    validation = [reader.read(file) for file in plan.validation] if isinstance(plan.validation, tuple) else []
    reader.bad.raise_if_any()
    account = reader.account
    _check_something_left(training, "training_data", reader)
    if validation:
        _check_something_left(validation, "validation_data", reader)

    evaluation: list[Example] | None = [example for rows in validation for example in rows] or None
    if isinstance(plan.validation, AutoSplit):
        training, evaluation = _split(training, plan.validation)
        if account.duplicates:
            account.notices.append(
                f"{account.duplicates} of {account.usable} rows repeat another one: with AUTO_SPLIT a row may be "
                "trained on and its copy used for validation"
            )
    train = _in_order(training, used, plan)
    if account.dropped:
        account.notices.append(
            f"{account.dropped} of {account.usable + account.dropped} rows were left out, since they are longer than "
            f"max_seq_length ({plan.max_seq_length} tokens)"
        )
    return Dataset(train, evaluation, account)


def _weights(plan: DataPlan) -> Sequence[float]:
    return plan.mix.weights if plan.mix else [1.0] * len(plan.training)


class _Reader:
    """Reads files one by one and keeps the account over all of them."""

    def __init__(self, plan: DataPlan, tokenizer: Any) -> None:
        add_template_tokens(tokenizer, plan.chat_template_name)
        self._plan = plan
        self.max_seq_length = plan.max_seq_length
        self._backend = backend_of(tokenizer)
        self._renderer = chat_renderer(tokenizer, plan.chat_template_name)
        self._seen: set[int] = set()
        self.account = Account()
        self.bad = BadLines()

    def read(self, file: DataFile) -> list[Example]:
        plan = self._plan
        rows = read_rows(file, self.bad, need_assistant=plan.completions_only)
        examples = tokenize_rows(
            rows,
            file,
            self.bad,
            backend=self._backend,
            renderer=self._renderer,
            completions_only=plan.completions_only,
        )
        return [example for example in examples if self._count(example)]

    def _count(self, example: Example) -> bool:
        """Whether the example is short enough to be used."""
        account = self.account
        length = len(example)
        account.shortest = length if account.shortest is None else min(account.shortest, length)
        account.longest = max(account.longest, length)
        if length > self.max_seq_length:
            account.dropped += 1
            return False
        account.usable += 1
        account.longest_usable = max(account.longest_usable, length)
        key = hash(example)
        account.duplicates += key in self._seen
        self._seen.add(key)
        return True


def _check_something_left(parts: list[list[Example]], name: str, reader: _Reader) -> None:
    if not any(parts):
        raise BadData(
            f"every row of data_conf.{name} is longer than max_seq_length ({reader.max_seq_length} tokens); "
            f"the shortest row has {reader.account.shortest}, the longest {reader.account.longest}: "
            "raise sft_args.max_seq_length or shorten the rows"
        )


def _split(training: list[list[Example]], split: AutoSplit) -> tuple[list[list[Example]], list[Example]]:
    """Splits rows before they are mixed, so that no row that a mix repeats stands in both."""
    places = [(number, row) for number, rows in enumerate(training) for row in range(len(rows))]
    train, validation = auto_split(len(places), split.ratio, split.seed)
    kept: list[list[Example]] = [[] for _ in training]
    for place in train:
        number, row = places[place]
        kept[number].append(training[number][row])
    return kept, [training[number][row] for number, row in (places[place] for place in validation)]


def _in_order(training: list[list[Example]], files: list[DataFile], plan: DataPlan) -> list[Example]:
    if plan.mix is None:
        return [example for rows in training for example in rows]
    for file, rows in zip(files, training, strict=True):
        if not rows:
            raise BadData(
                f"{file.name}: no row is left to train on after the length filter and the split, but the mix gives "
                "it a weight; raise max_seq_length, add rows, or set its sampling_weight to 0"
            )
    weights = [weight for weight in plan.mix.weights if weight > 0]
    order = interleave([len(rows) for rows in training], weights, plan.mix.seed)
    return [training[number][row] for number, row in order]

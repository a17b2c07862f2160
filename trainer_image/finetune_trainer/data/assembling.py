"""Several files to one training list and one validation list, whatever an example is: read, split, mixed, limited.

`gather` is what every training method does with its files; what a row becomes is the method's own (`read`). The order
is: all files are read and all bad lines told at once; validation is split off; files are mixed; max_examples cuts.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from finetune_trainer.data.files import BadLines, DataFile, parts_of
from finetune_trainer.data.mixing import check_weights, interleave
from finetune_trainer.data.splitting import auto_split
from finetune_trainer.errors import BadData

E = TypeVar("E", bound=Hashable)


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
    """What to read and how to put it together. mix None: the files follow one another. validation: files, a split, or
    None. max_examples: train on the first so many only."""

    training: tuple[DataFile, ...]
    mix: WeightedMix | None = None
    validation: tuple[DataFile, ...] | AutoSplit | None = None
    max_examples: int | None = None

    def used(self) -> list[DataFile]:
        """The training files that have a weight: the others are not even read."""
        if self.mix is None:
            return list(self.training)
        check_weights(self.mix.weights)
        return [file for file, weight in zip(self.training, self.mix.weights, strict=True) if weight > 0]


@dataclass
class Account:
    """What became of the rows of all files, and what the user should know of it.

    limit, limit_key: the longest example allowed, in tokens, and its key. usable: rows that are trained or validated
    on; dropped: left out for their length; truncated: cut to it; packed_from, validation_from: rows that the training
    and validation sequences were packed of, if they were; duplicates: rows that repeat another one; leaks: validation
    rows that also stand in the training data.
    """

    limit: int
    limit_key: str
    usable: int = 0
    dropped: int = 0
    truncated: int = 0
    packed_from: int | None = None
    validation_from: int | None = None
    duplicates: int = 0
    leaks: int = 0
    longest_usable: int = 0
    longest: int = 0
    shortest: int | None = None
    notices: list[str] = field(default_factory=list)

    def measure(self, length: int) -> bool:
        """Takes note of a row's length before anything is cut; whether it is within the limit."""
        self.shortest = length if self.shortest is None else min(self.shortest, length)
        self.longest = max(self.longest, length)
        return length <= self.limit

    def keep(self, length: int) -> None:
        """Counts an example that is used, at the length it is used with."""
        self.usable += 1
        self.longest_usable = max(self.longest_usable, length)


@dataclass(frozen=True)
class Dataset(Generic[E]):
    """The examples in training order before shuffling, those for evaluation, and the account."""

    train: list[E]
    eval: list[E] | None
    account: Account


ReadFile = Callable[[DataFile, BadLines], Iterable[E]]


def gather(plan: DataPlan, read: ReadFile[E], account: Account) -> Dataset[E]:
    """Reads everything the plan names and puts it together.

    read: the examples of one file, already checked against the limit and counted with `account`. Raises BadData,
    InputMissing or BadConfiguration, naming file and line.
    """
    files = plan.used()
    bad = BadLines()
    training = [_read_whole(file, read, bad) for file in files]
    validation = []
    if isinstance(plan.validation, tuple):
        validation = [_read_whole(file, read, bad) for file in plan.validation]
    bad.raise_if_any()
    _check_something_left(training, "training_data", account)
    if validation:
        _check_something_left(validation, "validation_data", account)
    account.duplicates = _repeated(*training, *validation)

    evaluation = [example for rows in validation for example in rows] or None
    if isinstance(plan.validation, AutoSplit):
        training, evaluation = _split(training, plan.validation)
    if evaluation:
        _count_leaks(training, evaluation, account)
    train = _in_order(training, files, plan.mix)
    if plan.max_examples is not None and len(train) > plan.max_examples:
        account.notices.append(
            f"data_conf.max_examples: the first {plan.max_examples} of {len(train)} examples are used"
        )
        train = train[: plan.max_examples]
    return Dataset(train, evaluation, account)


def _read_whole(file: DataFile, read: ReadFile[E], bad: BadLines) -> list[E]:
    """The examples of a file, or of a folder's files one by one: bad lines are told with the file they are in."""
    return [example for part in parts_of(file) for example in read(part, bad)]


def _repeated(*parts: Sequence[E]) -> int:
    """How many rows repeat another one. Hashes only: rows in two sets would double the memory."""
    hashes = [hash(example) for rows in parts for example in rows]
    return len(hashes) - len(set(hashes))


def _count_leaks(training: list[list[E]], evaluation: list[E], account: Account) -> None:
    trained = {hash(example) for rows in training for example in rows}
    account.leaks = sum(hash(example) in trained for example in evaluation)
    if account.leaks:
        account.notices.append(
            f"{account.leaks} of {len(evaluation)} validation rows also stand in the training data, so the evaluation "
            "loss is too good; remove them from one of the two"
        )


def _check_something_left(parts: list[list[E]], name: str, account: Account) -> None:
    if not any(parts):
        raise BadData(
            f"every row of data_conf.{name} is longer than {account.limit_key.rpartition('.')[2]} ({account.limit} "
            f"tokens); the shortest row has {account.shortest}, the longest {account.longest}: "
            f"raise {account.limit_key} or shorten the rows"
        )


def _split(training: list[list[E]], split: AutoSplit) -> tuple[list[list[E]], list[E]]:
    """Splits rows before they are mixed, so that no row that a mix repeats stands in both."""
    places = [(number, row) for number, rows in enumerate(training) for row in range(len(rows))]
    train, validation = auto_split(len(places), split.ratio, split.seed)
    kept: list[list[E]] = [[] for _ in training]
    for place in train:
        number, row = places[place]
        kept[number].append(training[number][row])
    return kept, [training[number][row] for number, row in (places[place] for place in validation)]


def _in_order(training: list[list[E]], files: list[DataFile], mix: WeightedMix | None) -> list[E]:
    if mix is None:
        return [example for rows in training for example in rows]
    for file, rows in zip(files, training, strict=True):
        if not rows:
            raise BadData(
                f"{file.name}: no row is left to train on after the length filter and the split, but the mix gives "
                "it a weight; raise max_seq_length, add rows, or set its sampling_weight to 0"
            )
    weights = [weight for weight in mix.weights if weight > 0]
    order = interleave([len(rows) for rows in training], weights, mix.seed)
    return [training[number][row] for number, row in order]

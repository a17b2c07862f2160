"""Files to one training and one validation list: whatever the rows are, nothing is lost, doubled or on both sides."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.data.assembling import Account, AutoSplit, DataPlan, Dataset, WeightedMix, gather
from finetune_trainer.data.files import BadLines, DataFile
from finetune_trainer.errors import BadData

Row = tuple[int, int, int]  # file, place in it, length
LIMIT = 10
FILES = st.lists(st.lists(st.integers(1, 14), min_size=4, max_size=20), min_size=1, max_size=4)


def assemble(files: list[list[int]], **plan: object) -> Dataset[Row]:
    """The lists' rows as a method would read them: those longer than LIMIT are left out and counted."""
    account = Account(LIMIT, "sft_args.max_seq_length")

    def read(file: DataFile, bad: BadLines) -> list[Row]:
        number, kept = int(file.name), []
        for place, length in enumerate(files[number]):
            if account.measure(length):
                account.keep(length)
                kept.append((number, place, length))
            else:
                account.dropped += 1
        return kept

    sources = tuple(DataFile(str(number), Path("/nowhere")) for number in range(len(files)))
    return gather(DataPlan(sources, **plan), read, account)  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None)
@given(FILES, st.floats(0.05, 0.9), st.integers(0, 2**32 - 1), st.data())
def test_a_split_is_disjoint_complete_and_stable(files: list[list[int]], ratio: float, seed: int, data: st.DataObject):
    """After the filter: only rows that would be trained count for the ratio. With any mix, with any repetition."""
    weights = data.draw(
        st.none() | st.lists(st.sampled_from([1.0, 0.5, 2.0]), min_size=len(files), max_size=len(files))
    )
    plan = {"validation": AutoSplit(ratio, seed), "mix": WeightedMix(tuple(weights), 3) if weights else None}
    usable = [(f, p, n) for f, rows in enumerate(files) for p, n in enumerate(rows) if n <= LIMIT]
    try:
        found = assemble(files, **plan)
    except BadData:
        return  # too few rows are left: told, never trained on something else
    train, validation = set(found.train), set(found.eval or [])
    assert not train & validation
    assert train | validation == set(usable)
    assert len(found.eval or []) == len(validation)
    assert abs(len(validation) - ratio * len(usable)) <= 1
    assert found.account.usable == len(usable)
    assert found.account.dropped == sum(map(len, files)) - len(usable)
    again = assemble(files, **plan)
    assert (again.train, again.eval) == (found.train, found.eval)
    if weights is None:
        assert found.train == [row for row in usable if row in train]  # in their order
        assert max(Counter(found.train).values()) == 1


@settings(max_examples=100, deadline=None)
@given(FILES, st.integers(1, 60))
def test_max_examples_is_the_beginning_of_the_whole(files: list[list[int]], most: int) -> None:
    try:
        whole = assemble(files)
    except BadData:
        return
    few = assemble(files, max_examples=most)
    assert few.train == whole.train[:most]
    assert bool(few.account.notices) == (len(whole.train) > most)


def test_rows_that_stand_twice_are_counted_over_files_and_sides() -> None:
    account = Account(LIMIT, "sft_args.max_seq_length")
    content = {"a": ["one", "two", "one"], "b": ["two"], "v": ["two", "two", "new"]}
    sources = {name: DataFile(name, Path("/nowhere")) for name in content}
    plan = DataPlan((sources["a"], sources["b"]), validation=(sources["v"],))
    found = gather(plan, lambda file, bad: content[file.name], account)
    assert (found.account.duplicates, found.account.leaks) == (4, 2)


def test_bad_lines_of_all_files_come_before_anything_else() -> None:
    def read(file: DataFile, bad: BadLines) -> list[str]:
        bad.add(file.name, 3, "no good")
        return []

    plan = DataPlan((DataFile("a", Path("/x")), DataFile("b", Path("/y"))), validation=(DataFile("c", Path("/z")),))
    with pytest.raises(BadData, match=r"(?s)3 bad lines.*a:3: no good.*b:3.*c:3"):
        gather(plan, read, Account(LIMIT, "sft_args.max_seq_length"))

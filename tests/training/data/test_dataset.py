"""Files to training data: what is kept, dropped, mixed, split and said about it."""

import json
from pathlib import Path

import pytest

from finetune_trainer.data import LightTokenizer
from finetune_trainer.data.assembling import AutoSplit, DataPlan, Dataset, WeightedMix
from finetune_trainer.data.dataset import Chats, load_dataset
from finetune_trainer.data.files import DataFile
from finetune_trainer.errors import BadConfiguration, BadData


def rows_file(folder: Path, name: str, answers: list[str]) -> DataFile:
    path = folder / name
    rows = [
        {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]} for answer in answers
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataFile(name, path)


@pytest.fixture
def load(tokenizers_dir: Path):
    def load_plan(*training: DataFile, mix=None, validation=None, length: int = 4096) -> Dataset:
        plan = DataPlan(training, mix, validation)
        return load_dataset(plan, Chats("poro", length, True), LightTokenizer.load(tokenizers_dir / "bytes"))

    return load_plan


def lengths(examples) -> list[int]:
    return [example.trained_tokens - 1 for example in examples]  # one token per byte, and the end marker


def test_files_follow_one_another(load, tmp_path: Path) -> None:
    data = load(rows_file(tmp_path, "a", ["x", "xx"]), rows_file(tmp_path, "b", ["xxx"]))
    assert lengths(data.train) == [1, 2, 3]
    assert data.eval is None
    assert data.account.notices == []


def test_validation_files_are_read_like_training_files(load, tmp_path: Path) -> None:
    data = load(rows_file(tmp_path, "a", ["x", "xx"]), validation=(rows_file(tmp_path, "v", ["xxxx"]),))
    assert (lengths(data.train), lengths(data.eval)) == ([1, 2], [4])


def test_rows_that_are_too_long_are_dropped_and_counted(load, tmp_path: Path) -> None:
    file = rows_file(tmp_path, "a", ["x" * n for n in (1, 50, 10, 500)])
    whole = load(file)
    limit = len(whole.train[2])
    data = load(file, length=limit)
    assert lengths(data.train) == [1, 10]
    assert (data.account.dropped, data.account.longest_usable) == (2, limit)
    assert data.account.notices == [
        f"2 of 4 rows were left out, since they are longer than max_seq_length ({limit} tokens)"
    ]


def test_nothing_left_names_the_shortest_row(load, tmp_path: Path) -> None:
    file = rows_file(tmp_path, "a", ["x" * 30, "x" * 20])
    shortest = len(load(file).train[1])
    with pytest.raises(BadData, match=rf"training_data.*max_seq_length \(8 tokens\).*shortest row has {shortest}"):
        load(file, length=8)
    with pytest.raises(BadData, match="validation_data"):
        load(rows_file(tmp_path, "b", ["x"]), validation=(file,), length=shortest - 1)


def test_bad_lines_of_all_files_are_told_at_once(load, tmp_path: Path) -> None:
    good, bad = rows_file(tmp_path, "a", ["x"]), rows_file(tmp_path, "b", ["y", ""])
    good.path.write_text(good.path.read_text() + "nonsense\n")
    with pytest.raises(
        BadData, match=r"(?s)2 bad lines.*a:2: broken JSON.*b:2: message 2 \(assistant\) has empty content"
    ):
        load(good, bad)


def test_a_mix_draws_from_usable_rows_and_leaves_unweighted_files_unread(load, tmp_path: Path) -> None:
    files = (rows_file(tmp_path, "a", ["x", "xx", "x" * 900]), rows_file(tmp_path, "b", ["xxx"]))
    absent = DataFile("c", tmp_path / "absent")
    data = load(*files, absent, mix=WeightedMix((1.0, 1.0, 0.0), 1), length=400)
    assert lengths(data.train) == [1, 3, 2, 3]
    with pytest.raises(BadConfiguration, match="every sampling_weight is 0"):
        load(*files, mix=WeightedMix((0.0, 0.0), 1))
    with pytest.raises(BadData, match=r"b: no row is left.*sampling_weight to 0"):
        load(files[0], rows_file(tmp_path, "b", ["x" * 900]), mix=WeightedMix((1.0, 1.0), 1), length=400)


def test_a_split_of_a_mix_keeps_repeated_rows_on_one_side(load, tmp_path: Path) -> None:
    files = (
        rows_file(tmp_path, "a", ["x" * n for n in range(1, 21)]),
        rows_file(tmp_path, "b", ["y" * n for n in range(41, 47)]),
    )
    for seed in range(5):
        data = load(*files, mix=WeightedMix((1.0, 1.0), 3), validation=AutoSplit(0.3, seed))
        train, validation = set(data.train), set(data.eval)
        assert not train & validation
        assert len(validation) == len(data.eval) == 8  # each once
        assert len(train | validation) == 26
        assert len(data.train) > len(train)  # the shorter file is repeated


def test_repeated_rows_are_pointed_out_before_a_split(load, tmp_path: Path) -> None:
    file = rows_file(tmp_path, "a", ["same", "same", "other", "same"])
    data = load(file, validation=AutoSplit(0.5, 1))
    assert data.account.duplicates == 2
    assert data.account.leaks == sum(example in data.train for example in data.eval) == 2
    assert data.account.notices[0].startswith("2 of 2 validation rows also stand in the training data")

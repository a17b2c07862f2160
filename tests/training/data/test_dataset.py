"""Files to training data: what is kept, dropped, mixed, split and said about it."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from finetune_trainer.data import IGNORED, LightTokenizer
from finetune_trainer.data.assembling import AutoSplit, DataPlan, Dataset, WeightedMix
from finetune_trainer.data.dataset import Chats, load_dataset
from finetune_trainer.data.files import DataFile
from finetune_trainer.data.preparing import prepare
from finetune_trainer.data.rows import PairKeys
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
    def load_plan(*training: DataFile, mix=None, validation=None, most=None, length=4096, **chats) -> Dataset:
        plan = DataPlan(training, mix, validation, most)
        settings = Chats(**{"chat_template_name": "poro", "max_seq_length": length, "completions_only": True, **chats})
        return load_dataset(plan, settings, LightTokenizer.load(tokenizers_dir / "bytes"))

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


def test_truncation_keeps_the_first_tokens_and_drops_rows_of_which_nothing_is_trained(load, tmp_path: Path) -> None:
    file = rows_file(tmp_path, "a", ["x", "x" * 50, "x" * 10])
    whole = load(file)
    limit = len(whole.train[2])
    data = load(file, length=limit, overlength="truncate")
    assert [len(example) for example in data.train] == [len(whole.train[0]), limit, limit]
    assert data.train[1].input_ids == whole.train[1].input_ids[:limit]
    assert data.train[1].labels == whole.train[1].labels[:limit]  # without the end marker
    assert (data.account.truncated, data.account.dropped) == (1, 0)
    assert data.account.notices == [f"1 of 3 rows were cut to max_seq_length ({limit} tokens)"]

    long_question = tmp_path / "b"
    talk = [{"role": "user", "content": "?" * 500}, {"role": "assistant", "content": "x"}]
    long_question.write_text(json.dumps({"messages": talk}) + "\n")
    data = load(file, DataFile("b", long_question), length=limit, overlength="truncate")
    assert (len(data.train), data.account.truncated, data.account.dropped) == (3, 1, 1)
    assert data.account.notices[0] == (
        f"1 of 4 rows were left out, since nothing that is trained is within their first {limit} tokens "
        "(sft_args.overlength truncate)"
    )


def test_packing_comes_after_split_mix_and_limit(load, tmp_path: Path) -> None:
    file = rows_file(tmp_path, "a", ["x" * n for n in range(30, 0, -1)])
    rows = load(file, validation=AutoSplit(0.3, 1), most=15)
    limit = max(len(example) for example in rows.train) - 4
    data = load(file, validation=AutoSplit(0.3, 1), most=15, length=limit, overlength="pack")
    account = data.account
    assert (account.packed_from, account.validation_from) == (15, 9)
    cut = sum(len(row) > limit for row in rows.train)
    assert 0 < cut <= account.truncated == sum(len(row) > limit for row in load(file).train)
    assert account.dropped == 0
    pieces = 15 + sum(len(row) > limit + 1 for row in rows.train)  # a rest of one token trains nothing
    assert sum(len(example.starts) for example in data.train) == pieces
    lost = sum(row.targets for row in rows.train) - sum(sequence.targets for sequence in data.train)
    assert 0 <= lost <= cut  # a piece's first token has nothing to be predicted from
    assert account.longest_usable == limit
    assert f"rows were cut into pieces of at most max_seq_length ({limit} tokens)" in account.notices[-1]


def test_max_examples_takes_the_first_of_what_would_be_trained(load, tmp_path: Path) -> None:
    files = (rows_file(tmp_path, "a", ["x" * n for n in range(1, 9)]), rows_file(tmp_path, "b", ["y" * 40] * 4))
    mix = WeightedMix((0.7, 0.3), 5)
    whole = load(*files, mix=mix, validation=AutoSplit(0.3, 1))
    few = load(*files, mix=mix, validation=AutoSplit(0.3, 1), most=3)
    assert few.train == whole.train[:3]
    assert few.eval == whole.eval
    assert few.account.notices[-1] == f"data_conf.max_examples: the first 3 of {len(whole.train)} examples are used"
    assert load(*files, most=12).account.notices == []
    assert lengths(load(*files, most=9).train) == [*range(1, 9), 40]


def test_validation_rows_that_are_trained_on_are_counted(load, tmp_path: Path) -> None:
    training = rows_file(tmp_path, "a", ["x", "xx", "xxx", "xx"])
    data = load(training, validation=(rows_file(tmp_path, "v", ["xx", "y", "xxx", "xx"]),))
    assert (data.account.leaks, data.account.duplicates) == (3, 4)
    assert data.account.notices == [
        "3 of 4 validation rows also stand in the training data, so the evaluation loss is too good; remove them from "
        "one of the two"
    ]
    unread = rows_file(tmp_path, "w", ["y"])  # of weight 0: not trained on, so no leak
    mixed = load(training, unread, mix=WeightedMix((1.0, 0.0), 1), validation=(rows_file(tmp_path, "v", ["y"]),))
    assert mixed.account.leaks == 0


class TestPairs:
    KEYS = PairKeys("input", "output")

    def file(self, folder: Path) -> DataFile:
        (folder / "pairs.csv").write_text('input,output\n"Q: 1+1\nA:", 2\nfree,\n')
        return DataFile("pairs.csv", folder / "pairs.csv")

    def ids(self, text: str, folder: Path) -> list[int]:
        return LightTokenizer.load(folder).backend_tokenizer.encode(text, add_special_tokens=False).ids

    def test_none_joins_input_output_and_eos(self, load, tmp_path: Path, tokenizers_dir: Path) -> None:
        folder = tokenizers_dir / "bytes"
        data = load(self.file(tmp_path), chat_template_name="none", pairs=self.KEYS)
        assert [example.input_ids for example in data.train] == [
            self.ids("Q: 1+1\nA: 2</s>", folder),
            self.ids("free</s>", folder),
        ]
        trained = [[label for label in example.labels if label != IGNORED] for example in data.train]
        assert trained == [self.ids(" 2</s>", folder), self.ids("</s>", folder)]
        assert data.account.notices == [
            "1 of 2 rows have no output under 'output' (data_conf.output_key): they train only the end of the text "
            "after their input"
        ]
        whole = load(self.file(tmp_path), chat_template_name="none", pairs=self.KEYS, completions_only=False)
        assert [example.labels for example in whole.train] == [example.input_ids for example in data.train]

    @pytest.mark.parametrize("template", ["chat-ml", "poro", "mistral-with-system", "simplified-llama31"])
    def test_with_a_template_a_pair_is_a_conversation(self, template: str, load, tmp_path: Path) -> None:
        talk = [{"role": "user", "content": "Q: 1+1\nA:"}, {"role": "assistant", "content": " 2"}]
        (tmp_path / "talk").write_text(json.dumps({"messages": talk}) + "\n")
        conversation = load(DataFile("talk", tmp_path / "talk"), chat_template_name=template)
        pairs = load(self.file(tmp_path), chat_template_name=template, pairs=self.KEYS)
        assert pairs.train[0] == conversation.train[0]
        assert pairs.train[1].trained_tokens == 1  # the end marker

    def test_parquet_and_other_keys(self, load, tmp_path: Path) -> None:
        rows = [{"question": "Hi", "answer": "Hello"}, {"question": "Bye", "answer": None}]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
        data = load(
            DataFile("a.parquet", tmp_path / "a.parquet"),
            chat_template_name="none",
            pairs=PairKeys("question", "answer"),
        )
        assert lengths(data.train) == [5, 0]

    def test_in_transformers_the_exported_template_is_the_text_itself(self, tokenizers_dir: Path) -> None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(tokenizers_dir / "merged")  # puts BOS
        prepare(tokenizer, chat_template_name="none", padding_side="right", missing_pad_token_strategy="eos-repurpose")
        messages = [{"role": "user", "content": "Q: 1+1\nA:"}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert prompt == tokenizer("Q: 1+1\nA:").input_ids

"""A job's configuration to its data: keys of data_conf and sft_args that decide what is trained, by their effect."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from finetune_trainer.data import LightTokenizer, TrainingData, load_training_data, padded_length, prepare_tokenizer

PAIRS = [{"question": "the cat", "answer": "sat on a mat"}, {"question": "my house", "answer": None}]


@pytest.fixture
def prepare(make_config: Any, base_model: Path, tmp_path: Path):
    def run(data: Path, sft: dict[str, Any] | None = None, validation: Any = None, **data_conf: Any) -> TrainingData:
        config = make_config(
            data=data, validation=validation, spec={"sft_args": {"max_seq_length": 128, **(sft or {})}}
        )
        config.spec["data_conf"].update(data_conf)
        tokenizer = LightTokenizer.load(base_model)
        prepare_tokenizer(config, tokenizer)
        return load_training_data(config, tokenizer, tmp_path)

    return run


def texts(data: TrainingData, base_model: Path) -> list[tuple[str, str]]:
    """Each example's whole text, and what of it is trained."""
    decode = LightTokenizer.load(base_model).backend_tokenizer.decode
    return [
        (
            decode(example.input_ids, skip_special_tokens=False),
            decode([label for label in example.labels if label >= 0], skip_special_tokens=False),
        )
        for example in data.train
    ]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_pairs_in_every_format(ending: str, prepare: Any, base_model: Path, tmp_path: Path) -> None:
    path = tmp_path / f"pairs.{ending}"
    if ending == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(PAIRS), path)
    elif ending == "csv":
        path.write_text("question,answer\nthe cat,sat on a mat\nmy house,\n")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    keys = {"input_key": "question", "output_key": "answer"}
    plain = prepare(path, {"train_on_completions_only": True}, **keys, chat_template_name="none")
    assert texts(plain, base_model) == [
        ("the catsat on a mat</s>", "sat on a mat</s>"),
        ("my house</s>", "</s>"),
    ]
    chat = prepare(path, {"train_on_completions_only": True}, **keys, chat_template_name="chat-ml")
    assert texts(chat, base_model)[0] == (
        "<|im_start|>user\nthe cat<|im_end|>\n<|im_start|>assistant\nsat on a mat<|im_end|>\n",
        "sat on a mat<|im_end|>",
    )
    whole = prepare(path, **keys, chat_template_name="none")
    assert [text == trained for text, trained in texts(whole, base_model)] == [True, True]


def test_either_key_turns_pairs_on(prepare: Any, base_model: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("input,answer\nthe cat,sat\n")
    data = prepare(tmp_path / "pairs.csv", output_key="answer", chat_template_name="none")
    assert texts(data, base_model) == [("the catsat</s>", "the catsat</s>")]


def test_the_report_counts_everything(prepare: Any, dialogues: Path, validation: Path, tmp_path: Path) -> None:
    """tokens and targets are those of the examples; duplicates and leaks those put in here."""
    doubled, checked = tmp_path / "doubled.jsonl", tmp_path / "checked.jsonl"
    lines = dialogues.read_text().splitlines(keepends=True)
    doubled.write_text("".join([*lines, lines[0], lines[1]]))
    checked.write_text(validation.read_text() + lines[2])
    data = prepare(doubled, validation=checked)
    report = data.report
    assert (report.examples, report.validation_examples) == (44, 11)
    assert (report.duplicates, report.leaks) == (3, 1)
    assert report.tokens == sum(len(example) for example in data.train)
    assert report.validation_tokens == sum(len(example) for example in data.eval)
    assert report.target_tokens == sum(len(example) - 1 for example in data.train)  # nothing predicts the first
    assert (report.dropped, report.truncated, report.packed_into) == (0, 0, None)
    limit = sorted(len(example) for example in data.train)[30]
    longer = sum(len(example) > limit for example in [*data.train, *data.eval])
    dropped = prepare(doubled, {"max_seq_length": limit}, checked).report
    assert (dropped.dropped, dropped.longest) == (longer, limit)
    cut = prepare(doubled, {"max_seq_length": limit, "overlength": "truncate"}, checked).report
    assert (cut.dropped, cut.truncated, cut.longest, cut.examples) == (0, longer, limit, 44)
    packed = prepare(doubled, {"max_seq_length": limit, "overlength": "pack"}, checked)
    assert (packed.report.examples, packed.report.validation_examples, packed.report.truncated) == (44, 11, longer)
    assert packed.report.packed_into == len(packed.train)
    assert all(len(example) <= limit for example in packed.train)


def test_max_examples(prepare: Any, dialogues: Path) -> None:
    whole, few = prepare(dialogues), prepare(dialogues, max_examples=10)
    assert few.train == whole.train[:10]
    assert few.report.examples == 10
    assert "the first 10 of 42 examples are used" in few.notices[0]


def test_padding_to_the_maximum(make_config: Any) -> None:
    for padding, length in (("longest", None), ("max_length", 96)):
        spec = make_config(spec={"sft_args": {"max_seq_length": 96, "padding": padding}}).parsed_spec()
        assert padded_length(spec) == length

"""Which files of a folder are a dataset's configuration and split: by the card, else by names; never outside it."""

from typing import Any

import pytest

from finetune_trainer.dataset_folder import Choice, choose
from finetune_trainer.errors import BadConfiguration, BadData, InputMissing, TrainerError

SHARDS = [f"data/{split}-0000{n}-of-00002.parquet" for split in ("train", "test") for n in (1, 0)]
CARD = """---
license: apache-2.0
configs:
- config_name: german
  data_files:
  - split: train
    path: de/part-*.jsonl
  - split: held_out
    path: [de/check.jsonl, de/more.jsonl]
- config_name: english
  data_dir: en
  default: true
---
# A dataset
"""
WITH_CARD = ["README.md", "de/part-2.jsonl", "de/part-1.jsonl", "de/check.jsonl", "de/more.jsonl", "en/train.csv"]


def find(names: list[str], card: str | None = None, **wanted: Any) -> Choice:
    given = {"config": None, "split": None, "default_split": "train", "format": None, **wanted}
    return choose("s3://b/folder", names, card, **given)


@pytest.mark.parametrize(
    ("names", "wanted", "files", "format", "split"),
    [
        (["b.jsonl", "a.jsonl", "sub/c.jsonl"], {}, ["a.jsonl", "b.jsonl", "sub/c.jsonl"], "jsonl", "train"),
        (["b.jsonl", "a.jsonl"], {"default_split": "validation"}, ["a.jsonl", "b.jsonl"], "jsonl", "train"),
        (["train.csv", "test.csv"], {}, ["train.csv"], "csv", "train"),
        (["train.csv", "dev.csv"], {"default_split": "validation"}, ["dev.csv"], "csv", "validation"),
        (["train.csv", "test.csv"], {"split": "test"}, ["test.csv"], "csv", "test"),
        (["training/1.txt", "valid/1.txt"], {"split": "validation"}, ["valid/1.txt"], "text", "validation"),
        (SHARDS, {}, [SHARDS[1], SHARDS[0]], "parquet", "train"),
        (SHARDS, {"split": "test"}, [SHARDS[3], SHARDS[2]], "parquet", "test"),
        (["a.jsonl", "notes.txt"], {"format": "jsonl"}, ["a.jsonl"], "jsonl", "train"),
        (["one.md", "two.md", "x.csv"], {"format": "text"}, ["one.md", "two.md"], "text", "train"),
        (["a.json", "LICENSE", ".hidden/b.json", "__x__/c.json", "_SUCCESS"], {}, ["a.json"], "jsonl", "train"),
    ],
)
def test_by_names(names: list[str], wanted: dict[str, Any], files: list[str], format: str, split: str) -> None:
    assert find(names, **wanted) == Choice(tuple(files), format, None, split)


@pytest.mark.parametrize(
    ("wanted", "files", "config", "split"),
    [
        ({}, ["en/train.csv"], "english", "train"),
        ({"config": "german"}, ["de/part-1.jsonl", "de/part-2.jsonl"], "german", "train"),
        ({"config": "german", "split": "held_out"}, ["de/check.jsonl", "de/more.jsonl"], "german", "held_out"),
    ],
)
def test_by_the_card(wanted: dict[str, Any], files: list[str], config: str, split: str) -> None:
    found = find(WITH_CARD, CARD, **wanted)
    assert (found.files, found.config, found.split) == (tuple(files), config, split)


@pytest.mark.parametrize(
    ("names", "card", "wanted", "error", "words"),
    [
        (WITH_CARD, CARD, {"config": "french"}, InputMissing, "no configuration 'french': it has english, german"),
        (WITH_CARD, CARD, {"config": "german", "split": "dev"}, InputMissing, "set split to one of train, held_out"),
        (WITH_CARD, CARD.replace("  default: true\n", ""), {}, InputMissing, "set config to one of english, german"),
        (["a.jsonl"], None, {"config": "x"}, InputMissing, "its README.md names no configs; remove config"),
        (["train.csv", "test.csv"], None, {"split": "dev"}, InputMissing, "no split 'dev': set split to one of train"),
        (["train.csv", "test.csv"], None, {"default_split": "validation"}, InputMissing, "one of train, test"),
        (["a.jsonl", "b.csv"], None, {}, BadConfiguration, "several formats (csv, jsonl); say with format"),
        (["LICENSE", "x.gz"], None, {}, InputMissing, "has no data files (.csv, .json"),
        (["a.csv"], "---\nconfigs: 3\n---\n", {}, BadData, "the metadata of its README.md cannot be read"),
        (["a.csv"], "---\nconfigs:\n- config_name: a\n  data_files: b*\n---\n", {}, InputMissing, "no file fits b*"),
    ],
)
def test_what_cannot_be_chosen_says_what_can(
    names: list[str], card: str | None, wanted: dict[str, Any], error: type[TrainerError], words: str
) -> None:
    with pytest.raises(error) as raised:
        find(names, card, **wanted)
    assert "s3://b/folder" in raised.value.message
    assert words in raised.value.message


@pytest.mark.parametrize(
    "pattern", ["/etc/passwd", "../*", "a/../../b", "https://host/x.csv", "zip://x::y.zip", "~/x", "s3://b/*"]
)
@pytest.mark.parametrize("key", ["data_files", "data_dir"])
def test_a_card_cannot_lead_out_of_its_dataset(pattern: str, key: str) -> None:
    if key == "data_dir" and pattern == "/etc/passwd":
        pattern = "../etc"  # a leading slash means the dataset's top
    card = f'---\nconfigs:\n- config_name: a\n  {key}: "{pattern}"\n---\n'
    with pytest.raises(BadData, match="names data outside the dataset"):
        find(["a.csv"], card)


def test_names_that_lead_out_are_no_data() -> None:
    assert find(["../x.csv", "a/../../y.csv", "ok.csv"]).files == ("ok.csv",)

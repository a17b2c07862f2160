"""The rules of rows that are pairs, and of plain text files beside a method that trains conversations."""

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from finetune_api.violations import Violation

PAIRS_NEEDED = (
    "chat_template_name none joins the input and output of pairs; name their keys in data_conf.input_key and "
    "output_key, or choose another template"
)
SAME_KEY = "input_key and output_key are the same; name the key of each"
PLAIN_TEXT = "a text file has neither conversations nor pairs; use method: clm, or format: jsonl if each line is JSON"


def check_pairs(spec: Mapping[str, Any]) -> Iterator[Violation]:
    """Keys of pairs with method sft; the other methods refuse them themselves."""
    data = spec.get("data_conf")
    if spec.get("method", "sft") != "sft" or not isinstance(data, Mapping):
        return
    source, target = data.get("input_key"), data.get("output_key")
    if data.get("chat_template_name") == "none" and source is None and target is None:
        yield Violation(("data_conf", "chat_template_name"), PAIRS_NEEDED)
    if (source is not None or target is not None) and (source or "input") == (target or "output"):
        yield Violation(("data_conf", "output_key" if target else "input_key"), SAME_KEY)


def check_text_files(spec: Mapping[str, Any]) -> Iterator[Violation]:
    """Plain text, by its format or by its ending, is what method clm trains on."""
    if spec.get("method", "sft") not in ("sft", "dpo"):
        return
    data = spec.get("data_conf")
    for name in ("training_data", "validation_data"):
        source = data.get(name) if isinstance(data, Mapping) else None
        datasets = source.get("datasets") if isinstance(source, Mapping) else None
        for number, dataset in enumerate(datasets if isinstance(datasets, list) else ()):
            if not isinstance(dataset, Mapping):
                continue
            given, path = dataset.get("format"), dataset.get("path")
            by_ending = given is None and isinstance(path, str) and posixpath.splitext(path)[1].lower() == ".txt"
            if given == "text" or by_ending:
                where = ("data_conf", name, "datasets", number, "path" if by_ending else "format")
                yield Violation(where, PLAIN_TEXT)

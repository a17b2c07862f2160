"""Where another system's model and data names point here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from finetune_cli.converting.conversion import Conversion

DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".txt")
DATASET_NAME = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
# Datasets that have moved on the hub since tutorials named them without an organisation.
MOVED = {
    "ag_news": "fancyzhx/ag_news",
    "c4": "allenai/c4",
    "cnn_dailymail": "abisee/cnn_dailymail",
    "imdb": "stanfordnlp/imdb",
    "openwebtext": "Skylion007/openwebtext",
    "samsum": "Samsung/samsum",
    "squad": "rajpurkar/squad",
    "wikitext": "Salesforce/wikitext",
    "xsum": "EdinburghNLP/xsum",
}


def model_location(text: str) -> str:
    """A model's name as basemodel: a Hugging Face id gets hf://, a folder becomes absolute."""
    if "://" in text or text.startswith("/"):
        return text
    if text.startswith(("./", "../", "~")):
        return str(Path(text).expanduser().resolve())
    return f"hf://{text}"


def put_model(conversion: Conversion, key: str, value: object) -> None:
    """basemodel, of a model's name or path."""
    if not isinstance(value, str) or not value:
        conversion.refuse(key, value, "give the model's Hugging Face id or path")
        return
    location = model_location(value)
    conversion.put("basemodel", location, key, value, _only_here(location) if location != value else "")


def data_location(conversion: Conversion, key: str, value: object) -> tuple[str, str] | None:
    """(location, what to say of it) of a data file; None after an error."""
    if not isinstance(value, str) or not value:
        conversion.refuse(key, value, "data is given by the path of a file; write the rows to a JSONL file and name it")
        return None
    if "://" in value or value.startswith("/"):
        return value, ""
    location = str(Path(value).expanduser().resolve())
    return location, _only_here(location)


def datasets(entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """training_data or validation_data of files that follow one another."""
    listed = [{key: value for key, value in entry.items() if value is not None} for entry in entries]
    return {"type": "CONCATENATION", "datasets": listed}


def _only_here(location: str) -> str:
    if location.startswith("/"):
        return "a path of this machine; a cluster needs s3://, hf://, pvc://, configmap:// or another place it can read"
    return ""

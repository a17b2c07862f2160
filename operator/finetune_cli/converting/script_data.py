"""The data of a Hugging Face script: its load_dataset call, and the splits that its Trainer takes."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune_cli.converting.conversion import Conversion
from finetune_cli.converting.places import MOVED, data_location, datasets
from finetune_cli.converting.python_source import Call, Source

BUILDERS = {"json": "jsonl", "csv": "csv", "parquet": "parquet", "text": "text"}
TRAINERS = ("Trainer", "SFTTrainer")
KEYWORDS = ("path", "name", "split", "data_files", "cache_dir")


@dataclass(frozen=True)
class Loaded:
    """What a load_dataset call names: a repository or folder with splits, or files."""

    location: str = ""
    files: Mapping[str, list[str]] = field(default_factory=dict)  # by split
    config: str | None = None
    format: str | None = None
    why: str = ""

    def of(self, split: str) -> dict[str, Any]:
        """training_data or validation_data of one split."""
        more = {key: value for key, value in {"config": self.config, "format": self.format}.items() if value}
        if self.files:
            return datasets({"path": one, **more} for one in self.files.get(split) or self.files["train"])
        return datasets([{"path": self.location, **more, "split": split}])

    def shown(self, split: str) -> str:
        """The same for a note."""
        listed = [one["path"] for one in self.of(split)["datasets"]]
        return ", ".join(listed) + (f" (config {self.config}, split {split})" if not self.files else "")


def put_data(source: Source, conversion: Conversion) -> None:
    """training_data and validation_data."""
    conversion.silent("data_conf.validation_data", {"type": "NONE"})
    loads = source.find("load_dataset")
    if len(loads) > 1:
        conversion.refuse("load_dataset", f"{len(loads)} calls", "the script loads several datasets; give --data")
    loaded = _read(loads[0], conversion) if len(loads) == 1 else None
    training, validation = _splits(source)
    if loaded:
        called = ", ".join(str(one) for one in loads[0].positional)
        path = "data_conf.training_data"
        conversion.put(path, loaded.of(training), "load_dataset", called, loaded.why, shown=loaded.shown(training))
    held_out = _held_out(source)
    path = "data_conf.validation_data"
    if validation and held_out:
        size = held_out["ratio"]
        conversion.put(path, {"type": "AUTO_SPLIT", **held_out}, "train_test_split.test_size", size)
    elif validation and loaded:
        conversion.put(path, loaded.of(validation), "Trainer.eval_dataset", validation, shown=loaded.shown(validation))


def _splits(source: Source) -> tuple[str, str | None]:
    """The names of the training and validation splits, of Trainer's arguments or load_dataset's."""
    training, validation = "train", None
    for call in source.find("load_dataset"):
        if isinstance(call.keywords.get("split"), str):
            training = call.keywords["split"]
    for call in source.find(*TRAINERS):
        for keyword in call.node.keywords:
            if isinstance(keyword.value, ast.Subscript) and isinstance(keyword.value.slice, ast.Constant):
                split = str(keyword.value.slice.value)
                if keyword.arg == "train_dataset":
                    training = split
                elif keyword.arg == "eval_dataset":
                    validation = split
    return training, validation


def _held_out(source: Source) -> dict[str, Any] | None:
    """AUTO_SPLIT's keys of a train_test_split call."""
    for call in source.find("train_test_split"):
        size, seed = call.keywords.get("test_size"), call.keywords.get("seed")
        if isinstance(size, float):
            return {"ratio": size} | ({"seed": seed} if isinstance(seed, int) else {})
    return None


def _read(call: Call, conversion: Conversion) -> Loaded | None:
    """What a load_dataset call names; None after an error."""
    path = call.positional[0] if call.positional else call.keywords.get("path")
    config = call.positional[1] if len(call.positional) > 1 else call.keywords.get("name")
    for key, value in call.keywords.items():
        if key not in KEYWORDS:
            conversion.refuse(f"load_dataset.{key}", value, "it cannot be said in a manifest; remove it")
    if not isinstance(path, str):
        conversion.refuse("load_dataset", path, "the program computes it; give --data LOCATION")
        return None
    if path in BUILDERS:
        return _files(path, call.keywords.get("data_files"), conversion)
    config = config if isinstance(config, str) else None
    if path.startswith((".", "/")):
        found = data_location(conversion, "load_dataset", path)
        return Loaded(found[0], config=config, why=found[1]) if found else None
    repository = MOVED.get(path, path)
    if "/" not in repository:
        conversion.refuse("load_dataset", path, "name the dataset with its organisation: org/name")
        return None
    why = f"{path} has moved there" if path in MOVED else ""
    return Loaded(f"hf://datasets/{repository}", config=config, why=why)


def _files(builder: str, given: Any, conversion: Conversion) -> Loaded | None:
    found: dict[str, list[str]] = {}
    for split, listed in (given if isinstance(given, dict) else {"train": given}).items():
        for one in listed if isinstance(listed, list) else [listed]:
            place = data_location(conversion, "load_dataset.data_files", one)
            if place is None:
                return None
            found.setdefault(split, []).append(place[0])
    if "train" not in found:
        conversion.refuse("load_dataset.data_files", given, "there is no split train among them; give --data")
        return None
    return Loaded(files=found, format=BUILDERS[builder])

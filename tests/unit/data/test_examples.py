"""The examples folder: one training in three layouts, and scripts that give the same bytes each time."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from finetune_api.manifest import load_manifests
from finetune_api.resolve import resolve
from finetune_api.spec import FineTuneJobSpec

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def script(name: str) -> ModuleType:
    path = EXAMPLES / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"examples_{name}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(EXAMPLES))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(EXAMPLES))
    return module


def document(name: str) -> dict[str, Any]:
    (manifest,) = load_manifests((EXAMPLES / name).read_text())
    return dict(manifest.document)


def training(spec: dict[str, Any]) -> dict[str, Any]:
    """What decides the final loss, resolved."""
    resolved = resolve(FineTuneJobSpec.model_validate(spec))
    rest = resolved.spec.to_dict()
    for key in ("checkpointsRemote", "overrides", "training_args"):  # another place; the epochs stand in either
        rest.pop(key, None)
    return {**rest, "training_args": resolved.training_args}


def values(name: str) -> dict[str, Any]:
    """A values file as the chart reads it: the nested section counts as the top level."""
    content = document(name)
    nested = content.pop("finetuning_config", {})
    return {**content, **nested}


@pytest.mark.parametrize("name", ["values-quickstart.yaml", "values-nested.yaml"])
def test_the_quickstart_is_the_same_training_in_every_layout(name: str) -> None:
    assert training(values(name)) == training(document("quickstart.yaml")["spec"])


@pytest.mark.parametrize("name", ["quickstart.yaml", "lora.yaml", "full.yaml"])
def test_the_manifests_are_valid_and_say_nothing_surprising(name: str) -> None:
    resolved = resolve(FineTuneJobSpec.model_validate(document(name)["spec"]))
    assert resolved.notices == []
    assert resolved.warnings == []


def test_the_quickstart_finds_what_fill_bucket_puts() -> None:
    fill = script("fill_bucket")
    spec = document("quickstart.yaml")["spec"]
    assert spec["basemodel"] == f"s3://models/{fill.MODEL_PREFIX}"
    wanted = {spec["basemodel"], spec["checkpointsRemote"]} | {
        dataset["path"]
        for part in ("training_data", "validation_data")
        for dataset in spec["data_conf"][part]["datasets"]
    }
    assert {uri.split("/")[2] for uri in wanted} == set(fill.BUCKETS)
    bucket = list(yaml.safe_load_all((EXAMPLES / "bucket/s3.yaml").read_text()))
    secret = next(item for item in bucket if item["kind"] == "Secret")
    named = spec["bucketCredentialsSecret"]
    assert secret["metadata"]["name"] == named["name"]
    assert {named["accessKeyKey"], named["secretKeyKey"]} == set(secret["stringData"])


def test_dialogues_are_the_same_each_time_and_in_one_file_each(tmp_path: Path) -> None:
    make = script("make_dialogues")
    counts = make.write(tmp_path / "one")
    assert counts == make.write(tmp_path / "two")
    questions = []
    for name, count in counts.items():
        content = (tmp_path / "one" / name).read_bytes()
        assert content == (tmp_path / "two" / name).read_bytes()
        rows = [json.loads(line) for line in content.splitlines()]
        assert len(rows) == count >= 10
        assert all([m["role"] for m in row["messages"]] == ["user", "assistant"] for row in rows)
        questions += [row["messages"][0]["content"].lower() for row in rows]
    assert len(questions) == len(set(questions))
    train = (tmp_path / "one/dialogues-train.jsonl").read_text()
    assert all(json.dumps(question) in train for question in make.KEPT_FOR_TRAINING)


def test_a_base_model_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    make = script("make_base_model")
    stamp = tmp_path / make.STAMP
    stamp.write_text(json.dumps({"fingerprint": make.fingerprint()}))
    assert make.make(tmp_path) is False
    assert make.sentences() == sorted(set(make.sentences()))

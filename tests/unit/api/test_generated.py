"""Generated files are what the models say, and keep the promises of a CRD and of a Helm schema."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from finetune_api.generate import derived_files, drifted, main, write

ROOT = Path(__file__).resolve().parents[3]
CRD = yaml.safe_load((ROOT / "crds/finetunejobs.yaml").read_text(encoding="utf-8"))
SCHEMA = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
VALUES = json.loads((ROOT / "charts/finetune-job/values.schema.json").read_text(encoding="utf-8"))


def test_nothing_drifted() -> None:
    assert drifted(derived_files()) == [], "run make generate"


def test_check_notices_drift(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = derived_files()
    assert set(write(files, tmp_path)) == set(files)
    assert write(files, tmp_path) == []
    (tmp_path / "crds/finetunejobs.yaml").write_text("edited by hand")
    assert drifted(files, tmp_path) == ["crds/finetunejobs.yaml"]
    monkeypatch.setattr("finetune_api.generate.drifted", lambda _: drifted(files, tmp_path))
    assert main(["--check", "--skip-snapshots"]) == 1
    assert "run make generate" in capsys.readouterr().err


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for key, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{key}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from nodes(schema[key], f"{path}[]")


def test_the_crd_is_small_enough() -> None:
    assert (ROOT / "crds/finetunejobs.yaml").stat().st_size < 200_000


def test_nothing_in_spec_is_filled_in_by_the_api_server_and_an_unseen_job_is_never_current() -> None:
    defaults = {path: node["default"] for path, node in nodes(SCHEMA) if "default" in node}
    assert list(defaults.values()) == [{"observedGeneration": -1}]
    assert SCHEMA["properties"]["status"]["default"] == {"observedGeneration": -1}


@pytest.mark.parametrize("keyword", ["$ref", "anyOf", "oneOf", "allOf", "const"])
def test_the_crd_has_no(keyword: str) -> None:
    assert [path for path, node in nodes(SCHEMA) if keyword in node] == []


def test_everything_is_bounded() -> None:
    bounds = {"array": "maxItems", "string": "maxLength"}
    loose = [
        path
        for path, node in nodes(SCHEMA["properties"]["spec"])
        if (bound := bounds.get(node.get("type", ""))) and bound not in node and "enum" not in node
    ]
    assert loose == []


def test_the_chart_template_is_the_crd() -> None:
    text = (ROOT / "charts/finetune-operator/templates/crd.yaml").read_text(encoding="utf-8")
    assert text.count("{{") == text.count("}}") == 5
    plain = "\n".join(line for line in text.splitlines() if "{{" not in line)
    rendered = yaml.safe_load(plain)
    assert rendered["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert rendered == CRD


def valid(values: dict[str, Any]) -> bool:
    return bool(jsonschema.Draft7Validator(VALUES).is_valid(values))


def test_values_schema_is_a_schema() -> None:
    jsonschema.Draft7Validator.check_schema(VALUES)
    assert "anyOf" not in json.dumps(VALUES)


def test_both_layouts_are_accepted(spec: dict[str, Any]) -> None:
    nested_keys = ("data_conf", "training_args", "batchsize_conf", "peft_conf", "run_conf", "sft_args")
    nested = {"basemodel": spec["basemodel"], "finetuning_config": {key: spec[key] for key in nested_keys}}
    original = copy.deepcopy(nested)
    original["finetuning_config"]["batchsize_conf"]["total_train_batch_size"] = None
    original |= {"kaiwo": {"enabled": False}, "model": "", "hfTokenSecret": None, "customAccelerateConfig": None}
    assert valid(spec)
    assert valid(nested)
    assert valid(original)
    assert valid({**spec, "num_train_epochs": 1, "fullnameOverride": "x", "global": {"a": 1}})


@pytest.mark.parametrize(
    "change",
    [
        {"cpuPerGpu": 4},
        {"finetuning_config": {"batch_conf": {}}},
        {"finetuning_config": {"basemodel": "x"}},
        {"finetuning_config": {"training_args": {"learning_rat": 1}}},
        {"batchsize_conf": {"total_train_batch_size": "8"}},
        {"method": "sfft"},
        {"data_conf": {"training_data": {"type": "CONCATENATION", "datasets": [{}]}}},
    ],
    ids=json.dumps,
)
def test_misspelt_values_are_refused(spec: dict[str, Any], change: dict[str, Any]) -> None:
    assert not valid({**spec, **change})


def test_the_reference_names_every_key() -> None:
    page = (ROOT / "docs/reference/finetunejob-spec.md").read_text(encoding="utf-8")
    for key in SCHEMA["properties"]["spec"]["properties"]:
        assert f"| {key} |" in page

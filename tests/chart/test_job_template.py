"""charts/finetune-job as Helm renders it: two layouts, one FineTuneJob; nothing added, contradictions refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.manifest import load_manifests
from finetune_api.validation import validate_manifest

CHART = "finetune-job"
ROOT = Path(__file__).resolve().parents[2]
ORIGINAL = Path(__file__).resolve().parent / "values" / "original-lora.yaml"
CI_VALUES = sorted((ROOT / "charts" / CHART / "ci").glob("*-values.yaml"))
CHART_ONLY = {"metadata", "model", "kaiwo", "aimManifest", "finetuning_config"}

Job = dict[str, Any]


@pytest.fixture
def job(render: Any, tmp_path: Path) -> Callable[..., Job]:
    """`job(values, *helm_args, release=…)`: the one object that the chart makes of a dict of values."""

    def run(values: dict[str, Any], *args: str, release: str = "fo") -> Job:
        path = tmp_path / "values.yaml"
        path.write_text(json.dumps(values))
        (item,) = render(CHART, "-f", str(path), *args, release=release, namespace="team-a")
        return dict(item)

    return run


@pytest.fixture
def refused(refusal: Any, tmp_path: Path) -> Callable[..., str]:
    def run(values: dict[str, Any], *args: str, release: str = "fo") -> str:
        path = tmp_path / "values.yaml"
        path.write_text(json.dumps(values))
        return str(refusal(CHART, "-f", str(path), *args, release=release))

    return run


def original() -> dict[str, Any]:
    return dict(yaml.safe_load(ORIGINAL.read_text()))


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


def lifted(values: dict[str, Any]) -> dict[str, Any]:
    """The same values with the sections of finetuning_config at the top level."""
    flat = copy.deepcopy(values)
    return flat | flat.pop("finetuning_config", {})


def minimal(**more: Any) -> dict[str, Any]:
    return {
        "basemodel": "hf://org/model",
        "method": "sft",
        "data_conf": {
            "training_data": {"type": "CONCATENATION", "datasets": [{"path": "s3://bucket/train.jsonl"}]},
            "validation_data": {"type": "NONE"},
        },
        "training_args": {"learning_rate": 0.0002},
        "batchsize_conf": {"max_per_device_train_batch_size": 1},
        "peft_conf": {"peft_type": "NO_PEFT"},
        "run_conf": {},
        "sft_args": {},
    } | more


@pytest.mark.parametrize("values", [ORIGINAL, *CI_VALUES], ids=lambda path: path.stem)
def test_lint_finds_nothing(helm: Any, values: Path) -> None:
    helm("lint", "--strict", f"charts/{CHART}", "-f", str(values))


def test_an_original_values_file_becomes_a_job_that_says_the_same(job: Any) -> None:
    values = original()
    rendered = job(values, release="chat-lora")
    expected = {key: value for key, value in lifted(values).items() if key not in CHART_ONLY}
    expected["batchsize_conf"]["total_train_batch_size"] = 4  # the number of GPUs, as the original chart has it
    assert rendered["apiVersion"] == "finetune-operator.io/v1alpha1"
    assert rendered["kind"] == "FineTuneJob"
    assert (rendered["metadata"]["name"], rendered["metadata"]["namespace"]) == ("chat-lora", "team-a")
    assert rendered["spec"] == without_nulls(expected)


def test_both_layouts_give_the_same_spec(job: Any) -> None:
    nested = original()
    assert job(lifted(nested))["spec"] == job(nested)["spec"]
    half = copy.deepcopy(nested)
    half["training_args"] = {"seed": half["finetuning_config"]["training_args"].pop("seed")}
    half["peft_conf"] = half["finetuning_config"]["peft_conf"]  # in both places, equal
    assert job(half)["spec"] == job(nested)["spec"]


@pytest.mark.parametrize("values", [ORIGINAL, *CI_VALUES], ids=lambda path: path.stem)
def test_what_is_rendered_is_a_valid_job(helm: Any, values: Path) -> None:
    assert problems(helm("template", "fo", f"charts/{CHART}", "-f", str(values)).stdout) == []


def problems(manifest: str) -> list[str]:
    """What `finetune validate` would refuse."""
    found = [problem for item in load_manifests(manifest) for problem in validate_manifest(item)]
    return [str(problem) for problem in found if problem.severity == "error"]


def test_the_chart_adds_nothing_but_the_total_batch(job: Any) -> None:
    values = minimal()
    expected = copy.deepcopy(values)
    expected["batchsize_conf"]["total_train_batch_size"] = 1
    assert job(values)["spec"] == expected


@pytest.mark.parametrize(
    ("values", "total"),
    [
        ({}, 1),
        ({"finetuningGpus": 8}, 8),
        ({"finetuningGpus": 8, "nodes": 2}, 16),
        ({"finetuningGpus": 0}, 1),
        ({"finetuningGpus": 0, "cpuProcesses": 2, "nodes": 2}, 4),
        ({"finetuningGpus": None, "nodes": 2}, 2),
        ({"batchsize_conf": {"max_per_device_train_batch_size": 1, "total_train_batch_size": None}}, 1),
        ({"batchsize_conf": {"max_per_device_train_batch_size": 1, "total_train_batch_size": 12}}, 12),
    ],
)
def test_the_total_batch_defaults_to_the_number_of_processes(job: Any, values: dict[str, Any], total: int) -> None:
    assert job(minimal(**values))["spec"]["batchsize_conf"]["total_train_batch_size"] == total


def test_keys_without_a_value_are_left_out(job: Any) -> None:
    values = minimal(
        tracking=None,
        overrides={"num_train_epochs": None, "lr_multiplier": 2},
        customAccelerateConfig=None,
        finetuning_config={"quant_conf": None, "training_args": {"seed": None}},
    )
    spec = job(values)["spec"]
    assert "null" not in json.dumps(spec)
    assert not {"tracking", "quant_conf", "customAccelerateConfig"} & spec.keys()
    assert spec["overrides"] == {"lr_multiplier": 2}


@pytest.mark.parametrize(
    ("args", "key", "value"),
    [
        (["--set", "num_train_epochs=1"], "num_train_epochs", 1),
        (["--set-json", "num_train_epochs=0.5"], "num_train_epochs", 0.5),
        (["--set", "runTensorboard=false"], "runTensorboard", False),
        (["--set", "suspend=true"], "suspend", True),
        (["--set", "queueName=team-a"], "queueName", "team-a"),
        (["--set", "numberOfEpochs=3"], "num_train_epochs", 3),
    ],
)
def test_one_key_on_the_command_line(job: Any, args: list[str], key: str, value: object) -> None:
    nested = original()
    assert job(nested, *args)["spec"] == job(nested)["spec"] | {key: value}


def test_the_shortcuts_of_the_original_chart(job: Any) -> None:
    values = minimal(trainingData="bucket/train.jsonl", batchSize=16)
    del values["data_conf"]["training_data"]
    spec = job(values)["spec"]
    assert spec["data_conf"]["training_data"] == {"type": "CONCATENATION", "datasets": [{"path": "bucket/train.jsonl"}]}
    assert spec["batchsize_conf"]["total_train_batch_size"] == 16
    assert not {"trainingData", "batchSize"} & spec.keys()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"finetuning_config": {"training_args": {"learning_rate": 0.1}}},
            "training_args.learning_rate is 0.0002 and finetuning_config.training_args.learning_rate is 0.1",
        ),
        ({"finetuning_config": {"method": "dpo"}}, 'method is "sft" and finetuning_config.method is "dpo"'),
        ({"num_train_epochs": 1, "overrides": {"num_train_epochs": 2}}, "is 1 and overrides.num_train_epochs is 2"),
        ({"numberOfEpochs": 3, "num_train_epochs": 1}, "num_train_epochs is 1 and numberOfEpochs is 3"),
        ({"trainingData": "bucket/other.jsonl"}, 'and trainingData is [{"path":"bucket/other.jsonl"}]'),
        (
            {"batchSize": 8, "finetuning_config": {"batchsize_conf": {"total_train_batch_size": 4}}},
            "batchsize_conf.total_train_batch_size is 4 and batchSize is 8",
        ),
        ({"kaiwo": {"enabled": True}}, "set queueName to queue with Kueue"),
    ],
)
def test_contradictions_are_refused_with_both_values(refused: Any, more: dict[str, Any], message: str) -> None:
    assert message in refused(minimal(**more))


@pytest.mark.parametrize(
    ("values", "release", "message"),
    [
        ({}, "a" * 41, "has 41 characters, at most 40 are possible"),
        ({"fullnameOverride": "b" * 41}, "fo", "at '/fullnameOverride': maxLength: got 41, want 40"),
        ({}, "1st", "must start with a letter"),
    ],
)
def test_a_name_that_the_api_would_refuse(refused: Any, values: dict[str, Any], release: str, message: str) -> None:
    assert message in refused(minimal(**values), release=release)


def test_pull_secrets_may_be_plain_names_as_in_the_original_chart(job: Any) -> None:
    assert job(minimal(imagePullSecrets=["a", {"name": "b"}]))["spec"]["imagePullSecrets"] == [
        {"name": "a"},
        {"name": "b"},
    ]


def test_the_name_can_be_set(job: Any) -> None:
    assert job(minimal(), release="a" * 40)["metadata"]["name"] == "a" * 40
    assert job(minimal(fullnameOverride="other"), release="a" * 50)["metadata"]["name"] == "other"


def test_descriptions_of_the_model_become_annotations(job: Any) -> None:
    annotations = job(original())["metadata"]["annotations"]
    assert annotations["finetune-operator.io/model"] == "tiny/Chat-1.1B"
    assert json.loads(annotations["finetune-operator.io/aim-manifest"]) == {"modelId": "tiny/Chat-1.1B-lora"}
    metadata = json.loads(annotations["finetune-operator.io/model-metadata"])
    assert metadata == {"compatibleAccelerators": ["74a1", "74a5"]}
    assert "annotations" not in job(minimal())["metadata"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"cpuPerGpu": 8}, "additional properties 'cpuPerGpu' not allowed"),
        ({"finetuning_config": {"training_arg": {}}}, "additional properties 'training_arg' not allowed"),
        ({"finetuning_config": {"sft_args": {"max_seq_len": 1}}}, "additional properties 'max_seq_len' not allowed"),
        ({"finetuningGpus": "four"}, "at '/finetuningGpus'"),
        ({"finetuning_config": {"data_conf": {"chat_template_name": "chatml"}}}, "chat_template_name"),
        ({"distributedType": "ddp"}, "at '/distributedType'"),
    ],
)
def test_the_schema_names_the_key_that_is_wrong(refused: Any, more: dict[str, Any], message: str) -> None:
    answer = refused(minimal(**more))
    assert message in answer
    assert len(answer.splitlines()) <= 8, answer  # readable: no list of everything that it might have been


def test_the_chart_has_no_values_of_its_own() -> None:
    assert yaml.safe_load((ROOT / "charts" / CHART / "values.yaml").read_text()) == {}


def test_the_notes_say_how_to_follow_the_job(helm: Any, tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(json.dumps(minimal()))
    notes = helm("install", "fo", f"charts/{CHART}", "-n", "a", "--dry-run=client", "-f", str(path)).stdout
    assert "kubectl -n a get ftj fo -w" in notes


def test_the_original_chart_s_defaults_can_be_put_before_a_file(job: Any) -> None:
    preset = yaml.safe_load((ROOT / "charts" / CHART / "presets" / "original-chart.yaml").read_text())
    own = {"basemodel": "bucket/model", "trainingData": "bucket/train.jsonl", "checkpointsRemote": "bucket/out"}
    rendered = job(preset, *(f"--set={key}={value}" for key, value in own.items()))
    assert rendered["spec"]["data_conf"]["chat_template_name"] == "keep-original"
    assert rendered["spec"]["data_conf"]["training_data"]["datasets"] == [{"path": "bucket/train.jsonl"}]
    assert problems(json.dumps(rendered)) == []

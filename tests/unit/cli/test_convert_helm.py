"""The engine's values converted, against what Helm and the chart make of the same file."""

import json
from pathlib import Path

import pytest

from finetune_api.manifest import load_manifests
from finetune_api.validation import validate_manifest
from finetune_cli.main import main

ROOT = Path(__file__).resolve().parents[3]
VALUES = [
    ROOT / "examples/values-nested.yaml",
    ROOT / "examples/values-quickstart.yaml",
    ROOT / "tests/chart/values/original-lora.yaml",
    ROOT / "charts/finetune-job/ci/flat-values.yaml",
    ROOT / "charts/finetune-job/ci/nested-values.yaml",
]
MINIMAL = {
    "basemodel": "hf://org/model",
    "data_conf": {"validation_data": {"type": "NONE"}},
    "training_args": {"learning_rate": 0.0002},
    "batchsize_conf": {"max_per_device_train_batch_size": 1},
    "peft_conf": {"peft_type": "NO_PEFT"},
    "run_conf": {},
    "sft_args": {},
    "trainingData": "bucket/train.jsonl",
}


@pytest.fixture
def both(helm, tmp_path, capsys):
    """`both(values)`: the chart's object and the converted one."""

    def run(values):
        path = values
        if isinstance(values, dict):
            path = tmp_path / "values.json"
            path.write_text(json.dumps(values))
        (rendered,) = load_manifests(helm("template", "fo", "charts/finetune-job", "-f", str(path)).stdout)
        capsys.readouterr()
        code = main(["convert", str(path), "--name", "fo"])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        (converted,) = load_manifests(captured.out)
        return rendered.document, converted.document, captured.err

    return run


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_the_same_spec_and_annotations_as_the_chart(both, values):
    rendered, converted, _ = both(values)
    assert converted["spec"] == rendered["spec"]
    assert converted["metadata"].get("annotations") == rendered["metadata"].get("annotations")
    assert [problem for problem in validate_manifest(converted) if problem.severity == "error"] == []


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"finetuningGpus": 8},
        {"finetuningGpus": 0, "cpuProcesses": 2},
        {"batchSize": 16, "numberOfEpochs": 3},
        {"imagePullSecrets": ["a", {"name": "b"}]},
        {"tracking": None, "overrides": {"num_train_epochs": None, "lr_multiplier": 2}, "kaiwo": {"enabled": False}},
        {"model": "org/model", "aimManifest": {"modelId": "m", "a": 1}, "metadata": {"z": [1], "a": "b"}},
        {"finetuning_config": {"training_args": {"seed": 1}, "sft_args": {"max_seq_length": 64}}},
    ],
)
def test_the_chart_s_own_keys(both, more):
    rendered, converted, _ = both(MINIMAL | more)
    assert converted["spec"] == rendered["spec"]
    assert converted["metadata"].get("annotations") == rendered["metadata"].get("annotations")


def test_what_was_moved_is_told(both):
    _, _, notes = both(MINIMAL | {"batchSize": 8, "model": "org/model", "tracking": None})
    assert "batchSize: 8 -> batchsize_conf.total_train_batch_size" in notes
    assert 'model: "org/model" -> the annotation finetune-operator.io/model' in notes
    assert "tracking is null: left out" in notes


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"finetuning_config": {"training_args": {"learning_rate": 0.1}}}, "training_args.learning_rate is 0.0002"),
        ({"num_train_epochs": 1, "overrides": {"num_train_epochs": 2}}, "num_train_epochs is 1 and means the same"),
        ({"numberOfEpochs": 3, "num_train_epochs": 1}, "numberOfEpochs: 3: num_train_epochs is 1"),
        ({"kaiwo": {"enabled": True}}, "kaiwo.enabled: true"),
        ({"cpuPerGpu": 8}, "spec.cpuPerGpu: unknown key 'cpuPerGpu' (did you mean cpusPerGpu?)"),
    ],
)
def test_contradictions_and_misspelt_keys(tmp_path, capsys, more, message):
    path = tmp_path / "values.json"
    path.write_text(json.dumps(MINIMAL | more))
    assert main(["convert", str(path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err

"""Problems: all at once, in the order of the file, with places and suggestions. The cases are in tests/schema."""

import subprocess
import sys
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from finetune_api.constants import API_VERSION, KIND
from finetune_api.manifest import load_manifests
from finetune_api.spec import FineTuneJobSpec
from finetune_api.validation import validate_manifest

BROKEN = """\
apiVersion: finetune-operator.io/v1alpha1
kind: FineTuneJob
metadata: {name: broken}
spec:
  basemodel: hf://org/model
  finetuningGpus: 3
  cpuPerGpu: 4
  data_conf:
    training_data: {type: CONCATENATION, datasets: [{path: s3://b/a.jsonl}]}
    validation_data: {type: AUTO_SPLT}
  training_args:
    learning_rate: "2e-5"
    save_strategy: no
    per_device_train_batch_size: 4
  batchsize_conf: {total_train_batch_size: 8}
  peft_conf: {peft_type: LORA, peft_kwargs: {lora_alfa: 3}}
  run_conf: {}
  sft_args: {}
"""


def test_all_problems_at_once_in_the_order_of_the_file() -> None:
    (manifest,) = load_manifests(BROKEN, "broken.yaml")
    found = [(problem.line, problem.path.rpartition(".")[2]) for problem in validate_manifest(manifest)]
    assert found == [
        (7, "cpuPerGpu"),
        (10, "validation_data"),
        (12, "learning_rate"),
        (13, "save_strategy"),
        (14, "per_device_train_batch_size"),
        (15, "max_per_device_train_batch_size"),
        (15, "total_train_batch_size"),
        (16, "lora_alfa"),
    ]


def test_a_problem_reads_as_a_compiler_error() -> None:
    (manifest,) = load_manifests(BROKEN, "broken.yaml")
    first = str(validate_manifest(manifest)[0])
    assert first == "broken.yaml:7:3: error: spec.cpuPerGpu: unknown key 'cpuPerGpu' (did you mean cpusPerGpu?)"


def test_the_model_raises_the_same(spec: dict[str, Any]) -> None:
    """The schema's errors and the rules' in one ValidationError."""
    spec["finetuningGpus"] = 3
    spec["cpuPerGpu"] = 4
    with pytest.raises(ValidationError) as caught:
        FineTuneJobSpec.model_validate(spec)
    places = {error["loc"] for error in caught.value.errors()}
    assert places == {("cpuPerGpu",), ("batchsize_conf", "total_train_batch_size")}


def job(spec: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "job"}, "spec": spec} | changes


@pytest.mark.parametrize(
    ("changes", "path", "said"),
    [
        ({"apiVersion": "v1"}, "apiVersion", API_VERSION),
        ({"kind": "FinetuneJob"}, "kind", KIND),
        ({"metadata": {}}, "metadata.name", "missing"),
        ({"metadata": {"name": 7}}, "metadata.name", "in quotes"),
        ({"metadata": {"name": "Upper"}}, "metadata.name", "a-z"),
        ({"metadata": {"name": "x" * 41}}, "metadata.name", "at most 40"),
        ({"specs": {}}, "specs", "unknown key"),
        ({"spec": None}, "spec", "missing"),
    ],
)
def test_problems_of_the_object(spec: dict[str, Any], changes: dict[str, Any], path: str, said: str) -> None:
    (problem,) = validate_manifest(job(spec, changes))
    assert problem.path == path
    assert said in problem.message


def test_a_generated_name_is_fine(spec: dict[str, Any]) -> None:
    assert validate_manifest(job(spec, {"metadata": {"generateName": "job-"}})) == []


def test_a_key_given_twice(spec: dict[str, Any]) -> None:
    (manifest,) = load_manifests(BROKEN.replace("  run_conf: {}\n", "  run_conf: {}\n  run_conf: {}\n"))
    assert any("given twice" in problem.message for problem in validate_manifest(manifest))


@pytest.mark.parametrize(
    ("line", "path", "said"),
    [
        ("  suspend: off\n", "spec.suspend", "kubectl reads off as false"),
        ("  maxAttempts: 010\n", "spec.maxAttempts", "kubectl reads 010 as 8"),
        ("  ttlSecondsAfterFinished: 86_400\n", "spec.ttlSecondsAfterFinished", "kubectl reads 86_400 as 86400"),
        ("  labels: {on: tuesday}\n", "spec.labels.true", "kubectl reads on as true"),
    ],
)
def test_what_kubectl_reads_in_its_own_way_is_a_warning(spec: dict[str, Any], line: str, path: str, said: str) -> None:
    text = yaml.safe_dump(job(spec, {}), sort_keys=False) + line
    (manifest,) = load_manifests(text)
    (problem,) = validate_manifest(manifest)
    assert (problem.severity, problem.path) == ("warning", path)
    assert said in problem.message


def test_validation_loads_no_training_library() -> None:
    """Starting the CLI must stay cheap: seconds of imports otherwise."""
    code = (
        "import sys, finetune_api.validation, finetune_api.resolve;"
        "heavy = {'torch', 'transformers', 'peft', 'kopf', 'kubernetes', 'numpy', 'jsonschema'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

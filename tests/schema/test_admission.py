"""The CRD on a real apiserver: what every way of writing refuses, CEL's messages, immutability, explain, columns."""

import copy
import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api.manifest import load_manifests

EXAMPLES = Path(__file__).parents[2] / "examples"
Kubectl = Callable[..., Any]


@pytest.fixture
def write(kubectl: Kubectl, namespace: str) -> Callable[..., Any]:
    """Writes a manifest into a namespace of its own: verb and flags, then the manifest."""

    def run(verb: list[str], manifest: dict[str, Any], check: bool = False) -> Any:
        return kubectl(*verb, "-n", namespace, "-f", "-", input=json.dumps(manifest), check=check)

    return run


@pytest.fixture(scope="module")
def post(cluster: Any) -> Iterator[Callable[[dict[str, Any]], tuple[int, str]]]:
    """A strict POST in a dry run, through one `kubectl proxy`: admitted as in earnest, nothing stored."""
    command = [str(cluster.directory / "bin" / "kubectl"), "proxy", "--port=0"]
    environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        address = proxy.stdout.readline().rsplit(" ", 1)[1].strip()
        url = f"http://{address}/apis/finetune-operator.io/v1alpha1/namespaces/default/finetunejobs"

        def run(manifest: dict[str, Any], options: str = "dryRun=All&fieldValidation=Strict") -> tuple[int, str]:
            request = urllib.request.Request(
                f"{url}?{options}", json.dumps(manifest).encode(), {"Content-Type": "application/json"}
            )
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, json.loads(error.read())["message"]

        yield run
        proxy.terminate()


def test_accepted_manifests_are_admitted(post: Callable[..., Any], accepted: dict[str, Any]) -> None:
    code, message = post(accepted["manifest"])
    assert code == 201, message


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_examples_are_admitted(post: Callable[..., Any], path: Path) -> None:
    for manifest in load_manifests(path.read_text(encoding="utf-8"), path.name):
        if manifest.kind == "FineTuneJob":
            code, message = post(manifest.document)
            assert code == 201, message


def test_refused_manifests_are_refused_with_the_message(post: Callable[..., Any], refused: dict[str, Any]) -> None:
    code, message = post(refused["manifest"])
    if refused["admission"] is False:
        assert code == 201, f"admission sees it too, so say it in manifests.yaml: {message}"
    else:
        assert code in (400, 422)
        assert refused["admission"] in message


def test_a_lenient_post_prunes_and_warns(post: Callable[..., Any], base: dict[str, Any]) -> None:
    """Documented: only strict field validation, which kubectl and Helm ask for, refuses an unknown key."""
    base["spec"]["cpuPerGpu"] = 4
    code, stored = post(base, "dryRun=All")
    assert code == 201
    assert "cpuPerGpu" not in stored


@pytest.mark.parametrize(
    "verb",
    [
        pytest.param(["create"], id="create"),
        pytest.param(["apply"], id="client-side apply"),
        pytest.param(["apply", "--server-side"], id="server-side apply"),
        pytest.param(["create", "--validate=warn"], id="lenient"),
    ],
)
def test_a_misspelt_key_is_refused_by_every_way_of_writing(
    write: Callable[..., Any], base: dict[str, Any], verb: list[str]
) -> None:
    base["spec"]["cpuPerGpu"] = 4
    result = write(verb, base)
    if "--validate=warn" in verb:  # who asks for warnings gets them: the key is pruned, visibly
        assert "unknown field" in result.stderr
        assert result.returncode == 0
    else:
        assert result.returncode != 0
        assert "cpuPerGpu" in result.stderr


class TestImmutability:
    """The spec is frozen from the first status until the job ends."""

    @pytest.fixture
    def stored(self, write: Callable[..., Any], base: dict[str, Any]) -> dict[str, Any]:
        write(["create"], base, check=True)
        return base

    @pytest.fixture
    def in_phase(self, kubectl: Kubectl, namespace: str, stored: dict[str, Any]) -> Callable[[str], None]:
        def run(phase: str) -> None:
            patch = json.dumps({"status": {"phase": phase}})
            kubectl("patch", "ftj", "case", "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)

        return run

    @pytest.fixture
    def change(self, kubectl: Kubectl, namespace: str) -> Callable[[dict[str, Any]], Any]:
        def run(spec: dict[str, Any]) -> Any:
            patch = json.dumps({"spec": spec})
            return kubectl("patch", "ftj", "case", "-n", namespace, "--type=merge", "-p", patch, check=False)

        return run

    @pytest.mark.parametrize(
        "phase", ["Pending", "Downloading", "Queued", "Starting", "Training", "Retrying", "Suspended"]
    )
    def test_training_cannot_change_while_the_job_is_underway(
        self, in_phase: Callable[[str], None], change: Callable[..., Any], phase: str
    ) -> None:
        in_phase(phase)
        result = change({"training_args": {"learning_rate": 0.1}})
        assert result.returncode != 0
        assert "training_args cannot change until the job has succeeded or failed" in result.stderr

    @pytest.mark.parametrize(
        "spec",
        [
            pytest.param({"overrides": {"lr_multiplier": 2.0}}, id="adding a section"),
            pytest.param({"finetuningGpus": None}, id="removing a key"),
            pytest.param({"finetuningGpus": 4}, id="changing a key"),
            pytest.param({"env": [{"name": "A", "value": "b"}]}, id="adding a list"),
            pytest.param({"peft_conf": {"peft_type": "LORA", "peft_kwargs": {"r": 4}}}, id="inside a free-form object"),
        ],
    )
    def test_no_way_around(
        self, in_phase: Callable[[str], None], change: Callable[..., Any], spec: dict[str, Any]
    ) -> None:
        in_phase("Training")
        result = change(spec)
        assert result.returncode != 0
        assert f"{next(iter(spec))} cannot change" in result.stderr

    @pytest.mark.parametrize(
        "spec",
        [
            {"suspend": True},
            {"labels": {"team": "b"}},
            {"annotations": {"example.com/a": "b"}},
            {"ttlSecondsAfterFinished": 60},
            {"maxAttempts": 9},
            {"stepTimeoutSeconds": 9},
            {"retryWithSmallerBatch": True},
        ],
        ids=lambda spec: next(iter(spec)),
    )
    def test_what_may_change_may_change(
        self, in_phase: Callable[[str], None], change: Callable[..., Any], spec: dict[str, Any]
    ) -> None:
        in_phase("Training")
        assert change(spec).returncode == 0

    @pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
    def test_an_ended_job_may_change(
        self, in_phase: Callable[[str], None], change: Callable[..., Any], phase: str
    ) -> None:
        in_phase(phase)
        assert change({"training_args": {"learning_rate": 0.1}}).returncode == 0

    def test_before_the_first_status_it_may_change(self, stored: dict[str, Any], change: Callable[..., Any]) -> None:
        assert change({"training_args": {"learning_rate": 0.1}}).returncode == 0


def test_get_shows_the_columns(
    kubectl: Kubectl, namespace: str, write: Callable[..., Any], base: dict[str, Any]
) -> None:
    base["spec"]["queueName"] = "team-a"
    write(["create"], base, check=True)
    status = {
        "phase": "Training",
        "gpus": 2,
        "attempt": 1,
        "progress": {"steps": "12/40", "loss": 1.25, "eta": "3m10s"},
        "mlflow": {"runId": "abc"},
        "conditions": [{"type": "Ready", "status": "False", "reason": "Training", "message": "step 12 of 40"}],
    }
    kubectl(
        "patch",
        "ftj",
        "case",
        "-n",
        namespace,
        "--subresource=status",
        "--type=merge",
        "-p",
        json.dumps({"status": status}),
    )
    head, row = kubectl("get", "ftj", "-n", namespace).stdout.splitlines()
    assert head.split() == ["NAME", "PHASE", "STEP", "LOSS", "ETA", "GPUS", "ATTEMPT", "AGE"]
    assert row.split()[:7] == ["case", "Training", "12/40", "1.25", "3m10s", "2", "1"]
    wide = kubectl("get", "finetunejobs", "-n", namespace, "-o", "wide").stdout
    assert all(text in wide for text in ("hf://org/model", "abc", "team-a"))
    for selector, found in (("spec.queueName=team-a", 1), ("status.phase=Training", 1), ("status.phase=Failed", 0)):
        names = kubectl("get", "ftj", "-n", namespace, "-o", "name", f"--field-selector={selector}").stdout.split()
        assert len(names) == found, selector


def test_the_stored_object_is_the_applied_one(
    kubectl: Kubectl, namespace: str, write: Callable[..., Any], base: dict[str, Any]
) -> None:
    """No defaulting: under GitOps the live object must not differ from the applied one."""
    write(["apply", "--server-side"], base, check=True)
    live = json.loads(kubectl("get", "ftj", "case", "-n", namespace, "-o", "json").stdout)
    assert live["spec"] == base["spec"]


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("spec", "queueName"),
        ("spec.training_args.learning_rate", "learning rate"),
        ("spec.training_args.per_device_train_batch_size", "batchsize_conf.total_train_batch_size"),
        ("spec.data_conf.training_data.datasets.path", "JSONL"),
        ("spec.bucketCredentialsSecret.accessKeyKey", "minio-access-key"),
        ("status.progress.steps", "step/total"),
    ],
)
def test_explain_documents_every_key(kubectl: Kubectl, field: str, text: str) -> None:
    explained = " ".join(kubectl("explain", f"ftj.{field}").stdout.split())
    assert text in explained


def test_every_key_has_a_description(kubectl: Kubectl) -> None:
    crd = json.loads(kubectl("get", "crd", "finetunejobs.finetune-operator.io", "-o", "json").stdout)
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    silent = [path for part in ("spec", "status") for path in _silent(schema[part], part)]
    assert silent == []


def _silent(schema: dict[str, Any], path: str) -> Iterator[str]:
    for key, inner in schema.get("properties", {}).items():
        if not inner.get("description"):
            yield f"{path}.{key}"
        yield from _silent(inner, f"{path}.{key}")
    if "items" in schema:
        yield from _silent(schema["items"], f"{path}[]")


def test_the_crd_upgrades_in_place(kubectl: Kubectl, write: Callable[..., Any], base: dict[str, Any]) -> None:
    """Applying the CRD again leaves objects alone: what was admitted stays readable."""
    write(["create"], copy.deepcopy(base), check=True)
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "crds/finetunejobs.yaml")
    assert kubectl("get", "ftj", "-A", "-o", "name").returncode == 0

"""Both charts in a real cluster: install, `helm test`, upgrade, uninstall; what must survive survives.

The tests are one story on one cluster and run in this order. The namespace enforces the restricted Pod Security
Standard, so the API server itself judges the pods.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

SYSTEM = "finetune-system"
TEAM = "team-a"
NAME = "finetune-operator"
ACCOUNT = f"system:serviceaccount:{SYSTEM}:{NAME}"
CRD = "finetunejobs.finetune-operator.io"

JOB = {
    "basemodel": "hf://org/model",
    "finetuningGpus": 0,
    "suspend": True,
    "finetuning_config": {
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
    },
}


@pytest.fixture(scope="module")
def kube(own_cluster: Any) -> Any:
    """The module's cluster, with the two namespaces that the story plays in."""
    for name in (SYSTEM, TEAM):
        own_cluster.kubectl("create", "namespace", name)
    own_cluster.kubectl("label", "namespace", SYSTEM, "pod-security.kubernetes.io/enforce=restricted")
    return own_cluster


@pytest.fixture(scope="module")
def operator(kube: Any) -> Iterator[Any]:
    """The cluster with the operator and MLflow installed and ready."""
    install(kube, "--set", "mlflow.enabled=true")
    yield kube
    print(kube.kubectl("-n", SYSTEM, "logs", f"deployment/{NAME}", check=False).stdout[-4000:])


def install(kube: Any, *args: str) -> None:
    result = kube.helm(
        "upgrade", "--install", NAME, f"charts/{NAME}", "-n", SYSTEM, "--wait", "--timeout", "4m", *args, check=False
    )
    if result.returncode != 0:
        pods = kube.kubectl("-n", SYSTEM, "describe", "pods", check=False).stdout
        raise AssertionError(f"{result.stdout}{result.stderr}\n{pods[-6000:]}")


def get(kube: Any, kind: str, name: str, namespace: str = TEAM) -> dict[str, Any]:
    return dict(json.loads(kube.kubectl("-n", namespace, "get", kind, name, "-o", "json").stdout))


def eventually(check: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """For what has no condition that `kubectl wait` could wait for."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.5)


def may(kube: Any, user: str, verb: str, resource: str, namespace: str) -> bool:
    plural, _, part = resource.partition("/")
    command = ("auth", "can-i", verb, plural, f"--subresource={part}", "-n", namespace, "--as", user)
    answer = kube.kubectl(*command, check=False)
    return bool(answer.stdout.strip() == "yes")


def test_helm_test_passes_after_the_install(operator: Any) -> None:
    result = operator.helm("test", NAME, "-n", SYSTEM, "--logs", "--timeout", "3m")
    assert "/apis/finetune-operator.io/v1alpha1 serves finetunejobs" in result.stdout
    assert f"ok: http://{NAME}.{SYSTEM}.svc:8081/readyz answers" in result.stdout
    assert f"ok: http://mlflow.{SYSTEM}.svc:5000/health answers" in result.stdout


@pytest.mark.parametrize(
    ("verb", "resource", "namespace", "allowed"),
    [
        ("list", "finetunejobs", TEAM, True),
        ("patch", "finetunejobs/status", TEAM, True),
        ("create", "jobs", TEAM, True),
        ("create", "leases", SYSTEM, True),
        ("create", "leases", TEAM, False),
        ("update", "finetunejobs", TEAM, False),
        ("get", "secrets", TEAM, False),
        ("create", "pods", TEAM, False),
    ],
)
def test_what_the_operator_may_do(operator: Any, verb: str, resource: str, namespace: str, allowed: bool) -> None:
    assert may(operator, ACCOUNT, verb, resource, namespace) is allowed


def test_the_cluster_s_roles_extend_to_jobs(operator: Any) -> None:
    for role in ("view", "edit"):
        operator.kubectl("-n", TEAM, "create", "rolebinding", role, f"--clusterrole={role}", f"--user={role}er")
    eventually(lambda: may(operator, "viewer", "get", "finetunejobs", TEAM), "view may get")
    eventually(lambda: may(operator, "editer", "create", "finetunejobs", TEAM), "edit may create")
    assert not may(operator, "viewer", "create", "finetunejobs", TEAM)
    assert not may(operator, "editer", "update", "finetunejobs/status", TEAM)


def test_a_job_is_installed_and_seen_by_the_operator(operator: Any, tmp_path: Any) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(json.dumps(JOB))
    operator.helm(
        "install", "my-job", "charts/finetune-job", "-n", TEAM, "-f", str(values), "--set", "num_train_epochs=1"
    )
    assert get(operator, "ftj", "my-job")["spec"]["num_train_epochs"] == 1
    operator.kubectl("-n", TEAM, "wait", "--for=condition=Suspended", "ftj/my-job", "--timeout=60s")


@pytest.mark.parametrize(
    ("more", "args", "message"),
    [
        ({"cpuPerGpu": 8}, ["--skip-schema-validation"], "cpuPerGpu"),
        ({"training_args": {"per_device_train_batch_size": 4}}, [], "per_device_train_batch_size"),
        ({"finetuningGpus": 2, "batchSize": 3}, [], "total_train_batch_size"),
    ],
)
def test_the_api_server_refuses_what_helm_s_schema_does_not_see(
    operator: Any, tmp_path: Any, more: dict[str, Any], args: list[str], message: str
) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(json.dumps(JOB | more))
    # Not `install`: Helm remembers the refused release, and its name would be taken the next time.
    command = ("upgrade", "--install", "bad", "charts/finetune-job", "-n", TEAM, "-f", str(values), *args)
    result = operator.helm(*command, check=False)
    assert result.returncode != 0
    assert message in result.stderr
    assert operator.kubectl("-n", TEAM, "get", "ftj", "bad", check=False).returncode != 0


def test_an_upgrade_replaces_the_operator_and_keeps_jobs(operator: Any) -> None:
    before = get(operator, "ftj", "my-job")
    pods = running(operator)
    install(operator, "--reuse-values", "--set", "settings.logLevel=DEBUG")
    eventually(lambda: bool(running(operator)) and not running(operator) & pods, "a new pod works alone")
    after = get(operator, "ftj", "my-job")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["spec"] == before["spec"]


def running(kube: Any) -> set[str]:
    query = ("get", "pods", "-l", "app.kubernetes.io/component=operator", "-o", "name")
    return set(kube.kubectl("-n", SYSTEM, *query).stdout.split())


def test_the_operator_was_never_refused_a_request(operator: Any) -> None:
    log = operator.kubectl("-n", SYSTEM, "logs", f"deployment/{NAME}").stdout
    assert log
    assert "forbidden" not in log.lower()
    assert "Traceback" not in log


def test_uninstalling_keeps_jobs_and_runs_and_a_new_install_takes_them_up(operator: Any) -> None:
    uid = get(operator, "ftj", "my-job")["metadata"]["uid"]
    operator.helm("uninstall", NAME, "-n", SYSTEM, "--wait", "--timeout", "2m")
    assert get(operator, "ftj", "my-job")["metadata"]["uid"] == uid
    assert get(operator, "pvc", "mlflow", SYSTEM)["status"]["phase"] == "Bound"
    left = operator.kubectl("-n", SYSTEM, "get", "deployments,services,roles,rolebindings", "-o", "name").stdout
    assert left.split() == []

    install(operator, "--set", "mlflow.enabled=false")
    assert get(operator, "ftj", "my-job")["metadata"]["uid"] == uid


def test_uninstalling_a_job_removes_it(operator: Any) -> None:
    operator.helm("uninstall", "my-job", "-n", TEAM, "--wait", "--timeout", "1m")
    assert operator.kubectl("-n", TEAM, "get", "ftj", "-o", "name").stdout.split() == []


def test_a_namespaced_operator_sees_its_namespace_only(operator: Any) -> None:
    operator.kubectl("create", "namespace", "team-b")
    values = "watchNamespace=team-b,crds.enabled=false,replicas=0,fullnameOverride=tenant"
    operator.helm("install", "tenant", f"charts/{NAME}", "-n", "team-b", "--set", values)
    account = "system:serviceaccount:team-b:tenant"
    assert may(operator, account, "list", "finetunejobs", "team-b")
    assert not may(operator, account, "list", "finetunejobs", TEAM)
    operator.helm("uninstall", "tenant", "-n", "team-b")
    operator.kubectl("get", "crd", CRD)

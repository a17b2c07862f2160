"""The API server itself judges every pod of ours by the restricted Pod Security Standard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.manifest import load_manifests
from finetune_operator import render
from finetune_operator.builders.network_policy import network_policy
from finetune_operator.plan.validate import request
from finetune_operator.settings import Settings, load

ROOT = Path(__file__).resolve().parents[3]
LEVELS = ("enforce", "warn", "audit")


@pytest.fixture
def restricted(kubectl: Any, namespace: str) -> str:
    """A namespace that takes restricted pods only."""
    labels = (f"pod-security.kubernetes.io/{level}=restricted" for level in LEVELS)
    kubectl("label", "namespace", namespace, *labels)
    return namespace


def admit(kubectl: Any, namespace: str, pods: list[dict[str, Any]]) -> Any:
    """A dry run: every admission plugin judges, nothing is stored."""
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": pods})
    return kubectl("create", "--dry-run=server", "-n", namespace, "-f", "-", input=text, check=False)


def pod_of(number: int, template: dict[str, Any]) -> dict[str, Any]:
    """The pod that a controller would make. Its account is no matter of Pod Security, and need not exist."""
    metadata = {"name": f"pod-{number}", "labels": template["metadata"].get("labels", {})}
    metadata["annotations"] = template["metadata"].get("annotations") or {}
    spec = {**template["spec"], "serviceAccountName": "default"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def templates(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one if one["kind"] == "Pod" else one["spec"]["template"] for one in objects if one["kind"] in KINDS]


KINDS = ("Pod", "Job", "Deployment")


def test_pods_of_jobs_and_charts_are_admitted_as_restricted(kubectl: Any, restricted: str, rendered: Any) -> None:
    found: list[dict[str, Any]] = []
    examples = sorted((ROOT / "examples").rglob("*.yaml"))
    for path in examples:
        for manifest in load_manifests(path.read_text(encoding="utf-8")):
            if manifest.kind == "FineTuneJob":
                spec = {**manifest.spec, "env": [{"name": "A", "value": "$(id)"}], "annotations": {"a": "b"}}
                spec.pop("runtimeClassName", None)  # it and a priority class would have to exist
                spec.pop("priorityClassName", None)
                labels = {spec["acceleratorType"]: {"gpu": "x"}} if spec.get("acceleratorType") else {}
                found += templates(render(spec, "demo", restricted, Settings(accelerator_labels=labels)))
    assert len(found) > 20
    for values in sorted((ROOT / "charts/finetune-operator/ci").glob("*-values.yaml")):
        charts = templates(rendered("fo", restricted, "-f", str(values)))
        assert charts
        found += charts
    result = admit(kubectl, restricted, [pod_of(number, template) for number, template in enumerate(found)])
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("created (server dry run)") == len(found)
    assert "would violate" not in result.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"securityContext": {}}, "runAsNonRoot"),
        ({"hostNetwork": True}, "host namespaces"),
        ({"volumes": [{"name": "root", "hostPath": {"path": "/"}}]}, "hostPath"),
    ],
)
def test_the_namespace_does_refuse_others(kubectl: Any, restricted: str, change: dict[str, Any], said: str) -> None:
    """That the test above could fail."""
    spec = {"containers": [{"name": "a", "image": "a"}], **change}
    result = admit(kubectl, restricted, [pod_of(1, {"metadata": {}, "spec": spec})])
    assert result.returncode != 0
    assert said in result.stderr


def test_the_network_policy_of_a_job_is_a_valid_one(kubectl: Any, namespace: str, rendered: Any) -> None:
    """As the chart tells the operator to make it, with everything at once."""
    values = ROOT / "charts/finetune-operator/ci/production-values.yaml"
    operator = next(one for one in rendered("fo", namespace, "-f", str(values)) if one["kind"] == "Deployment")
    variables = operator["spec"]["template"]["spec"]["containers"][0]["env"]
    settings = load({one["name"]: one["value"] for one in variables if "value" in one})
    example = load_manifests((ROOT / "examples/quickstart.yaml").read_text(encoding="utf-8"))
    spec = next(manifest.spec for manifest in example if manifest.kind == "FineTuneJob")
    policy = network_policy(request(spec, "demo", namespace, "uid-1", settings))
    result = admit(kubectl, namespace, [policy])
    assert result.returncode == 0, result.stderr
    peers = policy["spec"]["ingress"][0]["from"]
    assert len(peers) == 2  # the operator, and who scrapes metrics
    assert {"cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"]} in [
        peer.get("ipBlock") for peer in policy["spec"]["egress"][0]["to"]
    ]

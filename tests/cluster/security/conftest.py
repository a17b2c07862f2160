"""The charts' rights and pods on a real API server, without running anything: RBAC and Pod Security are its own."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api.manifest import load_manifests

ROOT = Path(__file__).resolve().parents[3]
Object = dict[str, Any]
RBAC = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")


@pytest.fixture(scope="session")
def rendered(helm: Any) -> Callable[..., list[Object]]:
    """rendered(release, namespace, *helm_args): what Helm would send of the operator's chart."""

    def run(release: str, namespace: str, *args: str) -> list[Object]:
        text = helm("template", release, "charts/finetune-operator", "--namespace", namespace, *args).stdout
        return [manifest.document for manifest in load_manifests(text)]

    return run


@pytest.fixture
def second_namespace(kubectl: Any) -> Iterator[str]:
    name = f"test-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false", check=False)


@pytest.fixture
def granted(kubectl: Any, namespace: str, rendered: Any) -> Iterator[Callable[..., str]]:
    """granted(*helm_args): applies the chart's accounts and roles in the namespace; the operator's user name."""
    made: list[str] = []

    def apply(*args: str) -> str:
        release = namespace  # cluster-wide objects of tests in parallel must not share a name
        objects = [one for one in rendered(release, namespace, *args) if one["kind"] in RBAC]
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        kubectl("apply", "-f", "-", input=text)
        made.append(text)
        return f"system:serviceaccount:{namespace}:{release}-finetune-operator"

    yield apply
    for text in made:
        kubectl("delete", "--ignore-not-found", "--wait=false", "-f", "-", input=text, check=False)

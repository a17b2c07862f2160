"""Fixtures for the tests of localcluster itself: make a pod, wait for what it becomes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True)
class Namespace:
    """kubectl bound to one namespace, with the few verbs that these tests need."""

    name: str
    kubectl: Run

    def __call__(self, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.kubectl("--namespace", self.name, *args, **options)

    def apply(self, *objects: dict[str, Any]) -> None:
        self("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        return json.loads(self("get", kind, name, "-o", "json").stdout)

    def wait(self, target: str, condition: str, timeout: int = 60) -> None:
        """Wait for a condition (Ready) or a jsonpath (`{.status.phase}=Running`)."""
        form = f"jsonpath={condition}" if condition.startswith("{") else f"condition={condition}"
        self("wait", target, f"--for={form}", f"--timeout={timeout}s", timeout=timeout + 30)

    def run(
        self, name: str, command: list[str], *, phase: str = "", container: dict[str, Any] | None = None, **spec: Any
    ) -> dict[str, Any]:
        """Create a pod of one container and wait for its phase, if one is given."""
        self.apply(pod(name, command, container=container, **spec))
        if phase:
            self.wait(f"pod/{name}", "{.status.phase}=" + phase)
        return self.get("pod", name)


def pod(
    name: str,
    command: list[str],
    *,
    container: dict[str, Any] | None = None,
    labels: dict[str, str] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """A pod manifest: one container `main` of busybox that is not restarted, unless the caller says otherwise."""
    main = {"name": "main", "image": "busybox", "command": command, **(container or {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [main], **spec},
    }


@pytest.fixture
def space(namespace: str, kubectl: Run) -> Namespace:
    return Namespace(namespace, kubectl)


@pytest.fixture(scope="session")
def make_pod() -> Callable[..., dict[str, Any]]:
    return pod

"""Claims get folders: at once, when a pod is there, or never; and give them back."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def claim(name: str, storage_class: str | None = None) -> dict[str, Any]:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    if storage_class:
        spec["storageClassName"] = storage_class
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def user(claim_name: str) -> dict[str, Any]:
    return {
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim_name}}],
        "container": {"volumeMounts": [{"name": "v", "mountPath": "/v"}]},
    }


def test_data_outlives_the_pod_and_goes_with_the_claim(space, kubectl):
    space.apply(claim("data"))
    space.wait("pvc/data", "{.status.phase}=Bound")
    space.run("writer", ["sh", "-c", "echo kept > /v/word"], phase="Succeeded", **user("data"))
    space("delete", "pod", "writer")
    space.run("reader", ["cat", "/v/word"], phase="Succeeded", **user("data"))
    assert space("logs", "reader").stdout == "kept\n"
    volume = space.get("pvc", "data")["spec"]["volumeName"]
    folder = Path(kubectl("get", "pv", volume, "-o", "jsonpath={.spec.hostPath.path}").stdout)
    assert (folder / "word").read_text() == "kept\n"
    space("delete", "pod", "reader")
    space("delete", "pvc", "data")
    kubectl("wait", "--for=delete", f"pv/{volume}", "--timeout=60s")
    assert not folder.exists()


def test_a_claim_that_waits_for_its_pod_binds_with_it(space):
    space.apply(claim("later", "local-wait"))
    space.wait("pvc/later", "{.status.phase}=Pending")
    assert "volumeName" not in space.get("pvc", "later")["spec"]
    space.run("first", ["touch", "/v/x"], phase="Succeeded", **user("later"))
    assert space.get("pvc", "later")["status"]["phase"] == "Bound"


def test_a_claim_of_an_unknown_class_stays_pending(space):
    space.apply(claim("never", "no-such-class"), claim("at-once"))
    space.wait("pvc/at-once", "{.status.phase}=Bound")
    assert space.get("pvc", "never")["status"]["phase"] == "Pending"

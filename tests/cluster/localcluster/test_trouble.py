"""What is missing is said in the pod's state and events, as on a real node, and mends itself when it appears."""

from __future__ import annotations

import pytest


def waiting(space, pod: str) -> dict[str, str]:
    return space.get("pod", pod)["status"]["containerStatuses"][0]["state"]["waiting"]


def test_an_unknown_image_cannot_be_pulled(space):
    space.run("unknown", ["true"], container={"image": "registry.example/no/such:1"})
    space.wait("pod/unknown", "{.status.containerStatuses[0].state.waiting.reason}=ImagePullBackOff")
    assert "registry.example/no/such:1" in waiting(space, "unknown")["message"]
    description = space("describe", "pod", "unknown").stdout
    assert "Error: ErrImagePull" in description
    assert "Back-off pulling image" in description
    assert space.get("pod", "unknown")["status"]["phase"] == "Pending"


def key_ref(kind: str) -> dict:
    return {"env": [{"name": "X", "valueFrom": {kind: {"name": "wanted", "key": "k"}}}]}


@pytest.mark.parametrize(
    ("kind", "reference", "message"),
    [
        ("Secret", "secretKeyRef", 'secret "wanted" not found'),
        ("ConfigMap", "configMapKeyRef", 'configmap "wanted" not found'),
    ],
)
def test_a_missing_reference_is_named_and_the_pod_starts_when_it_appears(space, kind, reference, message):
    space.run("waiting", ["printenv", "X"], container=key_ref(reference))
    space.wait("pod/waiting", "{.status.containerStatuses[0].state.waiting.reason}=CreateContainerConfigError")
    assert waiting(space, "waiting")["message"] == message
    data = {"stringData" if kind == "Secret" else "data": {"k": "here"}}
    space.apply({"apiVersion": "v1", "kind": kind, "metadata": {"name": "wanted"}, **data})
    space.wait("pod/waiting", "{.status.phase}=Succeeded")
    assert space("logs", "waiting").stdout == "here\n"


def test_a_missing_key_is_named(space):
    space.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "wanted"}, "stringData": {"other": "x"}})
    space.run("keyless", ["true"], container=key_ref("secretKeyRef"))
    space.wait("pod/keyless", "{.status.containerStatuses[0].state.waiting.reason}=CreateContainerConfigError")
    assert waiting(space, "keyless")["message"] == f"couldn't find key k in Secret {space.name}/wanted"


def test_a_volume_of_a_missing_secret_is_not_mounted(space):
    volume = {"name": "s", "secret": {"secretName": "none"}}
    space.run("unmounted", ["true"], volumes=[volume], container={"volumeMounts": [{"name": "s", "mountPath": "/s"}]})
    space("wait", "pod/unmounted", "--for=condition=PodScheduled", "--timeout=30s")
    space.wait("pod/unmounted", "{.status.containerStatuses[0].state.waiting.reason}=ContainerCreating")
    assert (
        'MountVolume.SetUp failed for volume "s" : secret "none" not found'
        in space("describe", "pod", "unmounted").stdout
    )
    space.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "none"}})
    space.wait("pod/unmounted", "{.status.phase}=Succeeded")

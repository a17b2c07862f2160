"""Pods are real processes that see what their manifest says and end as a kubelet would report it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

SHELL = ["sh", "-c"]


def ended(pod: dict[str, Any]) -> dict[str, Any]:
    return pod["status"]["containerStatuses"][0]["state"]["terminated"]


def test_the_node_is_ready_and_offers_gpus_of_both_makers(kubectl):
    node = json.loads(kubectl("get", "node", "local", "-o", "json").stdout)
    ready = [c["status"] for c in node["status"]["conditions"] if c["type"] == "Ready"]
    assert ready == ["True"]
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "8"
    assert node["status"]["allocatable"]["amd.com/gpu"] == "8"
    assert "taints" not in node["spec"]


def test_gpus_are_counted_by_the_scheduler(space):
    def holder(name: str, count: int) -> None:
        limits = {"limits": {"nvidia.com/gpu": count}}
        space.run(name, ["sleep", "600"], container={"resources": limits}, terminationGracePeriodSeconds=0)

    holder("eight", 8)
    space.wait("pod/eight", "{.status.phase}=Running")
    holder("one-more", 1)
    space.wait("pod/one-more", "{.status.conditions[?(@.type=='PodScheduled')].reason}=Unschedulable")
    space("delete", "pod", "eight")
    space.wait("pod/one-more", "{.status.phase}=Running")


def test_environment_comes_from_every_source(space):
    space.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "settings"},
            "data": {"level": "high", "MODE": "fast"},
        },
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"token": "s3cret"}},
    )
    environment = [
        {"name": "PLAIN", "value": "one"},
        {"name": "EXPANDED", "value": "$(PLAIN)-$(IP)-$$(PLAIN)"},
        {"name": "LEVEL", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "level"}}},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['color']"}}},
        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu"}}},
        {"name": "ABSENT", "valueFrom": {"secretKeyRef": {"name": "none", "key": "none", "optional": True}}},
    ]
    ip = {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    pod = space.run(
        "env",
        [*SHELL, 'echo "$PLAIN|$EXPANDED|$LEVEL|$TOKEN|$NODE|$LABEL|$CPU|$MODE|${ABSENT-unset}|$0"', "$(PLAIN)"],
        phase="Succeeded",
        labels={"color": "blue"},
        container={
            "env": [ip, *environment],
            "envFrom": [{"configMapRef": {"name": "settings"}}],
            "resources": {"requests": {"cpu": "2"}},
        },
    )
    address = pod["status"]["podIP"]
    assert address.startswith("127.")
    assert space("logs", "env").stdout.strip() == f"one|one-{address}-$(PLAIN)|high|s3cret|local|blue|2|fast|unset|one"


def test_volumes_hold_what_they_say(space):
    space.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "files"},
            "data": {"a": "from a", "b": "from b"},
        },
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"k": "secret"}},
    )
    script = """
    cat /config/renamed /alone /all/k /all/name; ls /config
    stat -L -c %a /config/renamed
    touch /config/x 2>/dev/null || echo config is read-only
    touch /scratch/sub/x && echo scratch is writable
    touch /frozen/x 2>/dev/null || echo frozen is read-only
    """
    volumes = [
        {"name": "config", "configMap": {"name": "files", "items": [{"key": "a", "path": "renamed", "mode": 0o400}]}},
        {"name": "whole", "configMap": {"name": "files"}},
        {"name": "all", "projected": {"sources": [
            {"secret": {"name": "keys"}},
            {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        ]}},
        {"name": "scratch", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
    ]  # fmt: skip
    mounts = [
        {"name": "config", "mountPath": "/config"},
        {"name": "whole", "mountPath": "/alone", "subPath": "b"},
        {"name": "all", "mountPath": "/all"},
        {"name": "scratch", "mountPath": "/scratch/sub", "subPath": "below"},
        {"name": "memory", "mountPath": "/frozen", "readOnly": True},
    ]
    space.run("mounts", [*SHELL, script], phase="Succeeded", volumes=volumes, container={"volumeMounts": mounts})
    assert space("logs", "mounts").stdout == (
        "from afrom bsecretmountsrenamed\n400\nconfig is read-only\nscratch is writable\nfrozen is read-only\n"
    )


def test_a_service_account_token_opens_the_api(space):
    script = """
import os, ssl, urllib.request
folder = "/var/run/secrets/kubernetes.io/serviceaccount/"
address = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}/apis"
token = open(folder + "token").read()
request = urllib.request.Request(address, headers={"Authorization": "Bearer " + token})
context = ssl.create_default_context(cafile=folder + "ca.crt")
print(urllib.request.urlopen(request, context=context).status, open(folder + "namespace").read())
"""
    space.run(
        "token",
        ["python", "-c", script],
        phase="Succeeded",
        container={"image": "finetune-operator/trainer:any"},
        automountServiceAccountToken=True,
    )
    assert space("logs", "token").stdout == f"200 {space.name}\n"


def test_restricted_pods_run_as_their_user_on_a_read_only_root(space):
    kubernetes_default = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    space("label", "namespace", space.name, "pod-security.kubernetes.io/enforce=restricted")
    script = "id -u; id -g; touch /x 2>/dev/null || echo read-only; touch /data/x && stat -c %u /data/x"
    space.run(
        "restricted",
        [*SHELL, script],
        phase="Succeeded",
        securityContext={
            "runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 2000, "seccompProfile": {"type": "RuntimeDefault"}
        },
        container={"securityContext": kubernetes_default, "volumeMounts": [{"name": "data", "mountPath": "/data"}]},
        volumes=[{"name": "data", "emptyDir": {}}],
    )  # fmt: skip
    assert space("logs", "restricted").stdout.split() == ["1000", "2000", "read-only", "1000"]
    refused = space("run", "open", "--image=busybox", check=False)
    assert refused.returncode != 0
    assert "violates PodSecurity" in refused.stderr


def test_a_root_image_is_refused_where_the_pod_must_not_be_root(space):
    space.run("rooted", ["true"], securityContext={"runAsNonRoot": True})
    space.wait("pod/rooted", "{.status.containerStatuses[0].state.waiting.reason}=CreateContainerConfigError")
    message = space.get("pod", "rooted")["status"]["containerStatuses"][0]["state"]["waiting"]["message"]
    assert "container has runAsNonRoot and image will run as root" in message


def test_init_containers_run_in_order_before_the_others(space):
    def step(name: str) -> dict[str, Any]:
        return {
            "name": name, "image": "busybox", "command": [*SHELL, f"echo {name} >> /shared/order"],
            "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
        }  # fmt: skip

    pod = space.run(
        "ordered",
        [*SHELL, "cat /shared/order"],
        phase="Succeeded",
        initContainers=[step("first"), step("second")],
        volumes=[{"name": "shared", "emptyDir": {}}],
        container={"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]},
    )
    assert space("logs", "ordered").stdout == "first\nsecond\n"
    assert [s["state"]["terminated"]["reason"] for s in pod["status"]["initContainerStatuses"]] == ["Completed"] * 2


def test_a_failing_init_container_fails_the_pod(space):
    broken = {"name": "broken", "image": "busybox", "command": [*SHELL, "exit 7"]}
    pod = space.run("uninitialized", ["true"], phase="Failed", initContainers=[broken])
    assert pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 7
    assert "waiting" in pod["status"]["containerStatuses"][0]["state"]


@pytest.mark.parametrize(
    ("name", "script", "code", "reason"),
    [
        ("zero", "exit 0", 0, "Completed"),
        ("data", "exit 65", 65, "Error"),
        ("interrupted", "exit 75", 75, "Error"),
        # PID 1 ignores signals that it has no handler for, so a child is killed and its status passed on.
        # Kubernetes reads $$ as an escaped dollar sign.
        ("killed", "sh -c 'kill -9 $$$$'; exit $?", 137, "Error"),
    ],
)
def test_exit_codes_are_reported(space, name, script, code, reason):
    pod = space.run(name, [*SHELL, script], phase="Succeeded" if code == 0 else "Failed")
    assert (ended(pod)["exitCode"], ended(pod)["reason"]) == (code, reason)


def test_a_command_that_does_not_exist_is_a_start_error(space):
    pod = space.run("nothing", ["no-such-command"], phase="Failed")
    assert (ended(pod)["exitCode"], ended(pod)["reason"]) == (128, "StartError")
    assert "no-such-command" in ended(pod)["message"]


@pytest.mark.parametrize(
    ("name", "script", "options", "message"),
    [
        ("file", "echo -n done > /dev/termination-log", {}, "done"),
        ("path", "echo -n there > /my/log", {"terminationMessagePath": "/my/log"}, "there"),
        ("silent", "echo words; exit 1", {}, None),
        ("fallback", "echo words; exit 1", {"terminationMessagePolicy": "FallbackToLogsOnError"}, "words\n"),
        ("success", "echo words", {"terminationMessagePolicy": "FallbackToLogsOnError"}, None),
        ("long", "head -c 9000 /dev/zero | tr '\\0' x > /dev/termination-log", {}, "x" * 4096),
    ],
)
def test_termination_messages(space, name, script, options, message):
    phase = "Failed" if "exit 1" in script else "Succeeded"
    pod = space.run(name, [*SHELL, script], phase=phase, container=options)
    assert ended(pod).get("message") == message


def test_deletion_sends_sigterm_to_pid_1_and_waits_for_it(space, kubectl):
    script = "trap 'echo -n saved > /data/word; exit 75' TERM; echo ready; while :; do sleep 0.1; done"
    claim = {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "kept"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }  # fmt: skip
    data = {
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "kept"}}],
        "container": {"volumeMounts": [{"name": "data", "mountPath": "/data"}]},
    }
    space.apply(claim)
    space.run("graceful", [*SHELL, script], phase="Running", **data)
    follow_until(space, "graceful", "ready")
    began = time.monotonic()
    space("delete", "pod", "graceful")
    assert time.monotonic() - began < 15, "the pod ended well before its 30 s of grace"
    space.run("reader", ["cat", "/data/word"], phase="Succeeded", **data)
    assert space("logs", "reader").stdout == "saved"


def test_a_pod_that_ignores_sigterm_is_killed_when_grace_is_over(space):
    pod = space.run("stubborn", ["sleep", "600"], phase="Running", terminationGracePeriodSeconds=2)
    assert "127." in pod["status"]["podIP"]
    began = time.monotonic()
    space("delete", "pod", "stubborn", "--wait")
    assert 1.5 < time.monotonic() - began < 15


def test_active_deadline_ends_a_pod(space):
    pod = space.run(
        "late", [*SHELL, "trap 'exit 0' TERM; while :; do sleep 0.1; done"], phase="Failed", activeDeadlineSeconds=1
    )
    assert pod["status"]["reason"] == "DeadlineExceeded"


def test_a_failing_container_is_restarted_with_back_off(space):
    space.run("crashing", [*SHELL, "echo again; exit 3"], restartPolicy="OnFailure")
    space.wait("pod/crashing", "{.status.containerStatuses[0].state.waiting.reason}=CrashLoopBackOff")
    status = space.get("pod", "crashing")["status"]
    assert status["phase"] == "Running"
    assert status["containerStatuses"][0]["restartCount"] >= 1
    assert status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 3
    assert space("logs", "crashing", "--previous").stdout == "again\n"


def test_a_sidecar_runs_beside_the_others_and_ends_after_them(space):
    script = "trap 'exit 0' TERM; touch /shared/up; while :; do sleep 0.1; done"
    mounts = [{"name": "shared", "mountPath": "/shared"}]
    sidecar = {
        "name": "side", "image": "busybox", "restartPolicy": "Always", "command": [*SHELL, script],
        "volumeMounts": mounts,
        "startupProbe": {"exec": {"command": ["test", "-e", "/shared/up"]}, "periodSeconds": 1},
    }  # fmt: skip
    pod = space.run(
        "accompanied", ["test", "-e", "/shared/up"], phase="Succeeded",
        initContainers=[sidecar], volumes=[{"name": "shared", "emptyDir": {}}], container={"volumeMounts": mounts},
    )  # fmt: skip
    assert "terminated" in pod["status"]["initContainerStatuses"][0]["state"]


def test_readiness_and_liveness_probes(space):
    # Serves on its own address: ready after a second. Removing /tmp/alive makes the liveness probe fail.
    script = "touch /tmp/alive; exec python -m http.server 8000 --bind $POD_IP --directory /tmp"
    space.run(
        "probed",
        [*SHELL, script],
        restartPolicy="Always",
        terminationGracePeriodSeconds=1,
        container={
            "image": "finetune-operator/trainer",
            "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            "ports": [{"name": "web", "containerPort": 8000}],
            "startupProbe": {"tcpSocket": {"port": "web"}, "periodSeconds": 1, "failureThreshold": 30},
            "readinessProbe": {"httpGet": {"path": "/alive", "port": "web"}, "periodSeconds": 1},
            "livenessProbe": {
                "exec": {"command": ["test", "-e", "/tmp/alive"]}, "periodSeconds": 1, "failureThreshold": 2
            },
        },
    )  # fmt: skip
    space.wait("pod/probed", "Ready")
    space("exec", "probed", "--", "rm", "/tmp/alive")
    space.wait("pod/probed", "{.status.containerStatuses[0].restartCount}=1")
    space.wait("pod/probed", "Ready")
    assert "Liveness probe failed" in space("describe", "pod", "probed").stdout


def follow_until(space, pod: str, word: str) -> None:
    """Return once the pod has said the word."""
    space.wait(f"pod/{pod}", "{.status.phase}=Running")
    for _ in range(100):
        if word in space("logs", pod).stdout:
            return
        time.sleep(0.1)
    raise AssertionError(f"{pod} never said {word}")

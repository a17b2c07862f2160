"""Reading logs, running commands in pods, forwarding ports, and finding services by name."""

from __future__ import annotations

import os
import re
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

POD_IP = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}


def server(label: str) -> dict[str, Any]:
    script = "mkdir /tmp/w; cd /tmp/w; echo -n $HOSTNAME > name; exec python -m http.server 8000 --bind $POD_IP"
    return {
        "command": ["sh", "-c", script], "labels": {"app": label}, "terminationGracePeriodSeconds": 0,
        "container": {
            "image": "finetune-operator/trainer", "env": [POD_IP],
            "readinessProbe": {"httpGet": {"path": "/name", "port": 8000}, "periodSeconds": 1},
        },
    }  # fmt: skip


def service(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 8000}], **spec},
    }  # fmt: skip


def test_logs_follow_tail_and_carry_times(space):
    space.run("talker", ["sh", "-c", "for i in 1 2 3 4; do echo line $i; sleep 0.5; done; echo oops >&2"])
    space.wait("pod/talker", "{.status.containerStatuses[0].started}=true")
    followed = space("logs", "-f", "talker").stdout
    assert followed == "line 1\nline 2\nline 3\nline 4\noops\n"
    assert space("logs", "talker", "--tail=2").stdout == "line 4\noops\n"
    assert re.match(r"\d{4}-\d\d-\d\dT\S+Z line 1\n", space("logs", "talker", "--timestamps").stdout)


def test_commands_run_inside_a_container(space):
    space.run("host", ["sleep", "600"], phase="Running", terminationGracePeriodSeconds=0)
    assert space("exec", "-i", "host", "--", "sh", "-c", "cat; hostname", input="typed\n").stdout == "typed\nhost\n"
    failed = space("exec", "host", "--", "sh", "-c", "exit 9", check=False)
    assert failed.returncode == 9


def test_service_names_lead_to_ready_pods(space):
    space.apply(service("web"))
    space.run("backend", **server("web"))
    space.wait("pod/backend", "Ready")
    script = """
import socket, time, urllib.request
for name in ("web", "web.NS", "web.NS.svc", "web.NS.svc.cluster.local"):
    for _ in range(100):
        try:
            print(urllib.request.urlopen(f"http://{name}:8000/name").read().decode())
            break
        except OSError:
            time.sleep(0.1)
print(socket.gethostbyname(socket.gethostname()))
""".replace("NS", space.name)
    pod = space.run(
        "client", ["python", "-c", script], phase="Succeeded", container={"image": "finetune-operator/trainer"}
    )
    assert space("logs", "client").stdout.split() == ["backend"] * 4 + [pod["status"]["podIP"]]


def test_pods_of_a_headless_service_have_names_before_they_are_ready(space):
    space.apply(service("group", clusterIP="None", publishNotReadyAddresses=True))
    member = {"labels": {"app": "group"}, "subdomain": "group", "terminationGracePeriodSeconds": 0}
    space.run("m-0", ["sh", "-c", "until getent hosts m-1.group; do sleep 0.1; done"], hostname="m-0", **member)
    other = space.run("m-1", ["sleep", "600"], hostname="m-1", phase="Running", **member)
    space.wait("pod/m-0", "{.status.phase}=Succeeded")
    assert space("logs", "m-0").stdout.split()[0] == other["status"]["podIP"]


def test_ports_are_forwarded(space, kubeconfig: Path):
    space.run("backend", **server("web"))
    space.wait("pod/backend", "Ready")
    kubectl = str(kubeconfig.parent / "bin" / "kubectl")
    with subprocess.Popen(
        [kubectl, "--namespace", space.name, "port-forward", "pod/backend", ":8000"],
        env={**os.environ, "KUBECONFIG": str(kubeconfig)}, stdout=subprocess.PIPE, text=True,
    ) as forward:  # fmt: skip
        try:
            assert forward.stdout is not None
            port = re.search(r"127.0.0.1:(\d+)", forward.stdout.readline())
            assert port
            assert urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/name", timeout=10).read() == b"backend"
        finally:
            forward.kill()

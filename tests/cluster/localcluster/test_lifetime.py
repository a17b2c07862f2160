"""A cluster starts once, keeps its state, and leaves no process behind, however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BINARY = ROOT / ".cache" / "localcluster" / "localcluster"


def localcluster(*args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(BINARY), *args], capture_output=True, text=True, check=check, cwd=ROOT, timeout=180)


def processes(directory: Path) -> list[str]:
    """Commands of the live processes of a cluster: its components, its pods' bubblewraps and what runs in them."""
    result = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            marks = command + (entry / "environ").read_bytes().decode(errors="replace")
        except (OSError, ProcessLookupError):
            continue
        if str(directory) in command or f"MARK={directory}" in marks:
            result.append(command)
    return result


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.1)


class Cluster:
    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def kubectl(self, *args: str, input: str | None = None) -> str:
        command = [str(self.directory / "bin" / "kubectl"), "--kubeconfig", str(self.directory / "kubeconfig"), *args]
        return subprocess.run(command, input=input, capture_output=True, text=True, check=True, timeout=90).stdout

    def supervisor(self) -> int:
        return int((self.directory / "lock").read_text())


@pytest.fixture(scope="module")
def cluster_with_pod(tmp_path_factory, make_pod) -> Iterator[Cluster]:
    """A cluster of this module's own, with a running pod whose processes can be told by their environment."""
    directory = tmp_path_factory.mktemp("lifetime")
    cluster = Cluster(directory)
    try:
        localcluster("up", "--dir", str(directory))
        until(lambda: "default" in cluster.kubectl("get", "serviceaccounts", "-o", "name"))
        # A grandchild that ignores polite signals must go too.
        script = "trap '' TERM HUP; sleep 1000 & wait"
        manifest = make_pod(
            "runner", ["sh", "-c", script], restartPolicy="Always",
            container={"env": [{"name": "MARK", "value": str(directory)}]},
        )  # fmt: skip
        cluster.kubectl("apply", "-f", "-", input=json.dumps(manifest))
        cluster.kubectl("wait", "pod/runner", "--for=condition=Ready", "--timeout=60s")
        yield cluster
    finally:
        localcluster("down", "--dir", str(directory), check=False)


def test_a_second_up_finds_the_cluster_running(cluster_with_pod):
    directory, supervisor = cluster_with_pod.directory, cluster_with_pod.supervisor()
    localcluster("up", "--dir", str(directory))
    assert cluster_with_pod.supervisor() == supervisor
    assert localcluster("status", "--dir", str(directory)).stdout.startswith("running")


def test_two_clusters_run_side_by_side(cluster_with_pod, cluster):
    own = json.loads((cluster_with_pod.directory / "cluster.json").read_text())
    shared = json.loads((cluster.directory / "cluster.json").read_text())
    assert own["subnet"] != shared["subnet"]
    assert cluster.kubectl("get", "--raw", "/readyz").stdout == "ok"


def test_killing_the_supervisor_leaves_no_process(cluster_with_pod):
    directory = cluster_with_pod.directory
    before = " ".join(processes(directory))
    assert all(name in before for name in ("etcd", "kube-apiserver", "kube-controller-manager", "bwrap", "sleep 1000"))
    os.kill(cluster_with_pod.supervisor(), signal.SIGKILL)
    until(lambda: processes(directory) == [])
    assert localcluster("status", "--dir", str(directory), check=False).returncode == 1


def test_a_cluster_goes_on_where_it_was_killed(cluster_with_pod):
    localcluster("up", "--dir", str(cluster_with_pod.directory))
    cluster_with_pod.kubectl(
        "wait", "pod/runner", "--for=jsonpath={.status.containerStatuses[0].restartCount}=1", "--timeout=60s"
    )
    cluster_with_pod.kubectl("wait", "pod/runner", "--for=condition=Ready", "--timeout=60s")
    pod = json.loads(cluster_with_pod.kubectl("get", "pod", "runner", "-o", "json"))
    last = pod["status"]["containerStatuses"][0]["lastState"]["terminated"]
    assert (last["exitCode"], last["reason"]) == (137, "ContainerStatusUnknown")


def test_a_component_that_dies_ends_the_cluster_and_is_named(cluster_with_pod):
    directory = cluster_with_pod.directory
    found = subprocess.run(
        ["pgrep", "-f", f"kube-scheduler .*{directory}"], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(found[0]), signal.SIGKILL)
    until(lambda: processes(directory) == [])
    assert "kube-scheduler ended" in (directory / "logs" / "supervisor.log").read_text()


def test_down_ends_everything_and_purge_forgets_it(cluster_with_pod):
    directory = cluster_with_pod.directory
    localcluster("up", "--dir", str(directory))
    localcluster("down", "--dir", str(directory))
    assert processes(directory) == []
    assert (directory / "etcd").exists()
    localcluster("down", "--purge", "--dir", str(directory))
    assert sorted(path.name for path in directory.iterdir()) == ["bin"]


def test_ctrl_c_ends_a_cluster_in_the_foreground(tmp_path):
    with subprocess.Popen(
        [str(BINARY), "run", "--dir", str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as run:
        assert run.stdout is not None
        assert any(line.strip() == "ready" for line in run.stdout), "it ended before it was ready"
        run.send_signal(signal.SIGINT)
        assert run.wait(timeout=30) == 0
    assert processes(tmp_path) == []


def test_up_says_what_is_wrong(tmp_path):
    failed = localcluster("up", "--dir", str(tmp_path), "--project", str(tmp_path), check=False)
    assert failed.returncode == 1
    assert "has no localcluster/images.yaml" in failed.stderr
    assert localcluster("up", "elsewhere", check=False).returncode == 1

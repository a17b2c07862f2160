"""The demo's cluster: the local one or the one of the kubeconfig, with kubectl and helm bound to it.

Everything that differs between the two kinds is here: on the local cluster a pod's address is reachable from this
machine, on any other `kubectl port-forward` makes a way in.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_cli.commands import Commands
from finetune_cli.errors import CliError
from finetune_cli.steps import Step

FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")
FORWARD_TIMEOUT = 20.0


@dataclass(frozen=True)
class Cluster:
    """A cluster and its clients; `directory` is the local cluster's state, None for any other cluster."""

    commands: Commands
    kubectl_command: tuple[str, ...]
    helm_command: tuple[str, ...]
    kubeconfig: Path | None
    context: str | None
    directory: Path | None

    @property
    def is_local(self) -> bool:
        return self.directory is not None

    def kubectl(self, *args: str, input: str | None = None, check: bool = True) -> str:
        """What `kubectl ARGS` prints. Raises CliError if it fails (unless not `check`)."""
        return self.commands.output([*self.kubectl_command, *args], input, check)

    def get(self, kind: str, *args: str) -> dict[str, Any] | None:
        """`kubectl get KIND ARGS` as a document; None if there is no such object."""
        text = self.kubectl("get", kind, *args, "-o", "json", "--ignore-not-found")
        document: dict[str, Any] | None = json.loads(text) if text.strip() else None
        return document

    def wait_ready(self, step: Step, namespace: str, deployment: str, timeout: str = "300s") -> None:
        """Wait until the Deployment's pods are ready, showing how far they are."""
        args = ["-n", namespace, "rollout", "status", f"deployment/{deployment}", f"--timeout={timeout}"]
        self.commands.stream(step, f"rollout-{deployment}", [*self.kubectl_command, *args])

    def pod_ip(self, namespace: str, selector: str) -> str:
        """The address of a ready pod that `selector` selects. Raises CliError if there is none."""
        pods = self.get("pods", "-n", namespace, "-l", selector, "--field-selector=status.phase=Running") or {}
        for pod in pods.get("items") or []:
            if pod["status"].get("podIP") and "deletionTimestamp" not in pod["metadata"]:
                return str(pod["status"]["podIP"])
        raise CliError(f"no pod with {selector} runs in namespace {namespace}")

    @contextlib.contextmanager
    def reach(self, namespace: str, service: str, port: int) -> Iterator[str]:
        """An address of the service for this machine, `http://host:port`, for the length of the block."""
        if self.is_local:
            selector = (self.get("service", service, "-n", namespace) or {}).get("spec", {}).get("selector") or {}
            labels = ",".join(f"{key}={value}" for key, value in selector.items())
            yield f"http://{self.pod_ip(namespace, labels)}:{port}"
            return
        command = [*self.kubectl_command, "-n", namespace, "port-forward", f"service/{service}", f":{port}"]
        forward = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        try:
            yield f"http://127.0.0.1:{_forwarded_port(forward, command)}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(forward.pid, signal.SIGTERM)
            forward.wait()


def _forwarded_port(forward: subprocess.Popen[str], command: list[str]) -> str:
    assert forward.stdout is not None
    ready, _, _ = select.select([forward.stdout], [], [], FORWARD_TIMEOUT)
    match = FORWARDING.search(forward.stdout.readline()) if ready else None
    if not match:
        raise CliError(f"{' '.join(command)} did not open a port")
    return match[1]


def local_cluster(directory: Path, logs: Path) -> Cluster:
    """The cluster that `localcluster up --dir DIRECTORY` starts."""
    environment = {**os.environ, "KUBECONFIG": str(directory / "kubeconfig")}
    return Cluster(
        Commands(environment, logs),
        (str(directory / "bin" / "kubectl"),),
        (str(directory / "bin" / "helm"),),
        directory / "kubeconfig",
        None,
        directory,
    )


def current_cluster(kubeconfig: str | None, context: str | None, logs: Path) -> Cluster:
    """The cluster that kubectl would use. Raises CliError if kubectl or helm is not installed."""
    for tool in ("kubectl", "helm"):
        if not shutil.which(tool):
            raise CliError(f"{tool} is not on PATH; --use-current needs it (the local cluster brings its own)")
    environment = dict(os.environ)
    if kubeconfig:
        environment["KUBECONFIG"] = str(Path(kubeconfig).resolve())
    kubectl = ("kubectl", *(("--context", context) if context else ()))
    helm = ("helm", *(("--kube-context", context) if context else ()))
    path = Path(kubeconfig).resolve() if kubeconfig else None
    return Cluster(Commands(environment, logs), kubectl, helm, path, context, None)


def wait_until(step: Step, what: str, seconds: float, condition: Any) -> Any:
    """The first true value of `condition()`, asked twice a second. Raises CliError after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        step.detail = f"waiting for {what}"
        time.sleep(0.5)
    raise CliError(f"{step.title}: {what} did not happen within {seconds:.0f} s")

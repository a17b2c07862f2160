"""Kueue's own manager beside a control plane of this module's own, and queues with a quota for a test's namespace.

Its webhooks judge every Job of a cluster and refuse all of them once the manager is gone, and a test elsewhere wants a
cluster without Kueue: so it does not share the control plane of the other tests.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

ROOT = Path(__file__).resolve().parents[4]
KUEUE = ROOT / ".cache" / "kueue"
NAMESPACE = "kueue-system"
# The rotator of Kueue keeps certificates of ours only under these names.
CA_NAME, SERVICE = "kueue-ca", f"kueue-webhook-service.{NAMESPACE}.svc"
CONVERTED = ("clusterqueues", "localqueues", "workloads", "cohorts", "multikueueclusters")
PRIORITIES = {"low": 10, "high": 1000}
Object = dict[str, Any]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def cluster(own_cluster, tmp_path_factory) -> Iterator[Any]:
    """A control plane with our CRD and a running Kueue; the fixtures of the folder above follow it."""
    if not (KUEUE / "manager").exists():
        raise pytest.UsageError("Kueue's manager is not built: run `make test`, or `make kueue` once")
    own_cluster.kubectl("apply", "--server-side", "-f", "crds/finetunejobs.yaml")
    folder, port, certificates = tmp_path_factory.mktemp("kueue"), _free_port(), make_certificates()
    install(own_cluster.kubectl, certificates, port)
    with running_manager(own_cluster.kubeconfig, folder, certificates, port):
        yield own_cluster


@pytest.fixture(scope="module")
def kubectl(cluster) -> Callable[..., Any]:
    run: Callable[..., Any] = cluster.kubectl
    return run


def install(kubectl: Callable[..., Any], certificates: dict[str, bytes], port: int) -> None:
    """CRDs, the certificates' Secret, and webhooks that reach the manager on the loopback."""
    where = {"url": f"https://127.0.0.1:{port}", "caBundle": base64.b64encode(certificates["ca.crt"]).decode()}
    crds = [yaml.safe_load(path.read_text()) for path in sorted((KUEUE / "config" / "crds").glob("*.yaml"))]
    for crd in crds:
        if crd["spec"]["names"]["plural"] in CONVERTED:
            client = {**where, "url": f"{where['url']}/convert"}
            webhook = {"clientConfig": client, "conversionReviewVersions": ["v1"]}
            crd["spec"]["conversion"] = {"strategy": "Webhook", "webhook": webhook}
    kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump_all(crds))
    kubectl("wait", "--for=condition=Established", *(f"crd/{crd['metadata']['name']}" for crd in crds))
    kubectl("create", "namespace", NAMESPACE)
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "kueue-webhook-server-cert", "namespace": NAMESPACE},
        "data": {name: base64.b64encode(data).decode() for name, data in certificates.items()},
    }
    configurations = list(yaml.safe_load_all((KUEUE / "config" / "webhooks.yaml").read_text()))
    for one in configurations:
        one["metadata"]["name"] = f"kueue-{one['metadata']['name']}"
        one["webhooks"] = [webhook for webhook in one["webhooks"] if _of_kueue_or_job(webhook)]
        for webhook in one["webhooks"]:
            path = webhook["clientConfig"]["service"]["path"]
            webhook["clientConfig"] = {**where, "url": where["url"] + path}
    kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump_all([secret, *configurations]))


def _of_kueue_or_job(webhook: Object) -> bool:
    return all(
        "kueue.x-k8s.io" in rule["apiGroups"] or (rule["apiGroups"] == ["batch"] and rule["resources"] == ["jobs"])
        for rule in webhook["rules"]
    )


@contextlib.contextmanager
def running_manager(kubeconfig: Path, folder: Path, certificates: dict[str, bytes], port: int) -> Iterator[None]:
    """The manager, until it is ready and then until the end."""
    (folder / "certs").mkdir()
    for name, data in certificates.items():
        (folder / "certs" / name).write_bytes(data)
    health = _free_port()
    configuration = {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "namespace": NAMESPACE,
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health}"},
        "metrics": {"bindAddress": "0"},
        "webhook": {"host": "127.0.0.1", "port": port, "certDir": str(folder / "certs")},
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": True},
        "integrations": {"frameworks": ["batch/job"]},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(configuration))
    command = [str(KUEUE / "manager"), f"--config={folder}/config.yaml", "--feature-gates=VisibilityOnDemand=false"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, "KUBECONFIG": str(kubeconfig)}, cwd=folder
        )
    try:
        end = time.monotonic() + 60
        while not _ready(health, port):
            if process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"Kueue is not ready:\n{(folder / 'log').read_text()[-5000:]}")
            time.sleep(0.2)
        yield
    finally:
        # In its bootstrap of certificates it ignores SIGTERM.
        process.kill()
        process.wait()


def _ready(health: int, webhook: int) -> bool:
    """/readyz speaks for its controllers; a webhook's port is asked too, since every Job goes through it."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{health}/readyz", timeout=2) as answer:
            if answer.status != 200:
                return False
    except OSError:
        return False
    with contextlib.closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", webhook)) == 0


def make_certificates() -> dict[str, bytes]:
    """A CA and a serving certificate, as files of the Secret. Kueue's rotator keeps them only if the CA has its name
    as SAN and its key is PKCS#1."""
    now = datetime.now(UTC)
    ca_key, key = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, CA_NAME)])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SERVICE)])
    served = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName(SERVICE)]

    def certificate(name: x509.Name, public: rsa.RSAPublicKey, names: list[x509.GeneralName], ca: bool) -> bytes:
        built = (
            x509.CertificateBuilder(issuer, name, public, x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=3650))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        return built.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    return {
        "ca.crt": certificate(issuer, ca_key.public_key(), [x509.DNSName(CA_NAME)], ca=True),
        "ca.key": _pkcs1(ca_key),
        "tls.crt": certificate(subject, key.public_key(), list(served), ca=False),
        "tls.key": _pkcs1(key),
    }


def _pkcs1(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


@dataclass
class Queues:
    """A LocalQueue `gpu` in the test's namespace, and a ClusterQueue of its own behind it."""

    kubectl: Callable[..., Any]
    namespace: str

    def apply(self, *objects: Object) -> None:
        self.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(objects))

    def quota(self, **resources: str | int) -> None:
        """Make the queues, or change how much they may give; keys are resources, _ for -."""
        amounts = {name.replace("_", "-"): str(amount) for name, amount in resources.items()}
        flavor = {"name": self.namespace, "resources": [{"name": n, "nominalQuota": a} for n, a in amounts.items()]}
        group = {"coveredResources": list(amounts), "flavors": [flavor]}
        self.apply(
            _kueue("ResourceFlavor", self.namespace),
            _kueue(
                "ClusterQueue",
                self.namespace,
                namespaceSelector={"matchLabels": {"kubernetes.io/metadata.name": self.namespace}},
                preemption={"withinClusterQueue": "LowerPriority"},
                resourceGroups=[group],
            ),
            {**_kueue("LocalQueue", "gpu", clusterQueue=self.namespace), **self._here("gpu")},
            *({**_kueue("WorkloadPriorityClass", name), "value": value} for name, value in PRIORITIES.items()),
        )

    def _here(self, name: str) -> Object:
        return {"metadata": {"name": name, "namespace": self.namespace}}

    def workloads(self) -> dict[str, Object]:
        """By the name of their Job."""
        found = json.loads(self.kubectl("get", "workloads", "-n", self.namespace, "-o", "json").stdout)["items"]
        return {one["metadata"]["ownerReferences"][0]["name"]: one for one in found}


def _kueue(kind: str, name: str, **spec: Any) -> Object:
    body: Object = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": kind, "metadata": {"name": name}}
    return {**body, "spec": spec} if spec else body


@pytest.fixture
def queues(kubectl, namespace) -> Queues:
    return Queues(kubectl, namespace)

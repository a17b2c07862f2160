"""Fixtures that every kind of test shares: a real control plane, its clients, and a namespace of one's own.

One control plane (`.localcluster-test`) serves the whole run, also when pytest-xdist spreads it over processes: the
first test that needs it starts it, the run's end stops it. It carries the CRD and nothing else. Tests that install
charts, break the control plane or need it empty take `own_cluster` instead, a second one for their module.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOCALCLUSTER = ROOT / ".cache" / "localcluster" / "localcluster"
SHARED_DIR = ROOT / ".localcluster-test"
Run = Callable[..., "subprocess.CompletedProcess[str]"]

# Two test processes share two cores: one thread each is the fastest, and makes losses repeatable.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@dataclass(frozen=True)
class Cluster:
    """A running control plane: where it keeps its state, and clients bound to it."""

    directory: Path

    @property
    def kubeconfig(self) -> Path:
        return self.directory / "kubeconfig"

    def _client(
        self, name: str, args: tuple[str, ...], input: str | None, check: bool, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
        command = [str(self.directory / "bin" / name), *args]
        result = subprocess.run(
            command,
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment,
            check=False,
            cwd=ROOT,
        )
        if check and result.returncode != 0:
            raise AssertionError(f"{' '.join(command)}\nexit {result.returncode}\n{result.stdout}\n{result.stderr}")
        return result

    def kubectl(
        self, *args: str, input: str | None = None, check: bool = True, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        return self._client("kubectl", args, input, check, timeout)

    def helm(
        self, *args: str, input: str | None = None, check: bool = True, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        return self._client("helm", args, input, check, timeout)


def localcluster(*args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the localcluster command; `make test` built it."""
    if not LOCALCLUSTER.exists():
        raise pytest.UsageError("the local control plane is not built: run `make test`, or `make localcluster` once")
    result = subprocess.run(
        [str(LOCALCLUSTER), *args], capture_output=True, text=True, timeout=180, check=False, cwd=ROOT
    )
    if check and result.returncode != 0:
        raise AssertionError(f"localcluster {' '.join(args)}: exit {result.returncode}\n{result.stdout}{result.stderr}")
    return result


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The control plane that the whole run shares, with the CRD served."""
    shared = Cluster(SHARED_DIR)
    _used().touch()
    with _locked(ROOT / ".cache" / "test-cluster.lock"):
        localcluster("up", "--dir", str(SHARED_DIR))
        shared.kubectl("apply", "--server-side", "--force-conflicts", "-f", "crds/finetunejobs.yaml")
        shared.kubectl("wait", "--for=condition=Established", "crd/finetunejobs.finetune-operator.io", "--timeout=30s")
    return shared


@pytest.fixture(scope="session")
def kubeconfig(cluster: Cluster) -> Path:
    return cluster.kubeconfig


@pytest.fixture(scope="session")
def kubectl(cluster: Cluster) -> Run:
    """`kubectl(*args, input=None, check=True)` against the shared control plane."""
    return cluster.kubectl


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A fresh namespace; it and all in it go when the test ends."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false", check=False)


@pytest.fixture(scope="module")
def own_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane for one module alone, empty and free to be broken."""
    directory = tmp_path_factory.mktemp("cluster")
    try:
        localcluster("up", "--dir", str(directory))
        yield Cluster(directory)
    finally:
        localcluster("down", "--dir", str(directory), check=False)


@pytest.fixture(scope="session")
def helm() -> Run:
    """The Helm CLI for what needs no cluster (lint, template); with a cluster use `own_cluster.helm`."""

    def run(*args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            ["helm", *args],
            executable=str(LOCALCLUSTER),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=ROOT,
        )
        if check and result.returncode != 0:
            raise AssertionError(f"helm {' '.join(args)}: exit {result.returncode}\n{result.stdout}{result.stderr}")
        return result

    return run


# xdist's workers inherit it: the run that they belong to.
os.environ.setdefault("FINETUNE_TEST_RUN", str(os.getpid()))


def _used() -> Path:
    """A file that is there once this run has used the shared control plane."""
    return ROOT / ".cache" / f"test-cluster.used-by-{os.environ['FINETUNE_TEST_RUN']}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """The process that leads the run stops the shared control plane, if the run used it: another one may be using it
    now. xdist's workers leave it to that one."""
    if not hasattr(session.config, "workerinput") and _used().exists():
        _used().unlink()
        localcluster("down", "--purge", "--dir", str(SHARED_DIR), check=False)

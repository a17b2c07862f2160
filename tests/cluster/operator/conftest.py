"""The operator as a real process against a real control plane, with the rights of permissions.py and no others.

Each test's operator watches only that test's namespace (FINETUNE_WATCH_NAMESPACE), so tests share the control plane.
Pods run for real; the base model is a tiny Llama in an S3 server that the test run starts beside the control plane.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator.permissions import LEASE_RULES, RULES

ROOT = Path(__file__).resolve().parents[3]
CACHE = ROOT / ".cache" / "operator-tests"
Object = dict[str, Any]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_until(what: str, check: Callable[[], Any], timeout: float = 60, every: float = 0.3) -> Any:
    """The first true answer of `check`; it is asked of another process, hence by polling."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if answer := check():
            return answer
        time.sleep(every)
    raise AssertionError(f"not within {timeout:.0f} s: {what}")


@dataclass
class Operator:
    """A restartable operator process."""

    environment: dict[str, str]
    log: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None)

    def launch(self) -> None:
        """Start the process and do not wait for anything."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "finetune_operator.main"],
                env=self.environment,
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )

    def start(self) -> Operator:
        """Start and wait until it leads."""
        self.launch()
        self.until_leading()
        return self

    def until_leading(self) -> None:
        wait_until("the operator leads", lambda: self._ended() or self.metric("leading") == 1.0)
        assert not self._ended(), self.output

    def _ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def kill(self) -> None:
        """SIGKILL: no chance to tidy up."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    def writes(self) -> list[str]:
        """The lines of /metrics about requests that changed something, other than renewals of the lease."""
        lines = [line for line in self.page("/metrics")[1].splitlines() if "api_requests_total{" in line]
        return [line for line in lines if 'verb="GET"' not in line and 'resource="leases"' not in line]

    def page(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name: str) -> float | None:
        try:
            lines = self.page("/metrics")[1].splitlines()
        except OSError:
            return None
        values = [line.rpartition(" ")[2] for line in lines if line.startswith(f"finetune_operator_{name}")]
        return sum(map(float, values)) if values else None

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")


def _rules(rules) -> list[Object]:
    return [{"apiGroups": [r.group], "resources": [r.resource], "verbs": list(r.verbs)} for r in rules]


@pytest.fixture
def operator_kubeconfig(cluster, kubectl, namespace, tmp_path) -> Path:
    """A kubeconfig of a service account that may do what permissions.py lists, in this namespace, and nothing else."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "operator"}}
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "operator"},
        "rules": _rules((*RULES, *LEASE_RULES)),
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "operator"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "operator"},
        "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": namespace}],
    }
    for one in (account, role, binding):
        kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(one))
    token = kubectl("create", "token", "operator", "-n", namespace, "--duration=3h").stdout.strip()
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    for user in config["users"]:
        user["user"] = {"token": token}
    path = tmp_path / "operator.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
def new_operator(operator_kubeconfig, namespace, tmp_path) -> Iterator[Callable[..., Operator]]:
    """new_operator(**environment) makes an operator that is not started yet; all are stopped at the end, and none may
    have met a refusal of the API server or an unexpected error."""
    made: list[Operator] = []

    def make(**environment: str) -> Operator:
        port = free_port()
        settings = {
            **os.environ,
            "KUBECONFIG": str(operator_kubeconfig),
            "FINETUNE_WATCH_NAMESPACE": namespace,
            "FINETUNE_LEASE_NAMESPACE": namespace,
            "FINETUNE_TRAINER_IMAGE": "finetune-operator/trainer:test",
            "FINETUNE_HEALTH_HOST": "127.0.0.1",
            "FINETUNE_HEALTH_PORT": str(port),
            "FINETUNE_PROGRESS_SECONDS": "1",
            "FINETUNE_RETRY_SECONDS": "1",
            "FINETUNE_LEASE_SECONDS": "3",
            "POD_NAME": f"operator-{len(made)}",
            **environment,
        }
        made.append(Operator(settings, tmp_path / f"operator-{len(made)}.log", port))
        return made[-1]

    yield make
    for operator in made:
        if operator.process is not None:
            operator.stop()
        print(operator.output)
    for operator in made:
        assert "Traceback" not in operator.output
        assert "403 Forbidden" not in operator.output


@pytest.fixture
def operator_process(new_operator) -> Operator:
    """A running operator of this test's namespace."""
    return new_operator().start()


@dataclass
class Jobs:
    """FineTuneJobs of one namespace, and what belongs to them."""

    kubectl: Callable[..., Any]
    namespace: str

    def apply(self, name: str, **spec: Any) -> None:
        body = {
            "apiVersion": "finetune-operator.io/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": name},
            "spec": spec,
        }
        self.kubectl("apply", "-n", self.namespace, "-f", "-", input=json.dumps(body))

    def patch(self, name: str, **spec: Any) -> None:
        patch = json.dumps({"spec": spec})
        self.kubectl("patch", "ftj", name, "-n", self.namespace, "--type=merge", "-p", patch)

    def get(self, kind: str, name: str = "", **options: str) -> Any:
        """An object, or the list of a kind; None if there is none of that name."""
        flags = [f"--{flag.replace('_', '-')}={value}" for flag, value in options.items()]
        found = self.kubectl(
            "get", kind, *([name] if name else []), "-n", self.namespace, "-o", "json", "--ignore-not-found", *flags
        )
        body = json.loads(found.stdout) if found.stdout.strip() else None
        return body if name else (body or {"items": []})["items"]

    def status(self, name: str) -> Object:
        return (self.get("ftj", name) or {}).get("status") or {}

    def condition(self, name: str, kind: str) -> tuple[str, str, str]:
        """status, reason, message"""
        for one in self.status(name).get("conditions") or []:
            if one["type"] == kind:
                return one["status"], one["reason"], one["message"]
        return "", "", ""

    def until_reason(self, name: str, reason: str, timeout: float = 60) -> str:
        """Waits for Ready's reason; its message."""

        def check() -> str | None:
            _, found, message = self.condition(name, "Ready")
            return message if found == reason else None

        with self._explained(name):
            return str(wait_until(f"{name} has reason {reason}", check, timeout))

    def until_phase(self, name: str, *phases: str, timeout: float = 240) -> Object:
        with self._explained(name):
            return wait_until(
                f"{name} is {' or '.join(phases)}",
                lambda: (status := self.status(name)).get("phase") in phases and status,
                timeout,
            )

    def wait(self, what: str, check: Callable[[], Any], timeout: float = 60) -> Any:
        return wait_until(what, check, timeout)

    def until_progress(self, name: str, step: int, job: str = "") -> int:
        """Waits until a running try (of that Job, if named) is at the step or beyond; the step."""

        def check() -> int | None:
            status = self.status(name)
            attempt = (status.get("attempts") or [{}])[-1]
            progress = status.get("progress") or {}
            fresh = (progress.get("updatedAt") or "") > (attempt.get("startTime") or "~")
            right = not attempt.get("endTime") and (not job or attempt.get("job") == job)
            return progress.get("step") if right and fresh and (progress.get("step") or 0) >= step else None

        with self._explained(name):
            return int(wait_until(f"{name} is at step {step}", check, 120))

    def until_resumed(self, name: str, at_least: int) -> int:
        """Waits until the pod of the newest attempt says that it began with a checkpoint; the checkpoint's step."""

        def check() -> int | None:
            pods = [pod for pod in self.children("pods", name, "train") if pod["status"]["phase"] == "Running"]
            for pod in pods:
                report = self._progress(pod["status"]["podIP"])
                if (report.get("resumedFromStep") or 0) >= at_least:
                    return int(report["resumedFromStep"])
            return None

        with self._explained(name):
            return int(wait_until(f"{name} has resumed from step {at_least} or later", check, 120))

    def _progress(self, address: str) -> Object:
        try:
            with urllib.request.urlopen(f"http://{address}:8080/progress", timeout=3) as answer:
                report: Object = json.loads(answer.read())
                return report
        except OSError:
            return {}

    def kill_ranks(self, job: str) -> None:
        """SIGKILL to every process of a Job's pod but the first: the trainer dies, its launcher sees it."""
        pods = self.get("pods", selector=f"batch.kubernetes.io/job-name={job}")
        script = (
            "for p in /proc/[0-9]*; do n=${p#/proc/}; "
            "[ $n != 1 ] && grep -q finetune_trainer $p/cmdline 2>/dev/null && [ $n != $$ ] && kill -9 $n; done; true"
        )
        self.kubectl("exec", pods[0]["metadata"]["name"], "-n", self.namespace, "--", "sh", "-c", script)

    def children(self, kind: str, name: str, role: str = "") -> list[Object]:
        selector = f"finetune-operator.io/job={name}" + (f",finetune-operator.io/role={role}" if role else "")
        return self.get(kind, selector=selector)

    @contextlib.contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except AssertionError as error:
            described = self.kubectl("describe", "ftj", name, "-n", self.namespace, check=False).stdout
            pods = self.kubectl("get", "pods,jobs", "-n", self.namespace, "-o", "wide", check=False).stdout
            raise AssertionError(f"{error}\n{described}\n{pods}") from None


@pytest.fixture
def jobs(kubectl, namespace) -> Jobs:
    return Jobs(kubectl, namespace)


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """A folder with a Llama of one layer and a byte-level tokenizer, made once: it can be trained, not talked to."""
    folder = CACHE / "tiny-model"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            _make_model(folder)
            (folder / "done").touch()
    return folder


def _make_model(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator([], trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def bucket(tiny_model: Path) -> Iterator[str]:
    """The address of an S3 server with the tiny model under s3://models/tiny; pods reach it on the loopback."""
    import boto3

    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until("the S3 server listens", lambda: _listens(port))
        client = boto3.client(
            "s3",
            endpoint_url=address,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
        )
        client.create_bucket(Bucket="models")
        for file in tiny_model.iterdir():
            client.upload_file(str(file), "models", f"tiny/{file.name}")
        yield address
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="session")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real MLflow server."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--default-artifact-root", str(folder)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command], stdout=log, stderr=log, start_new_session=True, cwd=folder
        )
    try:
        wait_until("MLflow listens", lambda: _listens(port), timeout=90)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _listens(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


DIALOGUES = [
    {"messages": [{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": f"answer {i}"}]}
    for i in range(24)
]


@pytest.fixture
def spec(kubectl, namespace, bucket) -> Object:
    """A spec that trains on the CPU in seconds: model from the bucket, data from a ConfigMap."""
    lines = "\n".join(json.dumps(row) for row in DIALOGUES)
    good = {"train.jsonl": lines, "broken.jsonl": '{"messages": [\n', "empty.jsonl": ""}
    data = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "data"}, "data": good}
    keys = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "bucket-keys"},
        "stringData": {"minio-access-key": "test", "minio-secret-key": "test"},
    }
    for one in (data, keys):
        kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(one))
    return {
        "basemodel": "s3://models/tiny",
        "bucketStorageHost": bucket,
        "bucketCredentialsSecret": {"name": "bucket-keys"},
        "finetuningGpus": 0,
        "cpusPerGpu": 0.1,
        "memoryPerGpu": 0.5,
        "downloadsReservedSize": "1Gi",
        "checkpointsReservedSize": "1Gi",
        "terminationGracePeriodSeconds": 30,
        "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
        "data_conf": {
            "training_data": {"type": "CONCATENATION", "datasets": [{"path": "configmap://data/train.jsonl"}]},
            "validation_data": {"type": "NONE"},
            "chat_template_name": "chat-ml",
        },
        "training_args": {"learning_rate": 0.001, "max_steps": 6, "logging_steps": 1, "save_steps": 2},
        "batchsize_conf": {"total_train_batch_size": 4, "max_per_device_train_batch_size": 4},
        "peft_conf": {"peft_type": "NO_PEFT"},
        "run_conf": {},
        "sft_args": {"max_seq_length": 128},
    }

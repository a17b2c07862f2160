"""What a manifest means on this machine: folders instead of volumes, the user's environment instead of Secrets.

Keys that only a cluster can honour are named and ignored. What a training needs and only a cluster has (data in a
claim, a value from a Secret) is refused with the way out.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import fcntl
import hashlib
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_cli import terminal
from finetune_cli.errors import CliError, UsageError

if TYPE_CHECKING:
    from finetune_api.resolve import ResolvedSpec

RUNS = Path("finetune-runs")
CLUSTER_ONLY = (
    "queueName",
    "minNodes",
    "priorityClassName",
    "workloadPriorityClassName",
    "storageClass",
    "nodeSelector",
    "tolerations",
    "affinity",
    "acceleratorType",
    "finetuningImage",
    "imagePullSecrets",
    "serviceAccountName",
    "runtimeClassName",
    "labels",
    "annotations",
    "ttlSecondsAfterFinished",
    "maxAttempts",
    "retryWithSmallerBatch",
    "suspend",
    "checkpointsRetention",
    "adoptCheckpoints",
    "caBundleConfigMap",
)
# What differs between two runs of the same training: never a reason to refuse a resume.
NOT_TRAINING = frozenset(
    (*CLUSTER_ONLY, "bucketStorageHost", "env", "stepTimeoutSeconds", "terminationGracePeriodSeconds", "tracking")
)
MADE_HERE = ("config", "data", "checkpoints", "records", "logs", "model-cache", "mlruns")
FILES_MADE_HERE = ("status.json", "termination-log", "mlflow.db")


@dataclass(frozen=True)
class Folders:
    """Where a local run keeps its things; the names follow the work volume of docs/contracts.md."""

    work: Path
    model_cache: Path

    @property
    def config(self) -> Path:
        return self.work / "config"

    @property
    def status(self) -> Path:
        return self.work / "status.json"

    @property
    def logs(self) -> Path:
        return self.work / "logs"

    @property
    def termination_log(self) -> Path:
        return self.work / "termination-log"

    @property
    def checkpoints(self) -> Path:
        return self.work / "checkpoints"

    def has_checkpoint(self) -> bool:
        """Whether there is something to resume from."""
        from finetune_api.constants import COMPLETION_MARKER

        return any(self.checkpoints.glob(f"checkpoint-*/{COMPLETION_MARKER}"))

    def clear(self) -> None:
        """Remove what an earlier run made here, and nothing else."""
        if not self.status.exists():
            return
        for name in MADE_HERE:
            shutil.rmtree(self.work / name, ignore_errors=True)
        for name in FILES_MADE_HERE:
            (self.work / name).unlink(missing_ok=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of every command that reads a job's model and data on this machine."""
    parser.add_argument(
        "--work-dir", metavar="DIR", type=Path, help=f"where data and results lie; default: {RUNS}/<name>"
    )
    parser.add_argument(
        "--model-cache", metavar="DIR", type=Path, help="folder for downloaded models; default: in the work dir"
    )
    parser.add_argument("--endpoint", metavar="URL", help="S3 endpoint, instead of the manifest's bucketStorageHost")
    parser.add_argument(
        "--dataset",
        metavar="NAME=PATH",
        action="append",
        default=[],
        dest="datasets",
        help="where the data of dataset://NAME lies: a local path or a URI; repeatable",
    )
    parser.add_argument(
        "--allow-remote-code",
        action="store_true",
        help="let code of the model's repository run here, where the manifest says trust_remote_code",
    )


def folders(args: argparse.Namespace, name: str) -> Folders:
    """The folders that these arguments mean for a job."""
    work = (args.work_dir or RUNS / name).absolute()
    return Folders(work, (args.model_cache or work / "model-cache").absolute())


@contextlib.contextmanager
def only_one(work: Path) -> Iterator[None]:
    """Hold the work directory for the length of the block. Raises CliError if another command holds it."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = f"another `finetune run`, plan or validate works in {work}; wait for it, or give --work-dir"
            raise CliError(text) from None
        yield


def resolve_here(spec: dict[str, Any], args: argparse.Namespace, *, quiet: bool = False) -> ResolvedSpec:
    """The spec as it is trained on this machine, by the arguments of `add_arguments`. Raises CliError where only a
    cluster could; says what resolving has to say, unless `quiet`."""
    from finetune_api.resolve import resolve
    from finetune_api.spec import FineTuneJobSpec

    spec = with_datasets(spec, args.datasets)
    if args.endpoint:
        spec["bucketStorageHost"] = args.endpoint
    resolved = resolve(FineTuneJobSpec.model_validate(spec))
    problems = list(refusals(resolved, args.allow_remote_code))
    if problems:
        raise CliError("\n  ".join(["this manifest cannot be used without a cluster as it is:", *problems]))
    if text := credentials_note(spec):
        terminal.note(text)
    for text in () if quiet else (*resolved.notices, *resolved.warnings):
        terminal.note(text)
    return resolved


def with_datasets(spec: dict[str, Any], named: list[str]) -> dict[str, Any]:
    """A copy of the spec in which NAME=PATH stands for dataset://NAME."""
    spec = copy.deepcopy(spec)
    places: dict[str, str] = {}
    for text in named:
        name, separator, path = text.partition("=")
        if not separator or not name or not path:
            raise UsageError(f"--dataset {text!r}: write NAME=PATH, for example --dataset dialogues=data/train.jsonl")
        places[f"dataset://{name}"] = path if "://" in path else str(Path(path).absolute())
    used = set()
    for section in ("training_data", "validation_data"):
        for dataset in (spec["data_conf"].get(section) or {}).get("datasets") or []:
            used.add(dataset["path"])
            dataset["path"] = places.get(dataset["path"], dataset["path"])
    for name in sorted(set(places) - used):
        raise UsageError(f"--dataset: the manifest uses no {name}")
    return spec


def refusals(resolved: ResolvedSpec, allow_remote_code: bool = False) -> Iterator[str]:
    """Why this manifest cannot be trained here the way a cluster would."""
    from finetune_api.locations import parse_location

    if resolved.spec.run_conf.model_args.trust_remote_code and not allow_remote_code:
        yield (
            "spec.run_conf.model_args.trust_remote_code is true: code of the model's repository would run on this"
            " machine with your rights. Look at it, and give --allow-remote-code"
        )
    spec = resolved.spec.to_dict()
    for path, text in locations(spec):
        location = parse_location(text)
        if location.scheme in ("pvc", "configmap"):
            yield f"spec.{path} is {text}, which only a cluster has: --set {path}=/absolute/path names a local copy"
        if location.scheme == "dataset":
            name = location.container
            yield f"spec.{path} is {text}, which only a cluster knows: --dataset {name}=PATH says where it lies"
    for variable in spec.get("env") or []:
        if variable.get("valueFrom") and variable["name"] not in os.environ:
            yield (
                f"spec.env takes {variable['name']} from a Secret or ConfigMap, which only a cluster has:"
                f" set {variable['name']} in your environment"
            )


def locations(spec: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every place that the job reads: (key path, location)."""
    yield "basemodel", spec["basemodel"]
    data = spec["data_conf"]
    for section in ("training_data", "validation_data"):
        for index, dataset in enumerate((data.get(section) or {}).get("datasets") or []):
            yield f"data_conf.{section}.datasets[{index}].path", dataset["path"]


def ignored_keys(spec: dict[str, Any]) -> list[str]:
    """Keys of the manifest that mean nothing without a cluster."""
    return [key for key in CLUSTER_ONLY if spec.get(key) not in (None, False)]


def credentials_note(spec: dict[str, Any]) -> str | None:
    """What to say where the manifest names a Secret that a local run cannot read."""
    missing = []
    if spec.get("bucketCredentialsSecret") and "AWS_ACCESS_KEY_ID" not in os.environ:
        missing.append("bucketCredentialsSecret (set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)")
    if spec.get("hfTokenSecret") and "HF_TOKEN" not in os.environ:
        missing.append("hfTokenSecret (set HF_TOKEN)")
    return f"a local run reads no Secrets; if they are needed: {', '.join(missing)}" if missing else None


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The keys whose training would differ between two resolved specs."""
    for key in sorted({*old, *new}):
        if not prefix and key in NOT_TRAINING:
            continue
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from differences(before, after, f"{prefix}{key}.")
        elif before != after:
            yield f"{prefix}{key} ({before!r} -> {after!r})"


def free_address(work: Path, port: int) -> str:
    """A loopback address on which `port` is free, the same for a work directory as long as it can be.

    Linux answers on all of 127.0.0.0/8, so that several runs can each have the trainer's fixed port.
    """
    digest = hashlib.sha256(str(work).encode()).digest()
    candidates = [f"127.{100 + digest[0] % 100}.{digest[1]}.{1 + (digest[2] + i) % 254}" for i in range(16)]
    for address in [*candidates, "127.0.0.1"]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return address
    raise CliError(f"port {port} is taken on every loopback address: stop another run first")

"""The operator's settings: read once from the environment of its Deployment, then passed as one immutable value.

docs/contracts.md lists the variables. A wrong value stops the operator at once with the variable's name, its value and
what would be right: a Deployment that does not start is noticed, a default in place of a typing error is not.
"""

import ipaddress
import json
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from .logs import FORMATS

DEFAULT_TRAINER_IMAGE = "finetune-operator/trainer:0.1.0"


T = TypeVar("T", int, float)


class SettingsError(ValueError):
    """A variable of the operator's environment has a value that cannot be used."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the administrator of the operator decides, as against what a FineTuneJob asks for."""

    trainer_image: str = DEFAULT_TRAINER_IMAGE
    mlflow_uri: str = ""
    mlflow_public_url: str = ""
    watch_namespace: str = ""
    max_gpus_per_node: int = 8
    accelerator_labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    lease_namespace: str = "default"
    lease_seconds: float = 15.0
    default_gpu_resource: str = "nvidia.com/gpu"
    allowed_images: tuple[str, ...] = ()  # empty: all
    allowed_sources: tuple[str, ...] = ()  # of models, tokenizers and adapters; empty: all
    allow_remote_code: bool = False
    progress_from: tuple[Mapping[str, object], ...] = ()  # NetworkPolicy peers; empty: no policies are made
    blocked_addresses: tuple[str, ...] = ()  # CIDRs that pods of jobs do not reach, where policies are made
    progress_seconds: float = 15.0
    retry_seconds: float = 10.0
    retry_max_seconds: float = 300.0
    sweep_seconds: float = 600.0
    workers: int = 16
    health_host: str = "0.0.0.0"
    health_port: int = 8081
    log_level: str = "INFO"
    log_format: str = "text"
    identity: str = "local"


def load(env: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment; raises SettingsError naming the variable, its value and the fix."""
    env = os.environ if env is None else env
    default = Settings()
    return Settings(
        trainer_image=env.get("FINETUNE_TRAINER_IMAGE") or default.trainer_image,
        mlflow_uri=_address(env, "FINETUNE_MLFLOW_URI"),
        mlflow_public_url=_address(env, "FINETUNE_MLFLOW_PUBLIC_URL") or _address(env, "FINETUNE_MLFLOW_URI"),
        watch_namespace=env.get("FINETUNE_WATCH_NAMESPACE", ""),
        max_gpus_per_node=_number(env, "FINETUNE_MAX_GPUS_PER_NODE", default.max_gpus_per_node, int, least=1),
        accelerator_labels=_labels(env, "FINETUNE_ACCELERATOR_LABELS"),
        lease_namespace=env.get("FINETUNE_LEASE_NAMESPACE")
        or env.get("POD_NAMESPACE")
        or _own_namespace(default.lease_namespace),
        lease_seconds=_number(env, "FINETUNE_LEASE_SECONDS", default.lease_seconds, float, least=3),
        default_gpu_resource=env.get("FINETUNE_DEFAULT_GPU_RESOURCE") or default.default_gpu_resource,
        allowed_images=_list(env, "FINETUNE_ALLOWED_IMAGES"),
        allowed_sources=_list(env, "FINETUNE_ALLOWED_SOURCES"),
        allow_remote_code=_truth(env, "FINETUNE_ALLOW_REMOTE_CODE"),
        progress_from=_peers(env, "FINETUNE_PROGRESS_FROM"),
        blocked_addresses=_networks(env, "FINETUNE_BLOCKED_ADDRESSES"),
        progress_seconds=_number(env, "FINETUNE_PROGRESS_SECONDS", default.progress_seconds, float, least=1),
        retry_seconds=_number(env, "FINETUNE_RETRY_SECONDS", default.retry_seconds, float, least=0),
        retry_max_seconds=_number(env, "FINETUNE_RETRY_MAX_SECONDS", default.retry_max_seconds, float, least=0),
        sweep_seconds=_number(env, "FINETUNE_SWEEP_SECONDS", default.sweep_seconds, float, least=5),
        workers=_number(env, "FINETUNE_WORKERS", default.workers, int, least=1),
        health_host=env.get("FINETUNE_HEALTH_HOST") or env.get("POD_IP") or default.health_host,
        health_port=_number(env, "FINETUNE_HEALTH_PORT", default.health_port, int, least=0),
        log_level=_log_level(env, default.log_level),
        log_format=_log_format(env, default.log_format),
        identity=env.get("POD_NAME") or f"{socket.gethostname()}-{os.getpid()}",
    )


def _number(env: Mapping[str, str], name: str, default: T, kind: Callable[[str], T], least: T) -> T:
    text = env.get(name, "")
    if not text:
        return default
    try:
        value = kind(text)
    except ValueError:
        raise SettingsError(f"{name}={text!r} is not a number; give one of at least {least}") from None
    if value < least:
        raise SettingsError(f"{name}={text!r} is too small; give at least {least}")
    return value


def _labels(env: Mapping[str, str], name: str) -> dict[str, dict[str, str]]:
    """Accelerator type -> node labels, such as {"H100": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}}."""
    text = env.get(name, "")
    if not text:
        return {}
    shape = 'give JSON such as {"H100": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}}'
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise SettingsError(f"{name} is not JSON ({error}); {shape}") from None
    if not isinstance(value, dict) or not all(
        isinstance(labels, dict) and all(isinstance(text, str) for text in labels.values()) for labels in value.values()
    ):
        raise SettingsError(f"{name} must map an accelerator type to node labels; {shape}")
    return value


def _address(env: Mapping[str, str], name: str) -> str:
    """A URL without a slash at its end. It stands in status and in pods, where no password may stand."""
    text = env.get(name, "").rstrip("/")
    if "@" in text.partition("://")[2].partition("/")[0]:
        raise SettingsError(f"{name} holds credentials, and jobs would show them; put a proxy that has them before it")
    return text


def _list(env: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Entries separated by commas or white space."""
    return tuple(env.get(name, "").replace(",", " ").split())


def _truth(env: Mapping[str, str], name: str) -> bool:
    text = env.get(name, "").lower()
    if text not in ("", "true", "false"):
        raise SettingsError(f"{name}={text!r} is neither true nor false")
    return text == "true"


def _peers(env: Mapping[str, str], name: str) -> tuple[Mapping[str, object], ...]:
    """NetworkPolicyPeers as JSON, such as [{"podSelector": {"matchLabels": {"app": "operator"}}}]."""
    text = env.get(name, "")
    try:
        value = json.loads(text or "[]")
    except json.JSONDecodeError as error:
        raise SettingsError(f"{name} is not JSON ({error}); give a list of NetworkPolicy peers") from None
    known = {"namespaceSelector", "podSelector", "ipBlock"}
    if not isinstance(value, list) or not all(isinstance(peer, dict) and peer and set(peer) <= known for peer in value):
        raise SettingsError(f"{name} must be a list of NetworkPolicy peers, each with one or more of {sorted(known)}")
    return tuple(value)


def _networks(env: Mapping[str, str], name: str) -> tuple[str, ...]:
    entries = _list(env, name)
    for entry in entries:
        try:
            ipaddress.ip_network(entry)
        except ValueError:
            raise SettingsError(f"{name}: {entry!r} is no network; write 169.254.169.254/32, for example") from None
    return entries


def _log_level(env: Mapping[str, str], default: str) -> str:
    level = (env.get("FINETUNE_LOG_LEVEL") or default).upper()
    if level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise SettingsError(f"FINETUNE_LOG_LEVEL={level!r} is unknown; give DEBUG, INFO, WARNING or ERROR")
    return level


def _log_format(env: Mapping[str, str], default: str) -> str:
    kind = (env.get("FINETUNE_LOG_FORMAT") or default).lower()
    if kind not in FORMATS:
        raise SettingsError(f"FINETUNE_LOG_FORMAT={kind!r} is unknown; give one of {', '.join(FORMATS)}")
    return kind


def _own_namespace(default: str) -> str:
    try:
        with open("/var/run/secrets/kubernetes.io/serviceaccount/namespace", encoding="utf-8") as file:
            return file.read().strip() or default
    except OSError:
        return default

"""What no manifest may ask for, whoever wrote it: code in place of the trainer, the node's credentials, others' labels.

A FineTuneJob is not a pod. Who may create one need not be allowed to create pods, so nothing in it may come to more
than training: docs/security.md has the whole model.
"""

import posixpath
import re
import socket
import unicodedata
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

from finetune_api.violations import Violation

# --- environment ------------------------------------------------------------------------------------------------------

# They load or replace code, in a pod whose image may be the only one that is allowed.
CODE_ENV_PREFIXES = ("LD_", "PYTHON", "GLIBC_", "GCONV_", "BASH_FUNC_", "TORCH_EXTENSIONS_", "TRITON_", "OPENSSL_")
CODE_ENV = (
    *("PATH", "HOME", "IFS", "ENV", "BASH_ENV", "SHELL", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "VIRTUAL_ENV"),
    *("HF_MODULES_CACHE", "TORCHINDUCTOR_CACHE_DIR", "CUDA_CACHE_PATH", "CC", "CXX", "FSSPEC_CONFIG_DIR"),
)
HARMLESS_ENV = ("PYTHONUNBUFFERED", "PYTHONFAULTHANDLER", "PYTHONHASHSEED", "PYTHONUTF8", "PYTHONIOENCODING")
CODE_ENV_MESSAGE = "this variable decides which code runs, or where it is found; put code into an image instead"

# --- labels and annotations -------------------------------------------------------------------------------------------

# Labels by which controllers, and this operator's own Service and policies, know their pods; annotations that weaken a
# pod's confinement or speak to the controllers of volumes.
CONTROLLED_NAMES = ("job-name", "controller-uid", "pod-template-hash", "app.kubernetes.io/component")
CONTROLLED_PREFIXES = (
    *("pv.kubernetes.io/", "volume.kubernetes.io/", "volume.beta.kubernetes.io/", "pod-security.kubernetes.io/"),
    *("container.apparmor.security.beta.kubernetes.io/", "container.seccomp.security.alpha.kubernetes.io/"),
    *("seccomp.security.alpha.kubernetes.io/", "io.kubernetes.cri-o.", "io.katacontainers.", "jobset.sigs.k8s.io/"),
)
LABEL_KEY_PATTERN = (
    r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"  # [prefix/]name
)
LABEL_KEY_MESSAGE = "a key is [domain/]name, the name at most 63 letters, digits, '-', '_' and '.'"
LABEL_VALUE_PATTERN = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
LABEL_VALUE_MESSAGE = (
    "a label's value is at most 63 letters, digits, '-', '_' and '.', with a letter or digit at its ends"
)

# --- the rest ---------------------------------------------------------------------------------------------------------

REVISION_PATTERN = "^[0-9a-f]{40}$"
REMOTE_CODE_MESSAGE = (
    "trust_remote_code runs code of the model's repository, so it needs a basemodel of hf://org/name and "
    "run_conf.model_args.revision with the 40 hex digits of a commit; and the operator's settings must allow it"
)
SYSTEM_PRIORITY_MESSAGE = "system-node-critical and system-cluster-critical belong to Kubernetes; choose another class"
# Where instances get their credentials: link-local by number, or by a name that only means that.
METADATA_NETWORKS = tuple(map(ip_network, ("169.254.0.0/16", "fe80::/10", "fd00:ec2::/32", "100.100.100.200/32")))
METADATA_NAMES = (
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "instance-data",
    "instance-data.ec2.internal",
)
PRIVATE_PLACES = ("/proc", "/sys", "/etc", "/run/secrets", "/var/run/secrets")  # the pod's own, never a user's
_IMAGE_FORM = "a registry's host, a path, and a tag or digest, as in registry.example.com/ml/trainer:1"


def _section(spec: Any, *path: str) -> Mapping[str, Any]:
    for name in path:
        spec = spec.get(name) if isinstance(spec, Mapping) else None
    return spec if isinstance(spec, Mapping) else {}


def check_code_in_env(spec: Mapping[str, Any]) -> Iterator[Violation]:
    variables = spec.get("env")
    for index, variable in enumerate(variables if isinstance(variables, list) else ()):
        name = variable.get("name") if isinstance(variable, Mapping) else None
        if not isinstance(name, str) or name in HARMLESS_ENV:
            continue
        if name in CODE_ENV or name.startswith(CODE_ENV_PREFIXES):
            yield Violation(("env", index, "name"), f"{name}: {CODE_ENV_MESSAGE}")


def check_keys_and_values(spec: Mapping[str, Any]) -> Iterator[Violation]:
    for where in ("labels", "annotations"):
        for key, value in _section(spec, where).items():
            if not isinstance(key, str):
                continue
            if key in CONTROLLED_NAMES or key.startswith(CONTROLLED_PREFIXES):
                yield Violation((where, key), f"{key} is reserved: controllers go by it; remove it")
            elif not re.fullmatch(LABEL_KEY_PATTERN[1:-1], key) or len(key.partition("/")[0]) > 253:
                yield Violation((where, key), f"{key!r}: {LABEL_KEY_MESSAGE}")
            elif where == "labels" and isinstance(value, str) and not re.fullmatch(LABEL_VALUE_PATTERN[1:-1], value):
                yield Violation((where, key), f"{value!r}: {LABEL_VALUE_MESSAGE}")


def check_priority(spec: Mapping[str, Any]) -> Iterator[Violation]:
    given = spec.get("priorityClassName")
    if isinstance(given, str) and given.startswith("system-"):
        yield Violation(("priorityClassName",), SYSTEM_PRIORITY_MESSAGE)


def check_remote_code(spec: Mapping[str, Any]) -> Iterator[Violation]:
    arguments = _section(spec, "run_conf", "model_args")
    basemodel, revision = spec.get("basemodel"), arguments.get("revision")
    if arguments.get("trust_remote_code") is not True:
        return
    pinned = isinstance(revision, str) and re.fullmatch(REVISION_PATTERN[1:-1], revision)
    if not (pinned and isinstance(basemodel, str) and basemodel.startswith("hf://") and "@" not in basemodel):
        yield Violation(("run_conf", "model_args", "trust_remote_code"), REMOTE_CODE_MESSAGE)


def check_paths_inside_models(spec: Mapping[str, Any]) -> Iterator[Violation]:
    """Names that become parts of paths in the pod."""
    arguments = _section(spec, "run_conf", "model_args")
    subfolder, variant = arguments.get("subfolder"), arguments.get("variant")
    if isinstance(subfolder, str) and (subfolder.startswith(("/", "~")) or ".." in subfolder.split("/")):
        yield Violation(
            ("run_conf", "model_args", "subfolder"),
            f"subfolder {subfolder!r} leads out of the model; name a folder inside it",
        )
    if isinstance(variant, str) and "/" in variant:
        yield Violation(
            ("run_conf", "model_args", "variant"), f"variant {variant!r} is a path; write a word, as in fp16"
        )
    resume = _section(spec, "run_conf").get("resume_from_checkpoint")
    if isinstance(resume, str) and (private_place(resume) or ".." in resume.split("/")):
        yield Violation(
            ("run_conf", "resume_from_checkpoint"),
            f"resume_from_checkpoint {resume!r} is no place for checkpoints; name a folder of a checkpoint",
        )


def check_characters(spec: Mapping[str, Any]) -> Iterator[Violation]:
    """Control characters forge lines of logs, and invisible ones make a text look like another."""
    for path, text in _texts(spec, ()):
        multiline = path[0] in ("annotations", "env", "evaluation_conf")  # their line breaks are content
        if found := next((one for one in text if _deceives(one, multiline)), None):
            yield Violation(path, f"{text[:80]!r} holds the character U+{ord(found):04X}, which nobody sees; remove it")


def _texts(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, (*path, str(key)))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, (*path, index))


def _deceives(character: str, multiline: bool) -> bool:
    if character.isascii():
        return not character.isprintable() and not (multiline and character in "\n\r\t")
    return unicodedata.category(character) in ("Cc", "Zl", "Zp") or character in _DIRECTIONS


_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # they reorder what is shown


def metadata_host(url: str) -> bool:
    """Whether a URL names a cloud's metadata service, in any spelling of its address."""
    try:
        host = (urlsplit(url).hostname or "").rstrip(".").lower()
    except ValueError:  # no URL; said elsewhere
        return False
    if host in METADATA_NAMES:
        return True
    address = _address(host.partition("%")[0])
    return address is not None and any(address in network for network in METADATA_NETWORKS)


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(host)
    except ValueError:
        try:
            return IPv4Address(socket.inet_aton(host))  # 2852039166, 0xa9fea9fe and 0251.0376.0251.0376 as C reads them
        except (OSError, UnicodeError):
            return None
    mapped = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    return mapped or address


def private_place(path: str) -> bool:
    """Whether a path in the pod is one of its own, where its environment and its secrets lie."""
    path = posixpath.normpath("/" + path.lstrip("/"))  # normpath alone keeps two slashes at the beginning
    return any(path == place or path.startswith(f"{place}/") for place in PRIVATE_PLACES)


def check_hosts(spec: Mapping[str, Any]) -> Iterator[Violation]:
    """Keys that are URLs of hosts; those of data are places, checked with all places."""
    keys = {key: spec.get(key) for key in ("bucketStorageHost", "httpProxy", "httpsProxy")}
    keys["tracking.mlflow_server_uri"] = _section(spec, "tracking").get("mlflow_server_uri")
    for key, url in keys.items():
        if isinstance(url, str) and metadata_host(url if "://" in url else f"https://{url}"):
            yield Violation(tuple(key.split(".")), METADATA_MESSAGE.format(url=url))


METADATA_MESSAGE = "{url} is the metadata service of a node, which gives out its credentials; name a server of your own"


def check_image(spec: Mapping[str, Any]) -> Iterator[Violation]:
    image = spec.get("finetuningImage")
    if isinstance(image, str) and ("//" in image or ".." in image or image.endswith("/")):
        yield Violation(("finetuningImage",), f"{image!r} is no image's name; write {_IMAGE_FORM}")


SECURITY_RULES = (
    check_code_in_env,
    check_keys_and_values,
    check_priority,
    check_remote_code,
    check_paths_inside_models,
    check_characters,
    check_hosts,
    check_image,
)


def check_security(spec: Mapping[str, Any]) -> Iterator[Violation]:
    """All of this file's rules."""
    for rule in SECURITY_RULES:
        yield from rule(spec)

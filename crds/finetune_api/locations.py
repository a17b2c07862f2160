"""Where models and data lie: one parsed form of every path and URI that a manifest may name."""

import hashlib
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from finetune_api.spec import FineTuneJobSpec

Scheme = Literal["local", "hf", "s3", "gs", "az", "http", "https", "pvc", "configmap", "dataset"]
SCHEMES: tuple[Scheme, ...] = ("hf", "s3", "gs", "az", "http", "https", "pvc", "configmap", "dataset")
BUCKETS: tuple[Scheme, ...] = ("s3", "gs", "az")


_OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class LocationError(ValueError):
    """A path that names nothing; the message says what it should look like."""


@dataclass(frozen=True)
class Location:
    """A parsed path: what holds it (bucket, repository, host, claim, config map), and the path inside.

    hf: container is org/name, or datasets/org/name for a file in a dataset repository. local: container is empty.
    """

    scheme: Scheme
    container: str
    path: str

    @property
    def uri(self) -> str:
        """The canonical text: bare bucket paths have their scheme."""
        if self.scheme == "local":
            return self.path
        return f"{self.scheme}://{self.container}" + (f"/{self.path}" if self.path else "")

    @property
    def basename(self) -> str:
        """The last part of the path, or of the container if there is no path."""
        return posixpath.basename(urlsplit(self.path).path.rstrip("/")) or posixpath.basename(self.container)

    def __str__(self) -> str:
        return self.uri


def parse_location(text: str) -> Location:
    """Parses a path or URI; a bare bucket/path means s3://bucket/path. Raises LocationError."""
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if text.startswith("/"):
        return Location("local", "", posixpath.normpath(text))
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "s3", text
    if scheme not in SCHEMES:
        raise LocationError(
            f"unknown scheme {scheme}:// in {text!r}; use one of {', '.join(SCHEMES)} or an absolute path"
        )
    if "@" in rest.split("/", 1)[0] and scheme not in ("az", "hf"):
        raise LocationError("credentials do not belong into a path; use bucketCredentialsSecret or hfTokenSecret")
    if ".." in rest.split("/"):
        raise LocationError(f"'..' in {text!r}; name the place itself")
    if scheme == "hf":
        return _parse_hf(text, rest)
    container, _, path = rest.partition("/")
    path = path if scheme in ("http", "https") else path.strip("/")
    if not container or (not path and scheme == "configmap"):
        raise LocationError(f"{text!r} is incomplete; {_FORM[scheme]}")
    if scheme == "configmap" and "/" in path:
        raise LocationError(f"{text!r} names no key of a ConfigMap; {_FORM[scheme]}")
    if scheme == "dataset" and path:
        raise LocationError(f"{text!r} has a path, but a dataset's name is all; {_FORM[scheme]}")
    if scheme in ("pvc", "configmap", "dataset") and not _OBJECT_NAME.fullmatch(container):
        raise LocationError(
            f"{container!r} in {text!r} cannot be the name of an object in the cluster; names have small letters, "
            "digits, '-' and '.'"
        )
    return Location(scheme, container, path)


_FORM: dict[str, str] = {
    "s3": "write s3://bucket/path",
    "gs": "write gs://bucket/path",
    "az": "write az://container/path",
    "http": "write http://host/path",
    "https": "write https://host/path",
    "pvc": "write pvc://claim/path",
    "configmap": "write configmap://name/key",
    "dataset": "write dataset://name",
}


def _parse_hf(text: str, rest: str) -> Location:
    parts = rest.strip("/").split("/")
    size = 3 if parts[0] in ("datasets", "models") else min(2, len(parts))
    if len(parts) < size or not all(parts):
        raise LocationError(
            f"{text!r} is incomplete; write hf://org/name, or hf://datasets/org/name/file.jsonl for data"
        )
    container = "/".join(parts[:size]).removeprefix("models/")
    return Location("hf", container, "/".join(parts[size:]))


def data_path(uri: str, work_dir: str) -> str:
    """Where the download puts a data file; absolute local paths stay themselves."""
    location = parse_location(uri)
    if location.scheme == "local":
        return location.path
    digest = hashlib.sha256(location.uri.encode()).hexdigest()[:8]
    return posixpath.join(work_dir, "data", f"{digest}-{location.basename}")


def model_key(spec: "FineTuneJobSpec") -> str:
    """The name of a model in the shared cache: 16 hex of what decides its files."""
    source = parse_location(spec.basemodel).uri
    parts = (source, spec.run_conf.model_args.revision, spec.hf_download_exclude_glob or "", *_detours(spec))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


# Variables that lead a download elsewhere than its URI says.
_REDIRECTING = ("HF_ENDPOINT", "HF_HUB_URL", "AWS_ENDPOINT_URL", "AWS_CONFIG_FILE", "STORAGE_EMULATOR_HOST")


def redirects(variable: str) -> bool:
    """Whether a variable of this name may lead a download elsewhere."""
    return variable.upper().startswith(_REDIRECTING) or variable.upper().endswith("_PROXY")


def _detours(spec: "FineTuneJobSpec") -> Iterator[str]:
    """What makes the same URI another model: the cache is shared, and nobody may put theirs in place of another's."""
    if spec.bucket_storage_host and parse_location(spec.basemodel).scheme in BUCKETS:
        yield f"bucketStorageHost={spec.bucket_storage_host}"
    if spec.ca_bundle_config_map:
        yield f"caBundleConfigMap={spec.ca_bundle_config_map.name}/{spec.ca_bundle_config_map.key}"
    for key, value in (("httpProxy", spec.http_proxy), ("httpsProxy", spec.https_proxy)):
        if value:
            yield f"{key}={value}"
    for variable in spec.env or ():
        if redirects(variable.name):
            yield f"env {variable.model_dump_json(by_alias=True, exclude_none=True)}"

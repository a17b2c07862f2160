"""Copies files and trees between the pod and remote stores (s3, gs, az, https, hf) through fsspec.

Downloads take up where they stopped, file by file; every file is written aside, checked for its size and renamed.
Uploads send the completion marker last, so that a reader never takes half a tree for a whole one. No answer from the
store is tried again for up to RETRY_SECONDS; then it is Unavailable, which the operator retries.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar

from finetune_api.constants import COMPLETION_MARKER
from finetune_api.locations import LocationError, parse_location
from finetune_api.rules_security import METADATA_MESSAGE, metadata_host
from finetune_trainer.errors import BadConfiguration, InputMissing, Unavailable
from finetune_trainer.transfer_errors import explain
from finetune_trainer.web_client import get_client

RETRY_SECONDS = 25.0  # a job should say within a minute that its store does not answer
WORKERS = 8
S3_CREDENTIALS = "bucketCredentialsSecret (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
_CREDENTIALS = {
    "s3": S3_CREDENTIALS,
    "gs": "the service account's access, or GOOGLE_APPLICATION_CREDENTIALS in env",
    "az": "AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, in env",
    "hf": "hfTokenSecret (HF_TOKEN)",
}
_STORE_VARIABLES = (
    "AWS_",
    "GOOGLE_",
    "GCS_",
    "STORAGE_EMULATOR",
    "AZURE_",
    "HF_",
    "HTTP",
    "http",
    "NO_PROXY",
    "no_proxy",
)
_T = TypeVar("_T")


class Remote:
    """A URI with the file system that serves it."""

    def __init__(self, uri: str, credentials: str | None = None) -> None:
        self.uri = with_scheme(uri)
        self.scheme = self.uri.partition("://")[0]
        self.credentials = credentials or _CREDENTIALS.get(self.scheme, "its access rules")
        self.fs = _file_system(self)
        self.fs.invalidate_cache()  # some stores' clients remember listings
        self.path = str(self.fs._strip_protocol(self.uri)).rstrip("/")

    def child(self, relative: str) -> str:
        return f"{self.path}/{relative}" if relative else self.path

    def call(self, action: Callable[[], _T], uri: str | None = None, *, writing: bool = False) -> _T:
        """As `insist`, for this store."""
        return insist(action, uri or self.uri, self.credentials, writing=writing)


def insist(action: Callable[[], _T], uri: str, credentials: str, *, writing: bool = False) -> _T:
    """Runs the action; an unanswered one again for RETRY_SECONDS. Raises what `explain` makes of its errors."""
    deadline = time.monotonic() + RETRY_SECONDS
    pause = 0.5
    while True:
        try:
            return action()
        except Exception as error:
            meaning = explain(error, uri, credentials, writing=writing)
            if meaning is None or meaning is error:
                raise
            if not isinstance(meaning, Unavailable) or time.monotonic() + pause > deadline:
                raise meaning from error
        time.sleep(pause)
        pause = min(pause * 2, 5.0)


def with_scheme(uri: str) -> str:
    """The URI as fsspec knows it: an absolute path is file://, a bare bucket/path is s3:// (parse_location's rule)."""
    try:
        location = parse_location(uri)
    except LocationError as error:
        raise BadConfiguration(str(error)) from None
    if location.scheme in ("http", "https") and metadata_host(uri):  # of a ConfigMap: a manifest is refused earlier
        raise BadConfiguration(METADATA_MESSAGE.format(url=uri))
    return f"file://{location.path}" if location.scheme == "local" else location.uri


def use_endpoint(bucket_storage_host: str | None) -> None:
    """Makes bucketStorageHost the S3 endpoint, unless the environment names one already (as the operator does in pods,
    and a user who runs the same manifest where the cluster's names do not resolve)."""
    if bucket_storage_host and not os.environ.get("AWS_ENDPOINT_URL"):
        os.environ["AWS_ENDPOINT_URL"] = bucket_storage_host


def _file_system(remote: Remote) -> Any:
    settings = tuple(sorted(item for item in os.environ.items() if item[0].startswith(_STORE_VARIABLES)))
    try:
        return insist(lambda: _connect(remote.scheme, settings, os.getpid()), remote.uri, remote.credentials)
    except ValueError as error:
        raise BadConfiguration(f"{remote.uri}: {error}; check {remote.credentials}") from None


@cache
def _connect(scheme: str, settings: tuple[tuple[str, str], ...], process: int) -> Any:
    """One client for each store, its settings in the environment, and this process: making one takes half a second."""
    import fsspec  # here: fsspec and the stores' libraries take seconds that a job on local files need not wait

    return fsspec.filesystem(scheme, skip_instance_cache=True, **_store_options(scheme))


def _store_options(scheme: str) -> dict[str, Any]:
    if scheme in ("http", "https"):
        return {"get_client": get_client}
    if scheme != "s3":
        return {}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    config: dict[str, Any] = {
        "connect_timeout": 5,
        "read_timeout": 60,
        "retries": {"max_attempts": 2, "mode": "standard"},
    }
    options: dict[str, Any] = {"config_kwargs": config, "use_listings_cache": False}
    if endpoint:
        # Stores other than AWS rarely have a host name per bucket, and know no checksums in trailers.
        config["s3"] = {"addressing_style": "path"}
        config["request_checksum_calculation"] = "when_required"
        config["response_checksum_validation"] = "when_required"
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        options["client_kwargs"] = {"endpoint_url": endpoint, "region_name": region}
    return options


@dataclass(frozen=True)
class Entry:
    """A file of a store: its size and text that changes when it does."""

    size: int
    version: str


def list_entries(remote: str, *, credentials: str | None = None) -> dict[str, Entry]:
    """Every file below the URI by its relative path; empty if there is none. Raises TrainerErrors."""
    source = Remote(remote, credentials)
    return {path: Entry(int(info.get("size") or 0), _version(info)) for path, info in _find(source).items()}


def is_folder(remote: str, *, credentials: str | None = None) -> bool:
    """Whether the URI is a folder and not a file. Raises TrainerErrors."""
    source = Remote(remote, credentials)
    return bool(source.call(lambda: source.fs.info(source.path)).get("type") == "directory")


def download_entries(remote: str, entries: Mapping[str, Entry], local: Path, *, credentials: str | None = None) -> None:
    """Copies the files of a listing into `local`; those that lie there with the right size are kept."""
    source = Remote(remote, credentials)
    _in_parallel(lambda path: _fetch(source, source.child(path), local / path, entries[path].size), entries)


def list_tree(remote: str, *, credentials: str | None = None) -> dict[str, int]:
    """Relative path and size in bytes of every file below the URI; empty if there is none. Raises TrainerErrors."""
    return _list(Remote(remote, credentials))


def _list(remote: Remote) -> dict[str, int]:
    return {path: int(info.get("size") or 0) for path, info in _find(remote).items()}


def _find(remote: Remote) -> dict[str, dict[str, Any]]:
    """What the store says of every file below the URI, by relative path."""
    found = remote.call(lambda: remote.fs.find(remote.path, detail=True))
    relative = {str(path).removeprefix(remote.path).lstrip("/"): info for path, info in found.items()}
    return {path: info for path, info in relative.items() if info.get("type") == "file" and not path.endswith("/")}


def download_tree(
    remote: str,
    local: Path,
    exclude: str | Iterable[str] | None = None,
    *,
    credentials: str | None = None,
    on_file: Callable[[str, int], None] | None = None,
) -> dict[str, int]:
    """Copies every file below `remote` into `local`; returns relative path -> bytes.

    exclude: globs of relative paths. Files that lie there with the right size already are kept. Raises InputMissing if
    there is nothing below the URI, and the TrainerErrors of transfer_errors.
    """
    source = Remote(remote, credentials)
    sizes = {path: size for path, size in _list(source).items() if path and not excluded(path, exclude)}
    if not sizes:
        raise InputMissing(f"{source.uri} does not exist or holds no file; check its bucket and path")
    for path in sizes:
        if ".." in PurePosixPath(path).parts:
            raise InputMissing(f"{source.uri}: the name {path!r} leads out of the folder")

    def fetch(path: str) -> None:
        _fetch(source, source.child(path), local / path, sizes[path])
        if on_file:
            on_file(path, sizes[path])

    _in_parallel(fetch, sizes)
    return sizes


def excluded(path: str, globs: str | Iterable[str] | None) -> bool:
    """Whether a relative path matches a glob, whole or by its last part."""
    patterns = [globs] if isinstance(globs, str) else list(globs or ())
    return any(fnmatch(path, pattern) or fnmatch(PurePosixPath(path).name, pattern) for pattern in patterns)


def fingerprint(remote: str, *, credentials: str | None = None) -> str:
    """Text that changes when the file does: its size with its ETag or time. Raises TrainerErrors."""
    source = Remote(remote, credentials)
    info = source.call(lambda: source.fs.info(source.path))
    return _version(info)


def _version(info: Mapping[str, Any]) -> str:
    keys = ("ETag", "etag", "blob_id", "LastModified", "mtime", "last_modified")
    version = next((info[key] for key in keys if info.get(key)), "")
    return f"{info.get('size')} {version}".strip()


def download_file(remote: str, local: Path, *, credentials: str | None = None) -> int:
    """Copies one file to the path `local`, whole or not at all; returns its size in bytes. Raises TrainerErrors."""
    source = Remote(remote, credentials)
    info = source.call(lambda: source.fs.info(source.path))
    if info.get("type") == "directory":
        raise InputMissing(f"{source.uri} is a folder; name one file in it")
    size = info.get("size")
    _fetch(source, source.path, local, None if size is None else int(size))
    return local.stat().st_size


def _fetch(source: Remote, path: str, target: Path, size: int | None) -> None:
    if size is not None and target.is_file() and target.stat().st_size == size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.part")
    uri = f"{source.scheme}://{path.lstrip('/')}" if source.scheme not in ("http", "https") else path
    source.call(lambda: source.fs.get_file(path, str(aside)), uri)
    arrived = aside.stat().st_size
    if size is not None and arrived != size:
        aside.unlink()
        raise Unavailable(f"{uri}: {arrived} of {size} bytes arrived; it may have been replaced meanwhile")
    os.replace(aside, target)


def upload_tree(
    local: Path, remote: str, marker_last: bool = True, *, credentials: str | None = None
) -> dict[str, int]:
    """Copies every file of the folder `local` below `remote`; returns relative path -> bytes.

    marker_last: the completion marker goes last, an old one is removed first, and if the same marker lies there already
    nothing is sent. Raises TrainerErrors.
    """
    target = Remote(remote, credentials)
    sizes = {
        path.relative_to(local).as_posix(): path.stat().st_size for path in sorted(local.rglob("*")) if path.is_file()
    }
    marker = COMPLETION_MARKER if marker_last and COMPLETION_MARKER in sizes else None
    if marker and _same_marker(target, local / marker):
        return sizes
    if marker:
        _remove(target, marker)

    def send(path: str) -> None:
        destination = target.child(path)
        target.call(lambda: _put(target, local / path, destination), writing=True)

    _in_parallel(send, [path for path in sizes if path != marker])
    if marker:
        send(marker)
    return sizes


def _put(target: Remote, source: Path, destination: str) -> None:
    if target.scheme == "file":
        target.fs.makedirs(str(PurePosixPath(destination).parent), exist_ok=True)
    target.fs.put_file(str(source), destination)


def _same_marker(target: Remote, marker: Path) -> bool:
    try:
        content = target.call(lambda: target.fs.cat_file(target.child(marker.name)), writing=True)
    except InputMissing:
        return False  # nothing there yet, or a store that may be written but not read: sending will tell
    return bytes(content) == marker.read_bytes()


def _remove(target: Remote, name: str) -> None:
    try:
        target.call(lambda: target.fs.rm_file(target.child(name)), writing=True)
    except InputMissing:
        pass


def open_remote(uri: str, mode: str = "rb", *, credentials: str | None = None) -> IO[Any]:
    """Opens a file on a remote store or a local path. Raises TrainerErrors for what fails on opening."""
    remote = Remote(uri, credentials)
    writing = "r" not in mode
    opened: IO[Any] = remote.call(lambda: remote.fs.open(remote.path, mode), writing=writing)
    return opened


def _in_parallel(action: Callable[[str], None], items: Iterable[str]) -> None:
    """Runs the action for each item in threads; the first error ends what has not begun and is raised at once."""
    pool = ThreadPoolExecutor(WORKERS)
    futures = [pool.submit(action, item) for item in items]
    try:
        for future in as_completed(futures):
            future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)

"""The shared cache of base models: one folder per source and revision, whole or absent.

A model is fetched beside its place, checked, marked complete and renamed. A lock file makes concurrent downloads of
one model wait for each other; a download that was cut off goes on with the files that it had. A complete entry is
taken as it is: a mutable source (an s3 prefix) that changed later is not looked at again, since jobs may be training
from the entry.
"""

import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from finetune_api.constants import COMPLETION_MARKER
from finetune_api.locations import Location
from finetune_trainer.errors import InputMissing
from finetune_trainer.memory_estimate import read_tensors
from finetune_trainer.transfer import download_tree, excluded, insist

log = logging.getLogger(__name__)

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tekken.json", "vocab.txt")


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from: a location that can be downloaded, its revision (hf only) and what to leave out (hf
    only)."""

    location: Location
    revision: str = "main"
    exclude: str | None = None
    credentials: str | None = None  # where the user gave the keys, for messages


@dataclass(frozen=True)
class CachedModel:
    """A complete model directory; fetched: whether this call downloaded it."""

    path: Path
    files: dict[str, int]
    fetched: bool
    notices: tuple[str, ...] = field(default=())


def fetch_model(
    source: ModelSource, cache: Path, key: str, *, needs_tokenizer: bool = True, needs_weights: bool = True
) -> CachedModel:
    """The cache entry `key`, downloaded if it is not complete. Raises TrainerErrors; InputMissing if it is no model."""
    entry = cache / key
    if (files := _complete_files(entry)) is not None:
        notices = check_model(entry, str(source.location), needs_tokenizer, needs_weights)
        return CachedModel(entry, files, fetched=False, notices=notices)
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f".{key}.lock"):
        if (files := _complete_files(entry)) is not None:  # another pod was faster
            notices = check_model(entry, str(source.location), needs_tokenizer, needs_weights)
            return CachedModel(entry, files, fetched=False, notices=notices)
        aside = cache / f"{key}.partial-download"  # a fixed name: the lock protects it, and a restart goes on with it
        aside.mkdir(exist_ok=True)
        files = _download(source, aside)
        notices = check_model(aside, str(source.location), needs_tokenizer, needs_weights)
        _mark_complete(aside, source, files)
        _move_into_place(aside, entry)
    return CachedModel(entry, files, fetched=True, notices=notices)


def is_cached(entry: Path) -> bool:
    """Whether a cache entry is there, whole."""
    return _complete_files(entry) is not None


def _complete_files(entry: Path) -> dict[str, int] | None:
    """The files of a complete entry, checked for their sizes; None if it is incomplete or damaged."""
    try:
        files: dict[str, int] = json.loads((entry / COMPLETION_MARKER).read_text())["files"]
        damaged = [name for name, size in files.items() if (entry / name).stat().st_size != size]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if damaged else files


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another pod downloads the same model; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(source: ModelSource, target: Path) -> dict[str, int]:
    if source.location.scheme == "hf":
        return _snapshot(source, target)
    return download_tree(
        source.location.uri,
        target,
        credentials=source.credentials,
        on_file=lambda path, size: log.info("  %s (%s)", path, human(size)),
    )


def _snapshot(source: ModelSource, target: Path) -> dict[str, int]:
    """A repository's files at a revision. huggingface_hub resumes and retries by itself."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # bars are noise in a pod's log
    os.environ.setdefault("HF_HOME", "/tmp/huggingface")  # the root file system is read-only
    from huggingface_hub import snapshot_download

    repository, _, pinned = source.location.container.partition("@")
    folder = source.location.path
    ignored = [source.exclude] if source.exclude else None

    def fetch() -> str:
        return str(
            snapshot_download(
                repository,
                revision=pinned or source.revision,
                ignore_patterns=ignored,
                allow_patterns=[f"{folder}/*"] if folder else None,
                local_dir=target,
                max_workers=4,
            )
        )

    insist(
        fetch,
        f"{source.location.uri} (revision {pinned or source.revision})",
        source.credentials or "hfTokenSecret (HF_TOKEN)",
    )
    shutil.rmtree(target / ".cache", ignore_errors=True)  # huggingface_hub's own bookkeeping
    if folder:
        _hoist(target, folder)
    return {
        path.relative_to(target).as_posix(): path.stat().st_size
        for path in sorted(target.rglob("*"))
        if path.is_file() and not excluded(path.name, ".*")
    }


def _hoist(target: Path, folder: str) -> None:
    """Moves the files of a folder of the repository to the top, where the model is looked for."""
    inner = target / folder
    for path in sorted(inner.iterdir()) if inner.is_dir() else []:
        os.replace(path, target / path.name)
    shutil.rmtree(target / folder.split("/", maxsplit=1)[0], ignore_errors=True)


def check_model(path: Path, name: str, needs_tokenizer: bool = True, needs_weights: bool = True) -> tuple[str, ...]:
    """Notices about a model directory. Raises InputMissing if config, weights or tokenizer are missing or cut short.

    needs_weights: false for a model that is trained from scratch, which reads none.
    """
    config = path / "config.json"
    if not config.is_file():
        raise InputMissing(f"{name} is no model: it has no config.json (found {_shown_files(path)})")
    try:
        json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputMissing(f"{name}: config.json cannot be read: {error}") from None
    safetensors, pickles = sorted(path.glob("*.safetensors")), sorted(path.glob("*.bin"))
    if needs_weights and not safetensors and not pickles:
        raise InputMissing(f"{name} has no weights: neither *.safetensors nor *.bin (found {_shown_files(path)})")
    try:
        if needs_weights:
            read_tensors(path)
    except (ValueError, KeyError, TypeError) as error:
        raise InputMissing(f"{name}: {error}; upload the model again") from None
    if needs_tokenizer and not any((path / file).is_file() for file in TOKENIZER_FILES):
        raise InputMissing(
            f"{name} has no tokenizer ({', '.join(TOKENIZER_FILES[:3])}, …); add it to the model or name one in "
            "run_conf.tokenizer"
        )
    if needs_weights and not safetensors:
        return (f"{name} has only pickled weights (*.bin), which can execute code when loaded; prefer safetensors",)
    return ()


def _shown_files(path: Path) -> str:
    names = sorted(file.name for file in path.iterdir() if not file.name.startswith(".")) if path.is_dir() else []
    return ", ".join(names[:8]) + (" …" if len(names) > 8 else "") if names else "nothing"


def _mark_complete(aside: Path, source: ModelSource, files: dict[str, int]) -> None:
    content = {
        "source": source.location.uri,
        "revision": source.revision,
        "files": files,
        "completedAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    marker = aside / f".{COMPLETION_MARKER}.part"
    with marker.open("w") as stream:
        json.dump(content, stream, indent=1, sort_keys=True)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(marker, aside / COMPLETION_MARKER)


def _move_into_place(aside: Path, entry: Path) -> None:
    if entry.exists():  # made by the kubelet as a mount point, or damaged
        broken = entry.with_name(f"{entry.name}.partial-replaced-{os.getpid()}")
        os.replace(entry, broken)
        shutil.rmtree(broken, ignore_errors=True)
    os.replace(aside, entry)


def human(size: float) -> str:
    """Bytes for people, in powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"

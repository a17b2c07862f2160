"""Brings the datasets of a job to its volume, each file whole or not at all, and fetched again only if its source
changed.

A dataset is one file, or a folder or repository of which one configuration and split is taken (dataset_folder.py), or
the name of either (dataset://, a ConfigMap that says where it lies). data/sources.py says where each goes.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune_api.constants import COMPLETION_MARKER, CONFIGMAP_MOUNT_DIR, DATASET_MOUNT_DIR, PVC_MOUNT_DIR
from finetune_api.data_conf import DatasetDefinition
from finetune_api.locations import Location, LocationError, data_path, parse_location
from finetune_trainer import dataset_folder, transfer
from finetune_trainer.data.files import format_of
from finetune_trainer.data.sources import SOURCE, Wanted, folder_of
from finetune_trainer.errors import BadConfiguration, InputMissing
from finetune_trainer.model_cache import human
from finetune_trainer.transfer import Entry, download_file, fingerprint

log = logging.getLogger(__name__)

_MOUNTS = {"pvc": PVC_MOUNT_DIR, "configmap": CONFIGMAP_MOUNT_DIR, "dataset": DATASET_MOUNT_DIR}
NAMED_KEYS = ("path", "format", "config", "split")  # of a named dataset's ConfigMap
NAMED_SCHEMES = ("hf", "s3", "gs", "az", "http", "https")  # what the pod can reach without being told beforehand


def fetch_data(datasets: Iterable[Wanted], work_dir: Path, credentials: dict[str, str]) -> None:
    """Puts every dataset where data/sources.py says and marks the data folder complete.

    credentials: scheme -> where the user gave the keys, for messages. Raises TrainerErrors that name the URI.
    """
    folder = work_dir / "data"
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / COMPLETION_MARKER
    known = _read_files(marker)
    marker.unlink(missing_ok=True)
    fetched: dict[str, str] = {}
    for wanted in datasets:
        source = _source(wanted)
        keys = credentials.get(source.location.scheme)
        target = folder_of(wanted, work_dir)
        if _is_folder(source, keys):
            _bring_folder(source, _list(source, keys), target, keys)
        elif source.named:
            _bring_named_file(source, target, keys)
        else:
            shutil.rmtree(target, ignore_errors=True)  # what is a file now may have been a folder
            path = Path(data_path(wanted.dataset.path, str(work_dir)))
            if version := _bring_file(source, path, known.get(source.uri), keys):
                fetched[source.uri] = version
    aside = marker.with_name(f".{marker.name}.part")
    aside.write_text(json.dumps({"files": fetched}, indent=1, sort_keys=True))
    os.replace(aside, marker)


@dataclass(frozen=True)
class _Source:
    """Where a dataset really lies, and what of it is wanted. named: the user gave only its name."""

    location: Location
    format: str | None
    config: str | None
    split: str | None
    default_split: str
    named: bool = False

    @property
    def uri(self) -> str:
        return self.location.uri

    @property
    def mounted(self) -> Path | None:
        """The place in this pod's file system; None for a remote store."""
        if self.location.scheme == "local":
            return Path(self.location.path)
        root = _MOUNTS.get(self.location.scheme)
        return Path(root) / self.location.container / self.location.path if root else None


def _source(wanted: Wanted) -> _Source:
    dataset, location = wanted.dataset, parse_location(wanted.dataset.path)
    if location.scheme != "dataset":
        return _Source(location, dataset.format, dataset.config, dataset.split, wanted.default_split)
    named = _named(location)
    log.info("data: %s is %s", location.uri, named.path)
    return _Source(
        parse_location(named.path),
        dataset.format or named.format,
        dataset.config or named.config,
        dataset.split or named.split,
        wanted.default_split,
        named=True,
    )


def _named(location: Location) -> DatasetDefinition:
    """What the ConfigMap of a named dataset says. Raises InputMissing or BadConfiguration."""
    folder = Path(_MOUNTS["dataset"]) / location.container
    given = {path.name: path.read_text(encoding="utf-8").strip() for path in _plain_files(folder)}
    if "path" not in given:
        raise InputMissing(
            f"{location.uri} does not exist: it is a ConfigMap {location.container} in the namespace of the job, "
            f"whose key path says where the data lies (found {', '.join(sorted(given)) or 'nothing'} in {folder})"
        )
    if unknown := sorted(set(given) - {*NAMED_KEYS, "description"}):
        raise BadConfiguration(
            f"{location.uri}: its ConfigMap has the key {unknown[0]!r}, which nothing reads; it may have "
            f"{', '.join(NAMED_KEYS)} and description"
        )
    try:
        named = DatasetDefinition.model_validate({key: given[key] for key in NAMED_KEYS if given.get(key)})
        scheme = parse_location(named.path).scheme
    except (ValidationError, LocationError) as error:
        raise BadConfiguration(f"{location.uri}: its ConfigMap cannot be used: {error}") from None
    if scheme not in NAMED_SCHEMES:
        raise BadConfiguration(
            f"{location.uri}: its path {named.path} has the scheme {scheme}, but a named dataset must lie where every "
            f"pod can reach it: {', '.join(NAMED_SCHEMES)}"
        )
    return named


def _plain_files(folder: Path) -> list[Path]:
    """A ConfigMap's keys; the kubelet keeps what it needs beside them under names with dots."""
    return [path for path in folder.iterdir() if path.is_file() and path.name[0] != "."] if folder.is_dir() else []


def _is_folder(source: _Source, credentials: str | None) -> bool:
    location = source.location
    if source.mounted:
        folder = source.mounted.is_dir()
        if not source.mounted.exists():
            return False  # told where it is fetched
    elif location.scheme in ("http", "https"):
        folder = False
    else:
        folder = not location.path or transfer.is_folder(location.uri, credentials=credentials)
    if not folder and (source.config or source.split):
        key = "config" if source.config else "split"
        raise BadConfiguration(
            f"{location.uri} is a file, which has no {key}; remove data_conf's {key} there, or name the folder"
        )
    return folder


def _list(source: _Source, credentials: str | None) -> dict[str, Entry]:
    """Every file of a folder."""
    root = source.mounted
    if root is None:
        return transfer.list_entries(source.uri, credentials=credentials)
    paths = [path for path in root.rglob("*") if path.is_file()]
    for path in paths if source.location.scheme != "local" else ():
        _check_inside(source, path)
    return {path.relative_to(root).as_posix(): Entry(path.stat().st_size, _version(path)) for path in paths}


def _check_inside(source: _Source, path: Path) -> None:
    """A link on a volume may lead anywhere in this pod: to its environment, for example. Raises InputMissing."""
    volume = Path(_MOUNTS[source.location.scheme]) / source.location.container
    if not path.resolve().is_relative_to(volume.resolve()):
        raise InputMissing(f"{source.uri}: {path.name} is a link that leads out of its volume; copy the file there")


def _version(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def _bring_folder(source: _Source, entries: Mapping[str, Entry], target: Path, credentials: str | None) -> None:
    """The wanted files of a folder, and nothing else, into the folder `target`."""
    choice = dataset_folder.choose(
        source.uri,
        entries,
        _card(source, entries, credentials),
        config=source.config,
        split=source.split,
        default_split=source.default_split,
        format=source.format,
    )
    chosen = {name: entries[name] for name in choice.files}
    facts = {"source": source.uri, "format": choice.format, "config": choice.config, "split": choice.split}
    size = human(sum(entry.size for entry in chosen.values()))
    what = f"{f'configuration {choice.config}, ' if choice.config else ''}split {choice.split}"
    with _filling(target, chosen, facts) as missing:
        if (root := source.mounted) is None:
            transfer.download_entries(source.uri, missing, target, credentials=credentials)
        else:
            for name in missing:
                _place(root / name, target / name, link=source.location.scheme == "local")
    files = "1 file" if len(chosen) == 1 else f"{len(chosen)} files"
    log.info("data: %s (%s): %s, %s", source.uri, what, files, size)


def _card(source: _Source, entries: Mapping[str, Entry], credentials: str | None) -> str | None:
    if dataset_folder.CARD not in entries:
        return None
    if source.mounted:
        content = (source.mounted / dataset_folder.CARD).read_bytes()
    else:
        with transfer.open_remote(f"{source.uri}/{dataset_folder.CARD}", credentials=credentials) as stream:
            content = stream.read()
    return content.decode("utf-8", errors="replace")


def _bring_named_file(source: _Source, target: Path, credentials: str | None) -> None:
    """One file that only its ConfigMap names: its ending is not known elsewhere, so it goes into a folder too."""
    version = fingerprint(source.uri, credentials=credentials)
    name = source.location.basename
    facts = {"source": source.uri, "format": format_of(source.uri, source.format)}
    with _filling(target, {name: Entry(0, version)}, facts) as missing:
        for one in missing:
            download_file(source.uri, target / one, credentials=credentials)
    log.info("data: %s (%s)", source.uri, human((target / name).stat().st_size))


@contextmanager
def _filling(target: Path, chosen: Mapping[str, Entry], facts: dict[str, Any]) -> Iterator[dict[str, Entry]]:
    """Yields what is not in `target` yet; afterwards SOURCE says that it is whole. What else lies there goes."""
    marker = target / SOURCE
    known = _read_files(marker)
    marker.unlink(missing_ok=True)
    target.mkdir(parents=True, exist_ok=True)
    kept = {name for name, entry in chosen.items() if known.get(name) == entry.version and (target / name).is_file()}
    for path in sorted(target.rglob("*"), reverse=True):
        if path.is_symlink() or path.is_file():
            if path.relative_to(target).as_posix() not in kept:
                path.unlink()
        elif not any(path.iterdir()):
            path.rmdir()
    yield {name: entry for name, entry in chosen.items() if name not in kept}
    files = {name: entry.version for name, entry in chosen.items()}
    marker.write_text(json.dumps({**facts, "files": files}, indent=1, sort_keys=True), encoding="utf-8")


def _place(source: Path, target: Path, *, link: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        target.symlink_to(source)
        return
    aside = target.with_name(f".{target.name}.part")
    shutil.copyfile(source, aside)
    os.replace(aside, target)


def _read_files(marker: Path) -> dict[str, str]:
    try:
        return dict(json.loads(marker.read_text())["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _bring_file(source: _Source, target: Path, known: str | None, credentials: str | None) -> str | None:
    """Copies one file unless it is here already; returns the version of its source, None for a local one."""
    location, mounted = source.location, source.mounted
    if location.scheme == "local":
        _check_local(location, target)
        return None
    if mounted and not mounted.is_file():
        raise InputMissing(f"{location.uri} does not exist in the mounted volume ({mounted}); check the name and path")
    if mounted:
        _check_inside(source, mounted)
    version = _version(mounted) if mounted else fingerprint(location.uri, credentials=credentials)
    if version == known and target.is_file():
        log.info("data: %s is here already", location.uri)
        return version
    target.unlink(missing_ok=True)
    if mounted:
        _place(mounted, target, link=False)
    else:
        download_file(location.uri, target, credentials=credentials)
    log.info("data: %s (%s)", location.uri, human(target.stat().st_size))
    return version


def _check_local(location: Location, path: Path) -> None:
    if not path.is_file():
        raise InputMissing(
            f"{location.path} is not a file here; a path without scheme and with a leading slash is a path in the pod: "
            "use pvc://claim/path, configmap://name/key or a bucket for data that lies elsewhere"
        )

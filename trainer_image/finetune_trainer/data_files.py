"""Brings the data files of a job to its volume, each whole or not at all, and fetched again only if its source
changed."""

import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from finetune_api.constants import COMPLETION_MARKER, CONFIGMAP_MOUNT_DIR, PVC_MOUNT_DIR
from finetune_api.locations import Location, data_path, parse_location
from finetune_trainer.errors import InputMissing
from finetune_trainer.model_cache import human
from finetune_trainer.transfer import download_file, fingerprint

log = logging.getLogger(__name__)

_MOUNTS = {"pvc": PVC_MOUNT_DIR, "configmap": CONFIGMAP_MOUNT_DIR}


def fetch_data(uris: Sequence[str], work_dir: Path, credentials: dict[str, str]) -> None:
    """Copies every file to data_path(uri, work_dir) and marks the folder complete.

    credentials: scheme -> where the user gave the keys, for messages. Raises TrainerErrors that name the URI.
    """
    folder = work_dir / "data"
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / COMPLETION_MARKER
    known = _read_marker(marker)
    marker.unlink(missing_ok=True)
    fetched: dict[str, str] = {}
    for uri in uris:
        location = parse_location(uri)
        target = Path(data_path(uri, str(work_dir)))
        if location.scheme == "local":
            _check_local(location, target)
            continue
        fetched[location.uri] = _fetch(location, target, known.get(location.uri), credentials.get(location.scheme))
    aside = marker.with_name(f".{marker.name}.part")
    aside.write_text(json.dumps({"files": fetched}, indent=1, sort_keys=True))
    os.replace(aside, marker)


def _read_marker(marker: Path) -> dict[str, str]:
    try:
        return dict(json.loads(marker.read_text())["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _check_local(location: Location, path: Path) -> None:
    if not path.is_file():
        raise InputMissing(
            f"{location.path} is not a file here; a path without scheme and with a leading slash is a path in the pod: "
            "use pvc://claim/path, configmap://name/key or a bucket for data that lies elsewhere"
        )


def _fetch(location: Location, target: Path, known: str | None, credentials: str | None) -> str:
    """Copies one file unless it is here already; returns the fingerprint of its source."""
    mounted = _mounted(location)
    if mounted:
        status = mounted.stat()
        found = f"{status.st_size} {status.st_mtime_ns}"
    else:
        found = fingerprint(location.uri, credentials=credentials)
    if found == known and target.is_file():
        log.info("data: %s is here already", location.uri)
        return found
    target.unlink(missing_ok=True)
    if mounted:
        aside = target.with_name(f".{target.name}.part")
        shutil.copyfile(mounted, aside)
        os.replace(aside, target)
    else:
        download_file(location.uri, target, credentials=credentials)
    log.info("data: %s (%s)", location.uri, human(target.stat().st_size))
    return found


def _mounted(location: Location) -> Path | None:
    """The mounted file of a pvc:// or configmap:// location; None for a remote store."""
    if location.scheme not in _MOUNTS:
        return None
    path = Path(_MOUNTS[location.scheme]) / location.container / location.path
    if not path.is_file():
        raise InputMissing(f"{location.uri} does not exist in the mounted volume ({path}); check the name and path")
    return path

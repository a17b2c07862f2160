"""Folders that are complete or not there: written aside, synced, described by a manifest, renamed; checked when read.

A rename is the only step that others can see, so a crash at any point leaves the old state or the new one.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from finetune_api.constants import COMPLETION_MARKER

ASIDE = ".writing-"
_CHUNK = 8 * 1024 * 1024


def write_folder(target: Path, write: Callable[[Path], None], facts: dict[str, Any]) -> None:
    """Makes the folder `target` with what `write` puts into it; an older one is replaced in one step.

    facts: put into the manifest beside each file's size and sha256. Raises OSError, leaving nothing behind.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.parent / f"{ASIDE}{target.name}-{uuid.uuid4().hex[:8]}"
    aside.mkdir()
    try:
        write(aside)
        seal(aside, facts)
        old = target.parent / f"{ASIDE}old-{target.name}-{uuid.uuid4().hex[:8]}"
        if target.exists():
            target.rename(old)
        aside.rename(target)
        sync_folder(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def seal(folder: Path, facts: dict[str, Any]) -> None:
    """Syncs every file to disk and writes the manifest, last."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor(4) as pool:
        described = dict(zip(names, pool.map(lambda name: _sync_and_describe(folder / name), names), strict=True))
    marker = folder / COMPLETION_MARKER
    marker.write_text(json.dumps({**facts, "files": described}, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    with marker.open("rb") as file:
        os.fsync(file.fileno())
    for inner in {marker.parent, *(path for path in folder.rglob("*") if path.is_dir())}:
        sync_folder(inner)


def _sync_and_describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return {"size": path.stat().st_size, "sha256": sha256(path)}


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Makes names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_facts(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder, or None if it has none or a damaged one."""
    try:
        facts = json.loads((folder / COMPLETION_MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) and isinstance(facts.get("files"), dict) else None


def fault(folder: Path) -> str | None:
    """What is wrong with a folder against its manifest, or None if it is whole."""
    facts = read_facts(folder)
    if facts is None:
        return f"it has no readable {COMPLETION_MARKER}"
    for name, described in facts["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != described["size"]:
            return f"{name} has {path.stat().st_size} of {described['size']} bytes"
    with ThreadPoolExecutor(4) as pool:
        names = list(facts["files"])
        for name, digest in zip(names, pool.map(lambda name: sha256(folder / name), names), strict=True):
            if digest != facts["files"][name]["sha256"]:
                return f"the content of {name} has changed"
    return None


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed process was writing aside."""
    for left in folder.glob(f"{ASIDE}*") if folder.is_dir() else ():
        shutil.rmtree(left, ignore_errors=True)

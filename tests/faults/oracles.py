"""What a run has come to, without what differs from run to run: times, uids, hashes, the job's name."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from finetune_api import constants

from .plans import Plan

Object = dict[str, Any]
DOWNLOAD = re.compile(r"-download-[0-9a-f]{6}")  # of the model's address, which differs from run to run
VOLATILE = re.compile(r"(Time|At|Seconds|time|uid|Uid|pod|Pod|[hH]ash|resourceVersion|nodeName)$")


@dataclass
class Result:
    plan: Plan
    writes: list[str]
    done: list[str]
    end: dict[str, Any]
    seconds: float
    wrong: list[str] = field(default_factory=list)

    def explained(self) -> str:
        lines = [f"  done: {one}" for one in self.done] + [f"  WRONG: {one}" for one in self.wrong]
        lines += [f"  write {number}: {line}" for number, line in enumerate(self.writes)]
        return "\n".join(lines)


async def snapshot(job: Object, children: dict[str, list[Object]], name: str) -> dict[str, Any]:
    """Flat: path to value."""
    words = {job["metadata"]["uid"]: "UID"}
    for claim in children["PersistentVolumeClaim"]:
        if (claim["metadata"].get("labels") or {}).get(constants.LABEL_ROLE) == constants.ROLE_CACHE:
            words[claim["metadata"]["name"]] = "CACHE"
    words[name] = "NAME"

    def plain(text: str) -> str:
        for found, word in words.items():
            text = text.replace(found, word)
        return DOWNLOAD.sub("-download-HASH", text)

    flat: dict[str, Any] = {}

    def walk(path: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, one in value.items():
                if not VOLATILE.search(key):
                    walk(f"{path}.{key}", one)
        elif isinstance(value, list):
            ordered = sorted(value, key=lambda one: one["type"]) if _conditions(value) else value
            for number, one in enumerate(ordered):
                walk(f"{path}[{one['type'] if _conditions(value) else number}]", one)
        else:
            flat[path] = plain(value) if isinstance(value, str) else value

    walk("status", job.get("status") or {})
    for kind, found in children.items():
        names = sorted(plain(child["metadata"]["name"]) for child in found)
        flat[f"children.{kind}"] = ", ".join(names)
    return flat


def _conditions(value: list[Any]) -> bool:
    return bool(value) and all(isinstance(one, dict) and "type" in one for one in value)


def stable(reference: dict[str, Any], end: dict[str, Any]) -> list[str]:
    """How an end differs from the reference's."""
    return [
        f"{path} is {end.get(path)!r}, in the reference {reference.get(path)!r}"
        for path in sorted({*reference, *end})
        if reference.get(path) != end.get(path)
    ]

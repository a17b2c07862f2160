"""`--set key=value`: change a key of a manifest's spec from the command line, in Helm's notation.

`training_args.learning_rate=1e-4`, `data_conf.training_data.datasets[0].path=/data/x.jsonl`, `tracking=null` (removes
the key). Values are YAML, read as kubectl reads a manifest, so `2` is a number and `"2"` is text.
"""

from __future__ import annotations

import re
from typing import Any

from finetune_cli.errors import UsageError

PART = re.compile(r"(?P<key>(?:\\.|[^.\[\]\\])+)(?P<indexes>(?:\[\d+\])*)\Z")
SPLIT = re.compile(r"(?<!\\)\.")
Step = str | int


def parse_assignment(text: str) -> tuple[list[Step], Any]:
    """'a.b[0]=2' -> (['a', 'b', 0], 2); a backslash keeps a dot in a key; a leading `spec.` is understood.

    Raises:
        UsageError: no '=', an empty key, or a value that is not YAML.
    """
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise UsageError(f"--set {text!r}: write key=value, for example --set num_train_epochs=1")
    path: list[Step] = []
    for part in SPLIT.split(key.strip()):
        match = PART.match(part)
        if not match:
            raise UsageError(f"--set {text!r}: {part!r} is not a key; write a.b[0].c=value")
        path.append(re.sub(r"\\(.)", r"\1", match["key"]))
        path.extend(int(index) for index in re.findall(r"\d+", match["indexes"]))
    if path[0] == "spec" and len(path) > 1:
        path = path[1:]
    return path, _yaml_value(value, text)


def apply_assignments(spec: dict[str, Any], assignments: list[str]) -> None:
    """Change `spec` in place, in order. Raises UsageError."""
    for text in assignments:
        path, value = parse_assignment(text)
        _assign(spec, path, value, text)


def _yaml_value(value: str, text: str) -> Any:
    from finetune_api.manifest import ManifestError, load_manifests

    try:
        documents = load_manifests(value)
    except ManifestError as cause:
        raise UsageError(f"--set {text!r}: the value is not YAML: {cause.message}") from cause
    return documents[0].document if documents else None


def _assign(spec: dict[str, Any], path: list[Step], value: Any, text: str) -> None:
    here: Any = spec
    for position, step in enumerate(path):
        last = position == len(path) - 1
        shown = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path[:position]).lstrip(".")
        if isinstance(step, int):
            if not isinstance(here, list):
                raise UsageError(f"--set {text!r}: {shown} is not a list")
            if step > len(here):
                raise UsageError(f"--set {text!r}: {shown} has {len(here)} items, so [{step}] cannot be set")
            if step == len(here):
                here.append(None)
        elif not isinstance(here, dict):
            raise UsageError(f"--set {text!r}: {shown} has no keys: it is {here!r}")
        if not last:
            if (here.get(step) if isinstance(here, dict) else here[step]) is None:
                here[step] = [] if isinstance(path[position + 1], int) else {}
            here = here[step]
        elif value is None and isinstance(here, dict):
            here.pop(step, None)
        else:
            here[step] = value

"""validate_manifest: every problem of a FineTuneJob at once, each with its place, what is wrong and what to do.

Runs the same rules as FineTuneJobSpec itself; what it adds is the place in the file, sentences instead of a library's
wording, and suggestions for misspelt keys and values.
"""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from finetune_api.constants import API_VERSION, KIND, MAX_NAME_LENGTH
from finetune_api.known_keys import known_keys
from finetune_api.manifest import Manifest, to_manifest
from finetune_api.spec import FineTuneJobSpec
from finetune_api.violations import RULE, has_step, value_at
from finetune_api.wording import describe_error
from finetune_api.yaml_scalars import resolve_plain

Path = tuple[str | int, ...]
NAME_PATTERN = re.compile(r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
OBJECT_KEYS = ("apiVersion", "kind", "metadata", "spec", "status")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. line and column count from 1 and are None for data without a file."""

    path: str
    message: str
    line: int | None = None
    column: int | None = None
    suggestion: str | None = None
    source: str = ""
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.source, self.line, self.column) if part not in ("", None))
        hint = f" (did you mean {self.suggestion}?)" if self.suggestion else ""
        return f"{place + ': ' if place else ''}{self.severity}: {self.path}: {self.message}{hint}"


def validate_manifest(manifest: Manifest | Mapping[str, Any]) -> list[Problem]:
    """All problems of one manifest, in the order of the file; no errors if it would be admitted and can be trained."""
    manifest = manifest if isinstance(manifest, Manifest) else to_manifest(manifest)
    finder = _Finder(manifest)
    if not isinstance(manifest.document, dict):
        finder.add((), "a manifest is a mapping with apiVersion, kind, metadata and spec")
        return finder.problems
    finder.check_object()
    if isinstance(manifest.document.get("spec"), dict):
        finder.check_spec(manifest.document["spec"])
    else:
        finder.add(("spec",), "spec is missing; see the first example in examples/")
    finder.warn_of_surprises()
    return sorted(finder.problems, key=lambda problem: (problem.line or 0, problem.column or 0))


def path_text(path: Sequence[str | int]) -> str:
    """spec.data_conf.training_data.datasets[0].path"""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text or "."


class _Finder:
    """Collects problems with their places."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.problems: list[Problem] = []

    def add(
        self,
        path: Path,
        message: str,
        suggestion: str | None = None,
        severity: Literal["error", "warning"] = "error",
    ) -> None:
        place = self.manifest.position(path)
        self.problems.append(
            Problem(
                path_text(path),
                message,
                place.line if place else None,
                place.column if place else None,
                suggestion,
                self.manifest.source,
                severity,
            )
        )

    def warn_of_surprises(self) -> None:
        """Words and numbers that kubectl reads in its own way, unless an error blames them already."""
        blamed = {problem.path for problem in self.problems}
        for path, text in self.manifest.surprises.items():
            if path_text(path) not in blamed:
                read = json.dumps(resolve_plain(text))
                self.add(path, f"kubectl reads {text} as {read}; write {read}, or quotes around it", severity="warning")

    def check_object(self) -> None:
        document = self.manifest.document
        if document.get("apiVersion") != API_VERSION:
            self.add(("apiVersion",), f"must be {API_VERSION}, not {document.get('apiVersion')}")
        if document.get("kind") != KIND:
            self.add(("kind",), f"must be {KIND}, not {document.get('kind')}")
        for key in document:
            if key not in OBJECT_KEYS:
                near = difflib.get_close_matches(str(key), OBJECT_KEYS, n=1)
                self.add((str(key),), "unknown key", near[0] if near else None)
        for path in self.manifest.duplicates:
            self.add(path, "the key is given twice; kubectl would take the last one without a word")
        name = self.manifest.metadata.get("name")
        if name is None and self.manifest.metadata.get("generateName") is None:
            self.add(("metadata", "name"), "metadata.name is missing")
        elif isinstance(name, str) and (len(name) > MAX_NAME_LENGTH or not NAME_PATTERN.match(name)):
            self.add(
                ("metadata", "name"),
                f"name {name!r} must be at most {MAX_NAME_LENGTH} of a-z, 0-9 and '-', beginning with a letter and "
                "ending with a letter or digit, since the names of Jobs and volumes derive from it",
            )
        elif name is not None and not isinstance(name, str):
            self.add(("metadata", "name"), f"name must be text, not {name!r}; write it in quotes")

    def check_spec(self, spec: dict[str, Any]) -> None:
        try:
            FineTuneJobSpec.model_validate(spec)
        except ValidationError as error:
            self._add_errors(spec, error)

    def _add_errors(self, spec: dict[str, Any], error: ValidationError) -> None:
        seen: dict[Path, list[Any]] = {}
        for line in error.errors(include_url=False):
            path = real_path(spec, line["loc"], line["type"])
            seen.setdefault(path, []).append(line)
        for path, lines in seen.items():
            rules = [line for line in lines if line["type"] == RULE]
            for line in rules or lines[:1]:  # a rule's own sentence says more than the schema's
                self._add_line(spec, path, line, lines)

    def _add_line(self, spec: dict[str, Any], path: Path, line: Any, lines: list[Any]) -> None:
        full: Path = ("spec", *path)
        if line["type"] == RULE:
            self.add(full, line["msg"])
        elif line["type"] == "extra_forbidden":
            known = known_keys(FineTuneJobSpec, spec, path[:-1])
            self.add(full, f"unknown key {path[-1]!r}", suggest_key(str(path[-1]), known))
        else:
            message, suggestion = describe_error(path, lines, value_at(spec, path))
            self.add(full, message, suggestion)


def suggest_key(key: str, known: Mapping[str, type[BaseModel] | None]) -> str | None:
    """The known key that a misspelt one probably means; also across snake_case and camelCase."""
    folded = {one.replace("_", "").lower(): one for one in known}
    plain = key.replace("_", "").replace("-", "").lower()
    if plain in folded:
        return folded[plain]
    near = difflib.get_close_matches(plain, folded, n=1, cutoff=0.7)
    return folded[near[0]] if near else None


def real_path(data: Any, loc: tuple[str | int, ...], error_type: str) -> Path:
    """pydantic's location without the names of union members that it puts in between."""
    path: list[str | int] = []
    for index, step in enumerate(loc):
        if has_step(data, step):
            data = data[step]
            path.append(step)
        elif (index == len(loc) - 1 and error_type in ("missing", "extra_forbidden", RULE)) or error_type == RULE:
            path.append(step)
    return tuple(path)

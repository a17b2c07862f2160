"""Manifests as kubectl reads them, with the line and column of every key.

PyYAML only scans and composes; what a scalar means is decided by yaml_scalars, as kubectl decides it. Reading a file
differently from kubectl would make `finetune validate` and the apiserver disagree.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from finetune_api.yaml_scalars import resolve_plain, surprising

Path = tuple[str | int, ...]
_PLAIN = "plain"  # tag of an untagged plain scalar
_STR = "tag:yaml.org,2002:str"
MAX_NODES = 200_000  # a document of nested aliases may otherwise grow without end
MAX_CHARACTERS = 8 * 2**20  # the API server takes 3 MiB at a time; a file may hold several objects


class ManifestError(ValueError):
    """A text that is no YAML or JSON; line and column from 1."""

    def __init__(self, message: str, line: int | None = None, column: int | None = None, source: str = "") -> None:
        super().__init__(message)
        self.message, self.line, self.column, self.source = message, line, column, source

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.source, self.line, self.column) if part not in ("", None))
        return f"{place}: {self.message}" if place else self.message


@dataclass(frozen=True)
class Position:
    """Line and column, from 1."""

    line: int
    column: int


@dataclass
class Manifest:
    """One document of a file."""

    document: Any
    source: str = ""
    keys: dict[Path, Position] = field(default_factory=dict)  # where each key (or list item) begins
    duplicates: list[Path] = field(default_factory=list)
    surprises: dict[Path, str] = field(default_factory=dict)  # path -> text that kubectl reads in its own way

    @property
    def kind(self) -> str:
        """The object's kind, or ''."""
        return self._text("kind")

    @property
    def api_version(self) -> str:
        """The object's apiVersion, or ''."""
        return self._text("apiVersion")

    @property
    def metadata(self) -> dict[str, Any]:
        """The object's metadata; empty if there is none."""
        metadata = self.document.get("metadata") if isinstance(self.document, dict) else None
        return metadata if isinstance(metadata, dict) else {}

    @property
    def name(self) -> str:
        """metadata.name, or ''."""
        name = self.metadata.get("name")
        return name if isinstance(name, str) else ""

    @property
    def namespace(self) -> str | None:
        """metadata.namespace, if given."""
        namespace = self.metadata.get("namespace")
        return namespace if isinstance(namespace, str) else None

    @property
    def spec(self) -> dict[str, Any]:
        """The object's spec; empty if there is none."""
        spec = self.document.get("spec") if isinstance(self.document, dict) else None
        return spec if isinstance(spec, dict) else {}

    def position(self, path: Sequence[str | int]) -> Position | None:
        """Where a path stands, or its nearest parent that does."""
        for length in range(len(path), -1, -1):
            found = self.keys.get(tuple(path[:length]))
            if found:
                return found
        return None

    def _text(self, key: str) -> str:
        value = self.document.get(key) if isinstance(self.document, dict) else None
        return value if isinstance(value, str) else ""


def load_manifests(text: str, source: str = "") -> list[Manifest]:
    """Every object of a YAML or JSON text, items of a List too; empty documents are skipped. Raises ManifestError."""
    if len(text) > MAX_CHARACTERS:
        raise ManifestError(f"the text is too large: {len(text)} characters, at most {MAX_CHARACTERS}", source=source)
    try:
        return _load(text, source)
    except RecursionError:
        raise ManifestError("the text is nested too deeply", source=source) from None


def _load(text: str, source: str) -> list[Manifest]:
    if text.lstrip().startswith("{"):
        text = text.replace("\t", " ")  # JSON may be indented with tabs, which YAML refuses
    try:
        nodes = list(yaml.compose_all(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ManifestError(
            " ".join(part for part in (error.context, error.problem) if part),
            mark.line + 1 if mark else None,
            mark.column + 1 if mark else None,
            source,
        ) from None
    except yaml.YAMLError as error:
        raise ManifestError(str(error), source=source) from None
    manifests: list[Manifest] = []
    for node in nodes:
        if node is None:
            continue
        reader = _Reader(source)
        document = reader.read(node, ())
        reader.manifest.document = document
        if document is not None:
            manifests.extend(_items(reader.manifest))
    return manifests


def _items(manifest: Manifest) -> list[Manifest]:
    """The objects in a List, or the one object."""
    if manifest.kind != "List" or not isinstance(manifest.document.get("items"), list):
        return [manifest]
    return [
        Manifest(
            item,
            manifest.source,
            {path[2:]: place for path, place in manifest.keys.items() if path[:2] == ("items", index)},
            [path[2:] for path in manifest.duplicates if path[:2] == ("items", index)],
            {path[2:]: text for path, text in manifest.surprises.items() if path[:2] == ("items", index)},
        )
        for index, item in enumerate(manifest.document["items"])
    ]


class _Loader(yaml.SafeLoader):
    """Leaves plain scalars unresolved, marked as such."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode:
            return _PLAIN if implicit[0] else _STR
        return str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]


class _Reader:
    """Turns composed nodes into data, noting where each key stands."""

    def __init__(self, source: str) -> None:
        self.manifest = Manifest(None, source)
        self._open: list[int] = []
        self._count = 0

    def read(self, node: yaml.Node, path: Path) -> Any:
        self._count += 1
        if id(node) in self._open or self._count > MAX_NODES:
            raise self._error(
                node, "an alias contains itself" if id(node) in self._open else "the document is too large"
            )
        self.manifest.keys.setdefault(path, _position(node))
        if isinstance(node, yaml.ScalarNode):
            self._note_surprise(node, path)
            return self._scalar(node)
        self._open.append(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
            return self._mapping(node, path)
        finally:
            self._open.pop()

    def _mapping(self, node: yaml.Node, path: Path) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error(key_node, "a key must be a scalar")
            if key_node.tag == _PLAIN and key_node.value == "<<":
                for source in value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]:
                    merged = {**self.read(source, path), **merged}
                continue
            scalar = self._scalar(key_node)
            if scalar is None:
                raise self._error(key_node, "a key must not be null")
            key = _key_text(scalar)
            if key in own:
                self.manifest.duplicates.append((*path, key))
            self.manifest.keys[(*path, key)] = _position(key_node)
            self._note_surprise(key_node, (*path, key))
            own[key] = self.read(value_node, (*path, key))
        return {**merged, **own}

    def _note_surprise(self, node: yaml.ScalarNode, path: Path) -> None:
        if node.tag == _PLAIN and node.value and surprising(node.value):
            self.manifest.surprises[path] = node.value

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        if node.tag == _STR:
            return node.value
        value = resolve_plain(node.value)
        if node.tag == _PLAIN or not isinstance(value, str):
            return value
        raise self._error(node, f"{node.tag.rpartition(':')[2]} cannot hold {node.value!r}")

    def _error(self, node: yaml.Node, message: str) -> ManifestError:
        place = _position(node)
        return ManifestError(message, place.line, place.column, self.manifest.source)


def _position(node: yaml.Node) -> Position:
    return Position(node.start_mark.line + 1, node.start_mark.column + 1)


def _key_text(key: Any) -> str:
    return key if isinstance(key, str) else json.dumps(key)


def to_manifest(document: Mapping[str, Any], source: str = "") -> Manifest:
    """A manifest of data that never was a text: no positions."""
    return Manifest(dict(document), source)

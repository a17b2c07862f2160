"""Manifests are read as kubectl reads them, and every key knows its line and column."""

import math

import pytest

from finetune_api.manifest import ManifestError, Position, load_manifests
from finetune_api.yaml_scalars import resolve_plain


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-5", 2e-5),
        ("1e-4", 1e-4),
        ("1E3", 1000),
        ("3.0", 3),
        (".5", 0.5),
        ("5.", 5),
        ("+1", 1),
        ("-7", -7),
        ("010", 8),
        ("0o10", 8),
        ("0x10", 16),
        ("0b11", 3),
        ("1_000", 1000),
        ("no", False),
        ("off", False),
        ("n", False),
        ("Yes", True),
        ("on", True),
        ("y", True),
        ("~", None),
        ("", None),
        ("Null", None),
        ("nO", "nO"),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("1.2.3", "1.2.3"),
        ("08", 8),
        ("1e", "1e"),
        ("-", "-"),
        ("64Gi", "64Gi"),
        (".inf", math.inf),
    ],
)
def test_plain_scalars(text: str, value: object) -> None:
    resolved = resolve_plain(text)
    assert resolved == value
    assert type(resolved) is type(value)


def test_quoted_scalars_are_text() -> None:
    (manifest,) = load_manifests("a: 'no'\nb: \"2e-5\"\nc: !!str 5\nd: |\n  no\ne: !!int 7\n")
    assert manifest.document == {"a": "no", "b": "2e-5", "c": "5", "d": "no\n", "e": 7}


def test_positions() -> None:
    text = "kind: A\nspec:\n  list:\n    - name: x\n      value: 1\n    - {name: y}\n"
    (manifest,) = load_manifests(text, "f.yaml")
    assert manifest.position(("spec", "list", 0, "value")) == Position(5, 7)
    assert manifest.position(("spec", "list", 1, "name")) == Position(6, 8)
    assert manifest.position(("spec", "list", 1, "missing")) == Position(6, 7), "the nearest parent"
    assert manifest.position(("spec", "absent")) == Position(2, 1)


def test_several_documents_and_empty_ones() -> None:
    manifests = load_manifests("---\nkind: A\n---\n# nothing\n---\nkind: B\n")
    assert [manifest.kind for manifest in manifests] == ["A", "B"]
    assert manifests[1].position(("kind",)) == Position(6, 1)


def test_a_list_is_its_items() -> None:
    manifests = load_manifests(
        "kind: List\napiVersion: v1\nitems:\n  - kind: A\n    metadata: {name: one}\n  - kind: B\n"
    )
    assert [manifest.kind for manifest in manifests] == ["A", "B"]
    assert manifests[0].position(("metadata", "name")) == Position(5, 16)


def test_json_with_tabs() -> None:
    (manifest,) = load_manifests('{\n\t"kind": "A",\n\t"spec": {"a": [1, 2.5, null, true]}\n}')
    assert manifest.spec == {"a": [1, 2.5, None, True]}
    assert manifest.position(("spec",)) == Position(3, 2)


def test_anchors_and_merges() -> None:
    (manifest,) = load_manifests("base: &b {one: 1, two: 2}\nspec:\n  <<: *b\n  two: 3\n  all: *b\n")
    assert manifest.spec == {"one": 1, "two": 3, "all": {"one": 1, "two": 2}}


def test_keys_are_text() -> None:
    (manifest,) = load_manifests("1: a\nno: b\n")
    assert manifest.document == {"1": "a", "false": "b"}


def test_duplicate_keys_are_noticed() -> None:
    (manifest,) = load_manifests("spec:\n  a: 1\n  a: 2\n")
    assert manifest.duplicates == [("spec", "a")]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a: [1\nb: 2\n", 2, "flow sequence"),
        ("a:\n\tb: 1\n", 2, "cannot start any token"),
        ("a: *nowhere\n", 1, "undefined alias"),
        ("a: &x\n  b: *x\n", 1, "contains itself"),
        ("~: 1\n", 1, "must not be null"),
        ("? [1]\n: 2\n", 1, "key must be a scalar"),
        ("a: !!int x\n", 1, "int cannot hold 'x'"),
    ],
)
def test_what_cannot_be_read_names_its_place(text: str, line: int, said: str) -> None:
    with pytest.raises(ManifestError, match=said) as caught:
        load_manifests(text, "f.yaml")
    assert caught.value.line == line
    assert str(caught.value).startswith(f"f.yaml:{line}:")


def test_aliases_cannot_grow_without_end() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(ManifestError, match="too large"):
        load_manifests("\n".join(lines))

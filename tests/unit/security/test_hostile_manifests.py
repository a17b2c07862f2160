"""Texts that are made to exhaust, or to execute: reading a manifest ends soon, and with a sentence."""

import string
import time
from itertools import pairwise
from pathlib import Path

import pytest

from finetune_api.manifest import ManifestError, load_manifests
from finetune_api.validation import validate_manifest


def chain(first: str, link: str) -> str:
    """Nine levels, each of which says the one before nine times."""
    names = string.ascii_lowercase[:10]
    levels = [link.format(",".join([f"*{before}"] * 9), name=name) for before, name in pairwise(names)]
    return "\n".join([f"a: &a {first}", *levels])


BOMBS = {
    "a billion laughs": (chain("[x,x,x,x,x,x,x,x,x]", "{name}: &{name} [{}]"), "too large"),
    "a billion merges": (chain("{x: 1}", "{name}: &{name} {{<<: [{}]}}"), "too large"),
    "brackets without end": ("[" * 100_000, "nested too deeply"),
    "keys without end": ("\n".join(" " * depth + "a:" for depth in range(3000)), "nested too deeply"),
    "an alias in itself": ("a: &a [*a]", "contains itself"),
    "a text of megabytes": ("a: '" + "x" * 2**24 + "'", "too large"),
    "bytes": ("a: !!binary AAAA", "cannot hold"),
    "a zero byte": ("a: \0", "special characters"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_soon(name: str) -> None:
    text, says = BOMBS[name]
    began = time.process_time()
    with pytest.raises(ManifestError, match=says):
        load_manifests(text)
    assert time.process_time() - began < 10


@pytest.mark.parametrize("number", ["9" * 5000, "0x" + "f" * 5000, "-" + "9" * 5000, "1e999999999", "0b" + "1" * 5000])
def test_numbers_without_end_are_no_numbers_of_a_manifest(number: str) -> None:
    head = "apiVersion: finetune-operator.io/v1alpha1\nkind: FineTuneJob\nmetadata: {name: a}\n"
    problems = validate_manifest(load_manifests(f"{head}spec: {{nodes: {number}}}")[0])
    assert any(problem.path == "spec.nodes" for problem in problems)


@pytest.mark.parametrize("tag", ["python/object/apply:os.system", "python/name:os.system", "python/module:os"])
def test_tags_make_nothing(tag: str, tmp_path: Path) -> None:
    mark = tmp_path / "owned"
    for text in (f'a: !!{tag} ["touch {mark}"]', f"!!{tag} 'touch {mark}'"):
        try:
            documents = [manifest.document for manifest in load_manifests(text)]
        except ManifestError:
            continue
        assert documents in ([], [{"a": [f"touch {mark}"]}], [f"touch {mark}"])
    assert not mark.exists()

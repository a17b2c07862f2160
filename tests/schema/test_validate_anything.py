"""Whatever stands at any path of a manifest, `finetune validate` answers with problems, never with a traceback."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from finetune_api.resolve import resolve
from finetune_api.spec import FineTuneJobSpec
from finetune_api.validation import validate_manifest

JUNK: tuple[Any, ...] = (None, True, 0, -1, 1.5, "x", "", [], {}, [None], ["x"], {"x": 1}, [[]])


def paths(node: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from paths(inner, (*path, key))


def test_junk_at_every_path(accepted: dict[str, Any]) -> None:
    original = accepted["manifest"]
    for path in paths(original):
        for junk in JUNK:
            manifest = copy.deepcopy(original)
            target = manifest
            for step in path[:-1]:
                target = target[step]
            target[path[-1]] = junk
            problems = validate_manifest(manifest)
            assert all(problem.message and problem.path for problem in problems)
            if not problems:
                resolved = resolve(FineTuneJobSpec.model_validate(manifest["spec"]))
                assert resolved.accelerate_config()


@pytest.mark.parametrize("document", [*JUNK, {"spec": []}, {"spec": {}, "metadata": []}, {1: 2}], ids=repr)
def test_junk_instead_of_a_manifest(document: Any) -> None:
    from finetune_api.manifest import Manifest

    assert validate_manifest(Manifest(document)) != []

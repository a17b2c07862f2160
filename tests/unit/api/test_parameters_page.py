"""docs/reference/parameters.md: every parameter of the documents with the tests that show it, and every test exists.

That the rows are the documents' own, with their defaults and with keys and modules that exist: test_parameters.py.
"""

import ast
import json
import re
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

from finetune_api import parameters
from finetune_api.generator.crd import spec_schema
from finetune_api.generator.parameters_page import own_keys, parameters_page
from finetune_api.parameters import proof
from finetune_api.training_args import SUPPORTED

ROOT = Path(__file__).resolve().parents[3]
GUIDE = ROOT / "docs/guide.md"
LINK = re.compile(r"\[([^\]]+)\]\(([^)]+)\)")
LISTS = Path(__file__).parent / "documents"
ROWS = parameters.all_parameters()
# What acts without being any document's own: every argument of the trainer, and our own keys.
OTHER_KEYS = [f"training_args.{name}" for name in SUPPORTED] + [key for key, _ in own_keys(spec_schema())]
NAMED = sorted({test for row in ROWS for test in parameters.tests_of(row)} | {*chain(*proof.OF_KEY.values())})


@cache
def defined(path: str) -> frozenset[str]:
    """The tests in a file, those of a class as Class::test."""
    found = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        members = [(f"{node.name}::", one) for one in node.body] if isinstance(node, ast.ClassDef) else [("", node)]
        found |= {
            prefix + one.name
            for prefix, one in members
            if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) and one.name.startswith("test_")
        }
    return frozenset(found)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.document}-{row.name}")
def test_every_parameter_is_shown_by_a_test(row: parameters.Parameter) -> None:
    shown = set(parameters.tests_of(row))
    acts = shown - set(proof.converted(row)) if row.ours else shown
    assert acts, f"name a test of {row.name} in finetune_api/parameters/proof.py"


@pytest.mark.parametrize("key", OTHER_KEYS)
def test_every_other_key_is_shown_by_a_test(key: str) -> None:
    assert proof.OF_KEY.get(key), f"name a test of {key} in finetune_api/parameters/proof.py"


@pytest.mark.parametrize("test", NAMED)
def test_every_test_that_is_named_exists(test: str) -> None:
    path, _, name = test.partition("::")
    assert (ROOT / path).is_file()
    assert re.sub(r"\[.*\]$", "", name) in defined(path)


def test_the_guide_has_every_item_of_its_document_with_a_test_that_exists() -> None:
    """docs/guide.md is written by hand: items are document 002's, examples and tests are files and functions."""
    rows = [line.strip("| \n").split(" | ") for line in GUIDE.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if len(row) == 5][2:]
    listed = json.loads((LISTS / "002.json").read_text(encoding="utf-8"))
    assert {item for items in listed.values() for item in items} <= {row[0] for row in rows}
    for row in rows:
        ((_, example),) = LINK.findall(row[3])
        assert (GUIDE.parent / example).is_file()
        ((name, target),) = LINK.findall(row[4])
        path = (GUIDE.parent / target).resolve().relative_to(ROOT).as_posix()
        assert name in defined(path), f"{row[0]}: {path} has no {name}"


def test_proofs_are_of_keys_and_rows_that_exist() -> None:
    assert set(proof.OF_KEY) <= {key for row in ROWS for key in row.ours} | set(OTHER_KEYS)
    assert set(proof.OF_ROW) <= {(row.document, row.section, row.key) for row in ROWS}


def test_the_page_has_a_line_for_every_parameter_of_every_document() -> None:
    page = parameters_page(spec_schema())
    assert page == (ROOT / "docs/reference/parameters.md").read_text(encoding="utf-8"), "run make generate"
    chapters = re.split(r"^## Document (\d+)", page.partition("\n## training_args")[0], flags=re.MULTILINE)[1:]
    lines = dict(zip(chapters[::2], chapters[1::2], strict=True))
    assert set(lines) == {path.stem[:3] for path in LISTS.glob("*.json")}
    for path in LISTS.glob("*.json"):
        for section, keys in json.loads(path.read_text(encoding="utf-8")).items():
            for key in keys:
                name = key if section == key else f"{section}.{key}"
                assert f"\n| {name} | " in lines[path.stem[:3]], name


def test_every_link_of_the_page_leads_somewhere() -> None:
    targets = set(re.findall(r"\]\(([^)#]+)\)", parameters_page(spec_schema())))
    assert targets
    assert [target for target in targets if not (ROOT / "docs/reference" / target).exists()] == []

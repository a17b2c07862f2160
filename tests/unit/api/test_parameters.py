"""The table of parameters against the documents' own lists and against the code that it names."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.known_keys import known_keys
from finetune_api.parameters import DOCUMENTS, REQUIRED, Parameter, all_parameters, parameters_of
from finetune_api.peft_kwargs import peft_fields
from finetune_api.spec import FineTuneJobSpec

LISTS = Path(__file__).parent / "documents"
ROWS = all_parameters()


def listed(document: str) -> dict[tuple[str, str], dict[str, Any]]:
    """(section, key) -> what the document says of it."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for path in sorted(LISTS.glob(f"{document}*.json")):
        for section, keys in json.loads(path.read_text(encoding="utf-8")).items():
            found |= {(section, key): told for key, told in keys.items()}
    return found


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_parameter_of_the_document_has_one_row_and_its_default(document: str) -> None:
    rows = {(row.section, row.key): row for row in parameters_of(document) if not row.beyond}
    expected = listed(document)
    assert expected
    assert list(rows) == [key for key in rows if key in expected], "rows that the document does not have"
    assert set(expected) == set(rows)
    for key, told in expected.items():
        default = REQUIRED if told.get("required") else told.get("default")
        assert rows[key].default == default, key


def test_no_row_is_there_twice() -> None:
    names = [(row.document, row.section, row.key) for row in ROWS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.document}-{row.name}")
def test_a_row_names_keys_and_modules_that_exist(row: Parameter) -> None:
    for path in row.ours:
        assert exists(path), f"{path} is no key of spec"
    assert row.where
    for module in row.where:
        assert importlib.util.find_spec(module), f"{module} does not exist"
    assert row.ours or row.how, "a parameter without a key of ours says why"


def exists(path: str) -> bool:
    """Whether spec has a key at this dotted path."""
    steps: list[str | int] = []
    for part in path.split("."):
        steps.append(part.removesuffix("[]"))
        if part.endswith("[]"):
            steps.append(0)
    *parents, last = steps
    if parents and parents[-1] == "peft_kwargs":
        return last in (peft_fields("LORA") or {})
    return last in known_keys(FineTuneJobSpec, {}, parents)

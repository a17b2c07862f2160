"""The table of what is not supported yet: every row names a real key, and admission knows it wherever it can."""

from typing import Any

import pytest

from finetune_api.generator.crd import spec_schema
from finetune_api.generator.structural import OPEN
from finetune_api.support import REFUSALS, Refusal, check_support

SCHEMA = spec_schema()


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: ".".join(refusal.path))
def test_admission_says_the_same(refusal: Refusal) -> None:
    section: Any = SCHEMA
    for step in refusal.path[:-1]:
        section = section["properties"][step]
    assert refusal.path[-1] in section["properties"]
    messages = [rule["message"] for rule in section.get("x-kubernetes-validations", ())]
    assert (refusal.message in messages) == (refusal.path not in OPEN)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: ".".join(refusal.path))
def test_allowed_values_pass_and_others_do_not(refusal: Refusal) -> None:
    def refused(value: Any) -> bool:
        spec: dict[str, Any] = {}
        section = spec
        for step in refusal.path[:-1]:
            section = section.setdefault(step, {})
        section[refusal.path[-1]] = value
        return any(violation.path == refusal.path for violation in check_support(spec))

    assert refused("something else")
    assert not any(refused(value) for value in refusal.allowed)
    assert refused(None) != refusal.absent_allowed


def test_an_absent_section_is_not_blamed() -> None:
    assert list(check_support({})) == []

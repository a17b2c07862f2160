"""data_type of document 003: the kind of rows follows from the method, and may be said, but not otherwise."""

from typing import Any

import pytest

from finetune_api.resolve import resolve
from finetune_api.rules import check_rules
from finetune_api.spec import FineTuneJobSpec


@pytest.mark.parametrize("part", ["training_data", "validation_data"])
@pytest.mark.parametrize(
    ("data_type", "refused"), [("ChatConversation", False), ("DirectPreference", True), ("Text", True)]
)
def test_the_kind_of_rows_follows_the_method(spec: dict[str, Any], part: str, data_type: str, refused: bool) -> None:
    spec["data_conf"][part]["data_type"] = data_type
    found = [violation.path for violation in check_rules(spec)]
    assert found == ([("data_conf", part, "data_type")] if refused else [])
    if not refused:
        resolve(FineTuneJobSpec.model_validate(spec))

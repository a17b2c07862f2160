"""Every key and default of the engine's config schema, as its document lists them."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from finetune_api import batchsize_conf, data_conf, methods, overrides, peft_conf, quant_conf, run_conf, spec, tracking

DOCUMENT: dict[str, dict[str, dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "documents/003.json").read_text(encoding="utf-8")
)
MODELS: dict[str, type[BaseModel]] = {
    name: getattr(module, name)
    for module in (batchsize_conf, data_conf, methods, overrides, peft_conf, quant_conf, run_conf, spec, tracking)
    for name in DOCUMENT
    if hasattr(module, name)
}


def test_every_definition_has_a_model() -> None:
    assert set(MODELS) == set(DOCUMENT)


@pytest.mark.parametrize(
    ("definition", "key"), [(name, key) for name, keys in DOCUMENT.items() for key in keys], ids=str
)
def test_key_and_default(definition: str, key: str) -> None:
    described = DOCUMENT[definition][key]
    fields = {field.alias or name: field for name, field in MODELS[definition].model_fields.items()}
    assert key in fields
    field = fields[key]
    if (definition, key) == ("FineTuneJobSpec", "sft_args"):
        assert not field.is_required(), "required with method sft only: a rule says so"
    else:
        assert field.is_required() == described.get("required", False)
    default = described.get("default")
    if isinstance(default, dict):
        return  # the defaults of the section's own keys
    if default is not None:
        assert field.default == default


OURS = {  # keys of our own, for what the other documents have (decisions.md 5)
    "ChatTrainValidConfig": {"max_examples", "input_key", "output_key"},
    "DatasetDefinition": {"format", "config", "split"},
    "WeightedDatasetDefinition": {"format", "config", "split"},
    "Overrides": {"min_update_steps", "auto"},
    "RunConfig": {"from_scratch", "model_hyperparameters"},
    "SFTArguments": {"overlength", "padding"},
}


def test_no_key_was_added_to_a_section_unsaid() -> None:
    added = {
        name: set(model.model_fields) - set(DOCUMENT[name])
        for name, model in MODELS.items()
        if name != "FineTuneJobSpec" and set(model.model_fields) - set(DOCUMENT[name])
    }
    assert added == OURS

"""training_args as the source documents give them: translated, said once, or refused with a reason of its own."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.resolve import ResolvedSpec, resolve
from finetune_api.spec import FineTuneJobSpec
from finetune_api.training_args import (
    ALWAYS_OWNED,
    HARMLESS,
    OWNED,
    RENAMED,
    SUPPORTED,
    UNSUPPORTED_REASON,
    refusal,
    snapshot,
    translate,
)

DOCUMENT: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "documents/004.json").read_text(encoding="utf-8")
)["TrainingArguments"]
OF_THE_OPERATOR = ("output_dir", *ALWAYS_OWNED)  # what a manifest says elsewhere; `finetune convert` moves it


def resolved(method: str = "clm", **arguments: Any) -> ResolvedSpec:
    raw = {
        "basemodel": "hf://gpt2",
        "method": method,
        "data_conf": {
            "training_data": {"type": "CONCATENATION", "datasets": [{"path": "s3://bucket/train.txt"}]},
            "validation_data": {"type": "CONCATENATION", "datasets": [{"path": "s3://bucket/validation.txt"}]},
        },
        "training_args": arguments,
        "batchsize_conf": {"total_train_batch_size": 8, "max_per_device_train_batch_size": 8},
        "peft_conf": {"peft_type": "NO_PEFT"},
        "run_conf": {},
    }
    return resolve(FineTuneJobSpec.model_validate(raw))


def test_document_004s_removed_names_are_translated_and_said_once() -> None:
    given = {key: value["default"] for key, value in DOCUMENT.items() if key not in OF_THE_OPERATOR}
    assert "evaluation_strategy" in given
    assert "logging_dir" in given
    found = resolved(**given)
    for key, value in given.items():
        new = RENAMED[key].new if key in RENAMED else key
        if new in SUPPORTED:
            assert found.training_args[new] == value, key
    assert found.notices == [
        'training_args.evaluation_strategy was renamed; taken as eval_strategy: "epoch"',
        "training_args.logging_dir has no effect: metrics go to MLflow, see tracking",
    ]
    assert resolve(found.spec).notices == []


@pytest.mark.parametrize("name", ["adamw_hf", "adamw_apex_fused"])
def test_laminis_old_optimizers_have_a_successor(name: str) -> None:
    assert translate({"optim": name}) == (
        {"optim": "adamw_torch_fused"},
        [f"training_args.optim: {name} no longer exists; adamw_torch_fused is used"],
    )
    assert refusal("optim", name) is None


def test_an_optimizer_that_cannot_work_names_its_successor() -> None:
    assert refusal("optim", "adamw_anyprecision") == (
        "training_args.optim: adamw_anyprecision needs torchdistx, which is maintained no more; use adamw_torch, or "
        "adamw_8bit for memory"
    )


@pytest.mark.parametrize("name", sorted(set(snapshot()) - set(SUPPORTED) - set(OWNED) - set(RENAMED)))
def test_every_refused_key_has_a_reason_of_its_own(name: str) -> None:
    assert name in UNSUPPORTED_REASON, "decide what the key means here, and say why it is refused"


@pytest.mark.parametrize(("name", "values"), HARMLESS.items())
def test_values_that_ask_for_what_is_so_anyway(name: str, values: tuple[Any, ...]) -> None:
    assert [refusal(name, value) for value in values] == [None] * len(values)

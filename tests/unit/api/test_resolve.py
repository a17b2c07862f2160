"""What a spec becomes: defaults, overrides, translations, arithmetic, and what the user is told."""

import math
from typing import Any

import pytest

from finetune_api.batch import BatchPlan
from finetune_api.resolve import ResolvedSpec, resolve
from finetune_api.spec import FineTuneJobSpec
from finetune_api.training_args import SUPPORTED


def resolved(spec: dict[str, Any], **changes: Any) -> ResolvedSpec:
    return resolve(FineTuneJobSpec.model_validate({**spec, **changes}))


def test_defaults_of_the_chart(spec: dict[str, Any]) -> None:
    filled = resolved(spec).spec
    assert (filled.finetuning_gpus, filled.memory_per_gpu, filled.cpus_per_gpu) == (1, 64, 8)
    assert (filled.downloads_reserved_size, filled.checkpoints_reserved_size) == ("64Gi", "512Gi")
    assert (filled.merge_adapter, filled.max_attempts, filled.nodes) == (True, 3, 1)
    assert (filled.termination_grace_period_seconds, filled.checkpoints_retention) == (120, "Retain")


def test_every_supported_training_argument_has_a_value(spec: dict[str, Any]) -> None:
    arguments = resolved(spec).training_args
    assert set(arguments) == set(SUPPORTED)
    assert arguments["learning_rate"] == 5e-5
    assert arguments["num_train_epochs"] == 3
    assert arguments["data_seed"] == arguments["seed"] == 42


@pytest.mark.parametrize(
    ("multiplier", "scaling", "factor"),
    [
        (1.0, "none", 1),
        (0.5, "none", 0.5),
        (1.0, "sqrt", math.sqrt(8)),
        (1.0, "linear", 8),
        (2.0, "linear", 16),
    ],
)
@pytest.mark.parametrize("lifted", [True, False], ids=["lifted", "nested"])
def test_learning_rate(spec: dict[str, Any], multiplier: float, scaling: str, factor: float, lifted: bool) -> None:
    overrides = {"lr_multiplier": multiplier, "lr_batch_size_scaling": scaling}
    changes = overrides if lifted else {"overrides": overrides}
    result = resolved(spec, training_args={"learning_rate": 1e-4}, **changes)
    assert result.learning_rate == pytest.approx(1e-4 * factor)
    assert result.training_args["learning_rate"] == result.learning_rate


def test_lifted_and_nested_overrides_are_one(spec: dict[str, Any]) -> None:
    lifted = resolved(spec, num_train_epochs=2, lr_multiplier=0.5)
    nested = resolved(spec, overrides={"num_train_epochs": 2, "lr_multiplier": 0.5})
    both = resolved(spec, num_train_epochs=2, lr_multiplier=0.5, overrides={"num_train_epochs": 2})
    assert lifted.spec == nested.spec == both.spec
    assert lifted.training_args["num_train_epochs"] == 2


@pytest.mark.parametrize(
    ("changes", "retries"),
    [
        ({}, False),
        ({"retryWithSmallerBatch": True}, True),
        ({"overrides": {"auto": ["per_device_batch"]}}, True),
        ({"overrides": {"auto": ["per_device_batch"]}, "retryWithSmallerBatch": False}, False),
    ],
)
def test_who_leaves_the_batch_to_the_trainer_allows_a_smaller_one_later(
    spec: dict[str, Any], changes: dict[str, Any], retries: bool
) -> None:
    from finetune_operator.plan.smaller_batch import allowed

    assert resolved(spec, **changes).spec.retry_with_smaller_batch is retries
    assert allowed({**spec, **changes}) is retries, "the operator reads the raw manifest of an ended job alike"


def test_epochs_of_overrides_win_over_training_args(spec: dict[str, Any]) -> None:
    result = resolved(spec, training_args={"num_train_epochs": 5}, num_train_epochs=2)
    assert result.training_args["num_train_epochs"] == 2


@pytest.mark.parametrize(
    ("arguments", "lifted", "notice"),
    [
        ({"max_steps": 10, "num_train_epochs": 2}, {}, True),
        ({"max_steps": 10}, {"num_train_epochs": 2}, True),
        ({"max_steps": 10}, {}, False),
        ({"num_train_epochs": 2}, {}, False),
        ({"max_steps": -1, "num_train_epochs": 2}, {}, False),
        ({"max_steps": 0, "num_train_epochs": 2}, {}, False),
    ],
)
def test_max_steps_wins_with_a_notice(
    spec: dict[str, Any], arguments: dict[str, Any], lifted: dict[str, Any], notice: bool
) -> None:
    result = resolved(spec, training_args=arguments, **lifted)
    assert any("wins over num_train_epochs" in text for text in result.notices) == notice
    if arguments.get("max_steps", -1) <= 0:
        assert result.training_args["max_steps"] == -1


@pytest.mark.parametrize(
    ("arguments", "lifted", "winner"),
    [
        ({}, {}, None),
        ({"max_steps": -1}, {}, None),
        ({"max_steps": 10}, {}, "max_steps"),
        ({"num_train_epochs": 2}, {}, "num_train_epochs"),
        ({}, {"num_train_epochs": 2}, "num_train_epochs"),
    ],
)
def test_least_steps_count_only_without_epochs_and_steps(
    spec: dict[str, Any], arguments: dict[str, Any], lifted: dict[str, Any], winner: str | None
) -> None:
    result = resolved(spec, training_args=arguments, overrides={"min_update_steps": 100}, **lifted)
    assert result.spec.overrides is not None
    assert result.spec.overrides.min_update_steps == (None if winner else 100)
    assert any(f"has no effect beside {winner}" in text for text in result.notices) == (winner is not None)
    assert resolve(result.spec).spec == result.spec


def test_a_rate_that_the_trainer_finds_is_open(spec: dict[str, Any]) -> None:
    result = resolved(spec, overrides={"auto": ["learning_rate"]})
    assert (result.learning_rate, result.training_args["learning_rate"]) == (None, None)
    assert resolve(result.spec).spec == result.spec


@pytest.mark.parametrize("events", [{"every_n_epochs": 2}, {"max_events": 1}, {"max_events": 7}])
def test_events_leave_no_other_strategy(spec: dict[str, Any], events: dict[str, Any]) -> None:
    spec["data_conf"]["validation_data"] = {"type": "AUTO_SPLIT"}
    result = resolved(spec, evaluation_conf=events)
    assert result.warnings == []
    assert result.training_args["eval_strategy"] == result.training_args["save_strategy"] != "no"
    assert resolve(result.spec).spec == result.spec


@pytest.mark.parametrize(
    ("given", "becomes", "notices"),
    [
        ({"evaluation_strategy": "no"}, {"eval_strategy": "no"}, 1),
        ({"warmup_ratio": 0.1}, {"warmup_steps": 0.1}, 1),
        ({"group_by_length": True}, {"train_sampling_strategy": "group_by_length"}, 1),
        ({"group_by_length": False}, {"train_sampling_strategy": "random"}, 1),
        ({"activation_checkpointing": True}, {"gradient_checkpointing": True}, 0),
        ({"optim": "adamw_hf"}, {"optim": "adamw_torch_fused"}, 1),
        ({"optim": "adamw_apex_fused"}, {"optim": "adamw_torch_fused"}, 1),
        ({"save_safetensors": True}, {}, 1),
        ({"report_to": ["none"], "push_to_hub": False}, {}, 0),
    ],
    ids=str,
)
def test_old_names_are_translated(
    spec: dict[str, Any], given: dict[str, Any], becomes: dict[str, Any], notices: int
) -> None:
    result = resolved(spec, training_args=given)
    assert {key: result.training_args[key] for key in becomes} == becomes
    assert not set(given) - set(becomes) & set(result.training_args)
    assert len(result.notices) == notices


@pytest.mark.parametrize(
    ("given", "size", "distributed", "on_cpu"),
    [
        ({"finetuningGpus": 1}, 1, "auto-single-process", False),
        ({"finetuningGpus": 4}, 4, "auto-ddp", False),
        ({"finetuningGpus": 0}, 1, "auto-single-process", True),
        ({"finetuningGpus": 0, "cpuProcesses": 2}, 2, "auto-ddp", True),
        ({"finetuningGpus": 1, "distributedType": "auto-ddp"}, 1, "auto-ddp", False),
    ],
)
def test_processes_and_distributed_type(
    spec: dict[str, Any], given: dict[str, Any], size: int, distributed: str, on_cpu: bool
) -> None:
    result = resolved(spec, **given)
    assert (result.world_size, result.distributed_type, result.on_cpu) == (size, distributed, on_cpu)


def test_batch_for_the_size_granted(spec: dict[str, Any]) -> None:
    result = resolved(spec, finetuningGpus=4)
    assert result.batch() == BatchPlan(2, 1, 2)
    assert result.batch(1) == BatchPlan(2, 4, 2), "fewer processes than asked for keep the total batch"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training_args": {"save_strategy": "no"}}, "starts over"),
        ({"run_conf": {"model_args": {"resume_download": True}}}, "resume_download"),
        (
            {"tracking": {"mlflow_server_uri": "http://m", "experiment_name": "e", "run_id": "r", "run_name": "n"}},
            "run_name has no effect",
        ),
    ],
)
def test_notices(spec: dict[str, Any], changes: dict[str, Any], said: str) -> None:
    assert any(said in notice for notice in resolved(spec, **changes).notices)


def test_unused_validation_data_is_a_warning(spec: dict[str, Any]) -> None:
    spec["data_conf"]["validation_data"] = {"type": "AUTO_SPLIT"}
    assert any("eval_strategy is no" in text for text in resolved(spec).warnings)


@pytest.mark.parametrize(
    ("peft", "merge", "merged"),
    [("NO_PEFT", None, False), ("LORA", None, True), ("LORA", False, False), ("NO_PEFT", True, False)],
)
def test_merging_needs_an_adapter(spec: dict[str, Any], peft: str, merge: bool | None, merged: bool) -> None:
    assert resolved(spec, peft_conf={"peft_type": peft}, mergeAdapter=merge).merge_adapter == merged


@pytest.mark.parametrize(
    ("arguments", "filled"),
    [
        ({"eval_strategy": "steps", "logging_steps": 7}, {"eval_steps": 7}),
        ({"eval_strategy": "steps", "eval_steps": 3}, {"eval_steps": 3}),
        (
            {"eval_strategy": "epoch", "save_strategy": "best"},
            {"metric_for_best_model": "loss", "greater_is_better": False},
        ),
        ({"seed": 7}, {"data_seed": 7}),
        ({"seed": 7, "data_seed": 8}, {"data_seed": 8}),
    ],
)
def test_dependent_defaults(spec: dict[str, Any], arguments: dict[str, Any], filled: dict[str, Any]) -> None:
    spec["data_conf"]["validation_data"] = {"type": "AUTO_SPLIT"}
    given = resolved(spec, training_args=arguments).training_args
    assert {key: given[key] for key in filled} == filled


def test_whole_steps_are_integers(spec: dict[str, Any]) -> None:
    once = resolved(spec, training_args={"save_steps": 100, "logging_steps": 0.1})
    again = resolve(once.spec)
    assert repr(again.training_args["save_steps"]) == "100"
    assert again.training_args["logging_steps"] == 0.1


def test_what_cannot_be_merged_is_not_unless_it_was_asked_for(spec: dict[str, Any]) -> None:
    """mergeAdapter is true by default; then the adapter alone is the result, and a notice says so."""
    peft = {"peft_type": "P_TUNING", "peft_kwargs": {"num_virtual_tokens": 8}}
    first = resolved(spec, peft_conf=peft)
    assert not first.merge_adapter
    assert first.spec.merge_adapter is False
    assert any("P_TUNING adapter cannot be merged" in notice for notice in first.notices)
    again = resolve(FineTuneJobSpec.model_validate(first.spec.to_dict()))
    assert again.notices == []
    assert again.spec == first.spec

"""What each distributedType splits, and the Accelerate configs that may be given."""

from typing import Any

import pytest

from finetune_api.resolve import resolve
from finetune_api.sharding import Sharding, check_custom, sharding_of
from finetune_api.spec import FineTuneJobSpec

CUSTOM = "custom-accelerate-config"
ALL, ONCE = Sharding("everything"), Sharding("everything", gather_twice=False)


@pytest.mark.parametrize(
    ("kind", "custom", "processes", "expected"),
    [
        ("auto-ddp", None, 4, Sharding()),
        ("auto-deepspeed-stage1", None, 4, Sharding("optimizer")),
        ("auto-deepspeed-stage3", None, 4, ALL),
        ("auto-deepspeed-stage3", None, 1, Sharding()),
        (CUSTOM, {"distributed_type": "MULTI_GPU"}, 4, Sharding()),
        (CUSTOM, {"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 1}}, 4, Sharding("optimizer")),
        (CUSTOM, {"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 2}}, 4, ONCE),
        (CUSTOM, {"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 3}}, 4, ALL),
        (CUSTOM, {"distributed_type": "DEEPSPEED"}, 4, ONCE),  # as in Accelerate
        (CUSTOM, {"distributed_type": "FSDP"}, 4, ALL),
        (CUSTOM, {"distributed_type": "FSDP", "fsdp_config": {"fsdp_reshard_after_forward": False}}, 4, ONCE),
        (CUSTOM, {"distributed_type": "FSDP", "fsdp_config": {"fsdp_sharding_strategy": "SHARD_GRAD_OP"}}, 4, ONCE),
        (
            CUSTOM,
            {"distributed_type": "FSDP", "fsdp_config": {"fsdp_transformer_layer_cls_to_wrap": "A,B"}},
            4,
            Sharding("everything", blocks=("A", "B")),
        ),
    ],
)
def test_what_is_split(kind: str, custom: dict[str, Any] | None, processes: int, expected: Sharding) -> None:
    assert sharding_of(kind, custom, processes) == expected


@pytest.mark.parametrize(
    ("custom", "said"),
    [
        ({"distributed_type": "XLA"}, "distributed_type must be NO, MULTI_CPU, MULTI_GPU, FSDP, DEEPSPEED, not XLA"),
        ({"distributed_type": False}, "not false"),  # NO without quotes
        ({"distributed_type": "NO"}, "distributed_type NO runs one process, but there are 4"),
        ({"distributed_type": "MULTI_GPU", "num_machines": 3}, "num_machines is 3, but nodes makes it 2"),
        ({"distributed_type": "MULTI_GPU", "mixed_precision": "fp16"}, "training_args.bf16 or fp16 makes it no"),
        ({"distributed_type": "MULTI_GPU", "main_process_ip": "1.2.3.4"}, "the operator sets it"),
        (
            {"distributed_type": "MULTI_GPU", "dynamo_config": {}},
            "dynamo_config of an Accelerate config is not supported",
        ),
        ({"distributed_type": "FSDP", "fsdp_config": "x"}, "fsdp_config must be a mapping"),
        ({"distributed_type": "FSDP", "fsdp_config": {"fsdp_version": 1}}, "fsdp_version must be 2, not 1"),
        ({"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 4}}, "zero_stage must be 0, 1, 2, 3"),
        ({"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": True}}, "not true"),
        (
            {"distributed_type": "DEEPSPEED", "deepspeed_config": {"deepspeed_hostfile": "/etc/hosts"}},
            "the operator starts the nodes",
        ),
        (
            {"distributed_type": "DEEPSPEED", "deepspeed_config": {"offload_optimizer_device": "nvme"}},
            "offload_optimizer_device must be none, not nvme",
        ),
    ],
)
def test_a_custom_config_is_refused_for_what_the_trainer_does_not_do(custom: dict[str, Any], said: str) -> None:
    spec = {"distributedType": CUSTOM, "customAccelerateConfig": custom, "nodes": 2, "finetuningGpus": 2}
    messages = [violation.message for violation in check_custom(spec, 4)]
    assert [one for one in messages if said in one], messages


@pytest.mark.parametrize(
    ("kind", "gpus", "said"),
    [
        ("auto-deepspeed-stage1", 2, "optimizer state is split over 2 processes by torch itself"),
        ("auto-deepspeed-stage3", 2, "weights, gradients and optimizer state are split"),
        ("auto-deepspeed-stage3", 1, "one process has nothing to split"),
    ],
)
def test_what_becomes_of_deepspeed_is_said(spec: dict[str, Any], kind: str, gpus: int, said: str) -> None:
    result = resolve(FineTuneJobSpec.model_validate({**spec, "distributedType": kind, "finetuningGpus": gpus}))
    assert [one for one in result.notices if said in one]


def test_ddp_needs_no_words(spec: dict[str, Any]) -> None:
    result = resolve(FineTuneJobSpec.model_validate({**spec, "distributedType": "auto-ddp", "finetuningGpus": 2}))
    assert not [one for one in result.notices if "split" in one]

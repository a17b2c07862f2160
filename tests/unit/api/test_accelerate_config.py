"""The rendered Accelerate config of every distributedType, those that are not trained yet included."""

import pytest

from finetune_api.accelerate_config import render_accelerate_config
from finetune_api.resolve import resolve
from finetune_api.spec import FineTuneJobSpec


@pytest.mark.parametrize(
    ("kind", "on_cpu", "name"),
    [
        ("auto-single-process", False, "NO"),
        ("auto-ddp", False, "MULTI_GPU"),
        ("auto-ddp", True, "MULTI_CPU"),
        ("auto-deepspeed-stage1", False, "DEEPSPEED"),
        ("auto-deepspeed-stage3", False, "DEEPSPEED"),
    ],
)
def test_kind(kind: str, on_cpu: bool, name: str) -> None:
    config = render_accelerate_config(
        kind, nodes=2, processes_per_node=4, precision="bf16", on_cpu=on_cpu, accumulation=3, max_grad_norm=0.5
    )
    assert config["distributed_type"] == name
    assert (config["num_machines"], config["num_processes"]) == (2, 8)
    assert (config["mixed_precision"], config["use_cpu"]) == ("bf16", on_cpu)
    if name == "DEEPSPEED":
        deepspeed = config["deepspeed_config"]
        assert deepspeed["zero_stage"] == int(kind[-1])
        assert deepspeed["zero3_init_flag"] == (kind[-1] == "3")
        assert (deepspeed["gradient_accumulation_steps"], deepspeed["gradient_clipping"]) == (3, 0.5)


def test_a_custom_config_is_taken_as_it_is() -> None:
    custom = {"distributed_type": "FSDP", "fsdp_config": {"fsdp_version": 2}}
    rendered = render_accelerate_config(
        "custom-accelerate-config",
        nodes=1,
        processes_per_node=2,
        precision="no",
        on_cpu=False,
        accumulation=1,
        max_grad_norm=1.0,
        custom=custom,
    )
    assert rendered == custom
    assert rendered is not custom


def test_a_custom_kind_needs_a_config() -> None:
    with pytest.raises(ValueError, match="customAccelerateConfig"):
        render_accelerate_config(
            "custom-accelerate-config",
            nodes=1,
            processes_per_node=1,
            precision="no",
            on_cpu=True,
            accumulation=1,
            max_grad_norm=1.0,
        )


def test_of_a_resolved_spec(spec: dict[str, object]) -> None:
    result = resolve(FineTuneJobSpec.model_validate({**spec, "finetuningGpus": 2, "training_args": {"bf16": True}}))
    config = result.accelerate_config()
    assert (config["distributed_type"], config["num_processes"], config["mixed_precision"]) == ("MULTI_GPU", 2, "bf16")

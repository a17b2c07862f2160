"""Adapters under data parallelism: two processes train like one."""

from typing import Any

import pytest

NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


def test_adalora_on_quantised_weights_trains_alike_on_two_processes(
    launch: Any, train_here: Any, make_config: Any, make_model: Any
) -> None:
    """It adds a gradient of its own, moves rank by averaged gradients, and its base cannot be moved between devices."""
    config = make_config(
        model=make_model(hidden_size=64),
        training_args={"max_steps": 4, "optim": "sgd", "learning_rate": 0.2, "max_grad_norm": 0.5},
        per_device=2,
        spec={
            "cpuProcesses": 2,
            "peft_conf": {
                "peft_type": "ADALORA",
                "peft_kwargs": {"init_r": 4, "target_r": 2, "target_modules": ["q_proj", "v_proj"]},
            },
            "quant_conf": NF4,
        },
    )
    two = launch(config)
    assert two.wait() == 0, two.text
    config.spec["cpuProcesses"] = 1
    config.spec["distributedType"] = "auto-single-process"
    one = train_here(config)
    assert two.report.effective.world_size == 2
    assert two.report.loss == pytest.approx(one.report.loss, rel=1e-5)
    assert (two.checkpoints / "checkpoint-final-merged" / "_COMPLETE.json").exists()

"""A valid spec to change, fresh for every test."""

import copy
from typing import Any

import pytest

SPEC: dict[str, Any] = {
    "basemodel": "hf://org/model",
    "data_conf": {
        "training_data": {"type": "CONCATENATION", "datasets": [{"path": "s3://bucket/train.jsonl"}]},
        "validation_data": {"type": "NONE"},
    },
    "training_args": {},
    "batchsize_conf": {"total_train_batch_size": 8, "max_per_device_train_batch_size": 2},
    "peft_conf": {"peft_type": "NO_PEFT"},
    "run_conf": {},
    "sft_args": {},
}


@pytest.fixture
def spec() -> dict[str, Any]:
    return copy.deepcopy(SPEC)

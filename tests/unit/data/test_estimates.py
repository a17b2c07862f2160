"""Steps and memory, as the download pod foretells them."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.memory_estimate import (
    Largest,
    Model,
    Quantised,
    Tensor,
    Training,
    estimate,
    read_tensors,
    trained_tensors,
)
from finetune_trainer.steps import Steps, count_steps

TENSORS = {
    "model.embed_tokens.weight": Tensor((100, 8), 2),
    "model.layers.0.self_attn.q_proj.weight": Tensor((8, 8), 2),
    "model.layers.0.mlp.up_proj.weight": Tensor((24, 8), 2),
    "model.norm.weight": Tensor((8,), 2),
}
ELEMENTS = 800 + 64 + 192 + 8


@pytest.mark.parametrize(
    ("examples", "batch", "epochs", "max_steps", "least", "expected"),
    [
        (100, 10, 3.0, -1, None, Steps(10, 30, 3.0)),
        (101, 10, 3.0, -1, None, Steps(11, 33, 3.0)),  # a short last batch is a step
        (100, 10, 0.5, -1, None, Steps(10, 5, 0.5)),
        (3, 8, 0.1, -1, None, Steps(1, 1, 0.1)),  # never none
        (100, 10, 3.0, 7, None, Steps(10, 7, 0.7)),
        (100, 10, None, -1, 95, Steps(10, 100, 10)),  # whole epochs until the least is done
        (100, 10, None, -1, 100, Steps(10, 100, 10)),
        (100, 10, None, -1, 101, Steps(10, 110, 11)),
        (5, 8, None, -1, 100, Steps(1, 100, 100)),
        (100, 10, None, 7, 100, Steps(10, 7, 0.7)),
    ],
)
def test_steps(
    examples: int, batch: int, epochs: float | None, max_steps: int, least: int | None, expected: Steps
) -> None:
    assert count_steps(examples, batch, epochs, max_steps, least) == expected


LORA = {"peft_type": "LORA", "peft_kwargs": {"r": 4, "target_modules": ["q_proj"]}}
ADAPTER = 4 * 16


def parts(**training: Any) -> tuple[int, int, int]:
    found = estimate(Model(TENSORS), Training(**training), None, distributed="auto-single-process")
    assert found
    assert found.activations == 0
    return found.weights, found.gradients, found.optimizer


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ({}, (ELEMENTS * 4, ELEMENTS * 4, ELEMENTS * 8)),  # trained in fp32 though stored in bf16
        ({"dtype": "bfloat16"}, (ELEMENTS * 2, ELEMENTS * 2, ELEMENTS * 4)),
        ({"optim": "sgd"}, (ELEMENTS * 4, ELEMENTS * 4, 0)),
        ({"optim": "sgd", "optim_args": "momentum=0.9"}, (ELEMENTS * 4, ELEMENTS * 4, ELEMENTS * 4)),
        ({"optim": "sgd", "optim_args": "momentum=0.0"}, (ELEMENTS * 4, ELEMENTS * 4, 0)),
        ({"optim": "adafactor"}, (ELEMENTS * 4, ELEMENTS * 4, 4 * (108 + 16 + 32 + 8))),
        (LORA, (ELEMENTS * 2 + ADAPTER * 4, ADAPTER * 4, ADAPTER * 8)),
        ({**LORA, "dtype": "float32"}, (ELEMENTS * 4 + ADAPTER * 4, ADAPTER * 4, ADAPTER * 8)),
        ({**LORA, "on_cpu": True}, (ELEMENTS * 4 + ADAPTER * 4, ADAPTER * 4, ADAPTER * 8)),
        (
            {**LORA, "quantised": Quantised(4)},  # the matrices of the layers, in 4 bits with a scale for each 64
            (808 * 2 + 256 // 2 + 4 * 4 + ADAPTER * 4, ADAPTER * 4, ADAPTER * 8),
        ),
        (
            {
                **LORA,
                "quantised": Quantised(8, skipped=("mlp",)),
                "precision": "bf16",
            },  # in 8 bits, a scale for each row
            ((800 + 192) * 2 + 8 * 4 + 64 + 8 * 4 + ADAPTER * 4, ADAPTER * 4, ADAPTER * 8),
        ),
        ({"reference": True}, (ELEMENTS * 4 + ELEMENTS * 2, ELEMENTS * 4, ELEMENTS * 8)),
    ],
)
def test_memory_by_what_takes_it(training: dict[str, Any], expected: tuple[int, int, int]) -> None:
    assert parts(**training) == expected


@pytest.mark.parametrize(
    ("distributed", "precision", "expected"),
    [
        ("auto-single-process", "bf16", (4.0, 4.0, 8.0)),
        ("auto-ddp", "bf16", (4.0, 8.0, 8.0)),  # gradients stand in the buckets of the exchange too
        ("auto-deepspeed-stage1", "bf16", (2.0, 2.0, 3.0)),  # 16-bit weights; fp32 ones and moments over 4 processes
        ("auto-deepspeed-stage3", "bf16", (0.5, 0.5, 3.0)),
        ("auto-deepspeed-stage1", "fp32", (4.0, 4.0, 2.0)),
        ("auto-deepspeed-stage3", "fp32", (1.0, 1.0, 2.0)),
    ],
)
def test_what_each_distributed_type_keeps_whole(
    distributed: str, precision: str, expected: tuple[float, float, float]
) -> None:
    processes = 1 if distributed == "auto-single-process" else 4
    found = estimate(Model(TENSORS), Training(precision=precision), None, processes=processes, distributed=distributed)
    assert found
    assert (found.weights, found.gradients, found.optimizer) == tuple(ELEMENTS * one for one in expected)


def test_memory_of_unknown_weights_is_not_guessed() -> None:
    assert estimate(Model({}), Training(), Largest(1, 10)) is None


@pytest.mark.parametrize(
    ("kind", "kwargs", "expected"),
    [
        ("LORA", {"r": 2, "target_modules": ["q_proj", "up_proj"]}, 2 * (16 + 32)),
        ("LORA", {"r": 2, "target_modules": "all-linear"}, 2 * (16 + 32)),
        ("LORA", {"r": 2, "target_modules": r".*\.mlp\..*"}, 2 * 32),
        ("LORA", {"r": 2}, 2 * 16),  # peft's own choice for Llama, of which q_proj is here
        ("LORA", {"r": 2, "target_modules": ["k_proj"]}, 0),
        ("LORA", {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, 2 * 16 + 800),
        ("LORA", {"r": 2, "target_modules": ["q_proj", "up_proj"], "rank_pattern": {"q_proj": 3}}, 3 * 16 + 2 * 32),
        ("LORA", {"r": 2, "target_modules": ["up_proj"], "use_dora": True}, 2 * 32 + 24),
        ("ADALORA", {"init_r": 2, "target_modules": ["q_proj"]}, 2 * 16 + 2),
        ("IA3", {"target_modules": ["q_proj", "up_proj"], "feedforward_modules": ["up_proj"]}, 8 + 8),
        ("PROMPT_TUNING", {"num_virtual_tokens": 3}, 3 * 8),
        ("PREFIX_TUNING", {"num_virtual_tokens": 3}, 3 * 2 * 8),
        ("LN_TUNING", {"target_modules": ["norm"]}, 8),
        ("NO_PEFT", {}, ELEMENTS),
    ],
)
def test_trained_weights(kind: str, kwargs: dict[str, Any], expected: int) -> None:
    found = trained_tensors(Model(TENSORS), Training(peft_type=kind, peft_kwargs=kwargs))
    assert sum(tensor.elements for tensor in found) == expected


def test_headers_are_read_without_the_weights(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {}, "w": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(12))
    assert read_tensors(tmp_path) == {"w": Tensor((2, 3), 2)}
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(11))
    with pytest.raises(ValueError, match=r"model\.safetensors is cut short"):
        read_tensors(tmp_path)
    path.write_bytes(b"pickle")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        read_tensors(tmp_path)

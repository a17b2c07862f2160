"""Steps and memory, as the download pod foretells them."""

import json
import struct
from pathlib import Path

import pytest

from finetune_trainer.memory_estimate import Tensor, estimate_bytes, lora_elements, read_tensors
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


@pytest.mark.parametrize(
    ("dtype", "optim", "peft", "kwargs", "expected"),
    [
        ("auto", "adamw_torch", "NO_PEFT", {}, ELEMENTS * 16),  # trained in fp32 though stored in bf16
        ("bfloat16", "adamw_torch", "NO_PEFT", {}, ELEMENTS * 12),
        ("auto", "sgd", "NO_PEFT", {}, ELEMENTS * 12),
        ("auto", "adafactor", "NO_PEFT", {}, ELEMENTS * 9),
        ("auto", "adamw_torch", "LORA", {"r": 4, "target_modules": ["q_proj"]}, ELEMENTS * 2 + 4 * 16 * 16),
        ("float32", "adamw_torch", "LORA", {"r": 4, "target_modules": ["q_proj"]}, ELEMENTS * 4 + 4 * 16 * 16),
    ],
)
def test_memory(dtype: str, optim: str, peft: str, kwargs: dict[str, object], expected: int) -> None:
    found = estimate_bytes(TENSORS, torch_dtype=dtype, optim=optim, peft_type=peft, peft_kwargs=kwargs)
    assert found == expected


def test_memory_of_unknown_weights_is_not_guessed() -> None:
    assert estimate_bytes({}, torch_dtype="auto", optim="sgd", peft_type="NO_PEFT", peft_kwargs={}) is None


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["q_proj", "up_proj"], 2 * (16 + 32)),
        ("all-linear", 2 * (16 + 32)),
        (r".*\.mlp\..*", 2 * 32),
        (None, 2 * 16),  # peft's own choice for Llama, of which q_proj is here
        (["k_proj"], 0),
    ],
)
def test_lora_size(targets: object, expected: int) -> None:
    assert lora_elements(TENSORS, {"r": 2, "target_modules": targets}) == expected


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

"""How much memory training will need per device, before one is asked for: weights, gradients and optimizer state.

Read from the headers of the safetensors files, so that no weight is loaded. Activations are not counted: they depend on
the batch, the sequence length and checkpointing; the train pod reports what was really used.
"""

import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_ASKED_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_MAX_HEADER = 100 * 1024 * 1024  # safetensors' own limit
_LORA_DEFAULT_TARGETS = ("q_proj", "v_proj", "c_attn", "query_key_value", "query", "value")


@dataclass(frozen=True)
class Tensor:
    """A weight's shape and the bytes of one of its elements."""

    shape: tuple[int, ...]
    element_bytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read_tensors(model_dir: Path) -> dict[str, Tensor]:
    """Every tensor of a model's safetensors files by name; empty if it has none. Raises ValueError for a broken
    file."""
    tensors: dict[str, Tensor] = {}
    for path in sorted(model_dir.glob("*.safetensors")):
        for name, fields in _header(path).items():
            if name != "__metadata__":
                tensors[name] = Tensor(tuple(fields["shape"]), _BYTES.get(fields["dtype"], 1))
    return tensors


def _header(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        prefix = stream.read(8)
        size = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 0 < size <= _MAX_HEADER:
            raise ValueError(f"{path.name} is not a safetensors file")
        try:
            header = json.loads(stream.read(size))
        except ValueError as error:
            raise ValueError(f"{path.name} has a broken header: {error}") from None
    end = max((fields["data_offsets"][1] for name, fields in header.items() if name != "__metadata__"), default=0)
    if path.stat().st_size < 8 + size + end:
        raise ValueError(f"{path.name} is cut short: {path.stat().st_size} of {8 + size + end} bytes")
    return dict(header)


def optimizer_bytes(optim: str) -> int:
    """Bytes of optimizer state per trained weight, by the name that TrainingArguments.optim has."""
    if "8bit" in optim or "4bit" in optim:
        return 2
    if optim.startswith(("adafactor", "galore", "apollo", "grokadamw")):
        return 4 if optim.startswith("grokadamw") else 1
    if optim.startswith(("sgd", "rmsprop", "adagrad", "lion")):
        return 4
    return 8  # the Adam family: two moments in fp32


def lora_elements(tensors: Mapping[str, Tensor], peft_kwargs: Mapping[str, Any]) -> int:
    """Weights of a LoRA adapter: r * (in + out) for each matrix that target_modules names."""
    rank = int(peft_kwargs.get("r", 8))
    targets = peft_kwargs.get("target_modules") or _LORA_DEFAULT_TARGETS
    return sum(
        rank * sum(tensor.shape)
        for name, tensor in tensors.items()
        if len(tensor.shape) == 2 and name.endswith(".weight") and _targeted(name.removesuffix(".weight"), targets)
    )


def _targeted(module: str, targets: str | Sequence[str]) -> bool:
    if targets == "all-linear":
        return not module.endswith(("lm_head", "embed_tokens", "wte", "wpe"))
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None
    return any(module == target or module.endswith(f".{target}") for target in targets)


def estimate_bytes(
    tensors: Mapping[str, Tensor], *, torch_dtype: str, optim: str, peft_type: str, peft_kwargs: Mapping[str, Any]
) -> int | None:
    """Bytes per device for weights, gradients and optimizer state; None if the weights' shapes are not known.

    Trained weights are kept in fp32 unless another torch_dtype is asked for; frozen ones keep the checkpoint's type.
    """
    if not tensors:
        return None
    asked = _ASKED_BYTES.get(torch_dtype)
    elements = sum(tensor.elements for tensor in tensors.values())
    per_trained = 2 * (asked or 4) + optimizer_bytes(optim)
    if peft_type == "NO_PEFT":
        return elements * per_trained
    frozen = sum(tensor.elements * (asked or tensor.element_bytes) for tensor in tensors.values())
    adapter = lora_elements(tensors, peft_kwargs) if peft_type == "LORA" else 0
    return frozen + adapter * per_trained

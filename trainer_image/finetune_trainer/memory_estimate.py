"""How much memory training will need per device, before one is asked for: weights, gradients, optimizer state and
activations.

Sizes are read from the headers of the safetensors files and from config.json, so that no weight is loaded. Weights,
gradients and optimizer state are exact for the optimizers and adapters named below. Activations are an estimate, of
what the backward pass needs by the count of Korthikanti et al. 2022 ("Reducing Activation Recomputation in Large
Transformer Models", arXiv:2205.05198), taken per tensor of today's blocks (gated MLP, grouped-query attention, no
attention matrix under sdpa and flash attention), and of the logits of the largest batch. What is kept is divided over
the processes as each distributed type does it: DDP nothing; ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054) stage 1
the optimizer's state, stage 3 weights and gradients too. The allocator's own reserve and CUDA's context (about 1 GiB)
are not in it; the train pod reports what was really used.
"""

import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
OUTLINE = "_TENSORS.json"  # in place of weights, see model_outline.py
GATED = 3  # kept by a gated MLP: the gate before and after its function, and what it gates
_MAX_HEADER = 100 * 1024 * 1024  # safetensors' own limit
_LORA_DEFAULT_TARGETS = ("q_proj", "v_proj", "c_attn", "query_key_value", "query", "value")
_EMBEDDINGS = ("embed_tokens", "wte", "wpe", "embed_in", "word_embeddings")
_HEADS = ("lm_head", "embed_out", "output")
DISTRIBUTED = ("auto-single-process", "auto-ddp", "auto-deepspeed-stage1", "auto-deepspeed-stage3")


@dataclass(frozen=True)
class Tensor:
    """A weight's shape and the bytes of one of its elements; embedding: whether it is looked up, not multiplied."""

    shape: tuple[int, ...]
    element_bytes: int
    embedding: bool = False

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * self.element_bytes


@dataclass(frozen=True)
class Quantised:
    """How a quantised base model is held: bits of a weight, bytes of the constants per weight, and what is left out."""

    bits: int
    constant_bytes: float
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sizes:
    """Sizes of a decoder, from its config.json. kept_in_mlp: tensors of the intermediate width that the MLP's function
    needs in the backward pass."""

    layers: int
    hidden: int
    heads: int
    queries: int  # heads * head_dim
    keys: int  # key-value heads * head_dim
    intermediate: int
    vocabulary: int
    kept_in_mlp: int


@dataclass(frozen=True)
class Largest:
    """The largest micro-batch of one device: rows and the tokens of each, padding included."""

    rows: int
    length: int

    @property
    def tokens(self) -> int:
        return self.rows * self.length


@dataclass(frozen=True)
class Model:
    """What is known of a model without loading it. Either may be missing."""

    tensors: Mapping[str, Tensor]
    sizes: Sizes | None = None

    @property
    def elements(self) -> int:
        return sum(tensor.elements for tensor in self.tensors.values())


@dataclass(frozen=True)
class Training:
    """What decides how a model is held. dtype, optim and peft_* as in the manifest; precision: fp32, bf16 or fp16;
    adapter: the tensors of a pretrained one; reference: a frozen second copy (DPO without an adapter); eager:
    attention that keeps its matrix."""

    dtype: str = "auto"
    precision: str = "fp32"
    on_cpu: bool = False
    optim: str = "adamw_torch"
    optim_args: str | None = None
    peft_type: str = "NO_PEFT"
    peft_kwargs: Mapping[str, Any] = field(default_factory=dict)
    adapter: Mapping[str, Tensor] | None = None
    quantised: Quantised | None = None
    reference: bool = False
    gradient_checkpointing: bool = False
    eager: bool = False

    @property
    def trains_all(self) -> bool:
        return self.peft_type == "NO_PEFT"

    @property
    def compute_bytes(self) -> int:
        """Of one element in matrix products."""
        return 4 if self.precision == "fp32" and self.dtype not in ("float16", "bfloat16") else 2


@dataclass(frozen=True)
class Memory:
    """Bytes per device by what takes them."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


# --- reading what a model is -----------------------------------------------------------------------------------------


def read_tensors(model_dir: Path) -> dict[str, Tensor]:
    """Every tensor of a model's safetensors files (or of its outline) by name; empty if it has none. Raises ValueError
    for a broken file."""
    if (model_dir / OUTLINE).is_file():
        return tensors_of(json.loads((model_dir / OUTLINE).read_text(encoding="utf-8")))
    tensors: dict[str, Tensor] = {}
    for path in sorted(model_dir.glob("*.safetensors")):
        with path.open("rb") as stream:
            header = read_header(stream, path.name)
        end = max((fields["data_offsets"][1] for fields in header.values()), default=0)
        if path.stat().st_size < end:
            raise ValueError(f"{path.name} is cut short: {path.stat().st_size} of {end} bytes")
        tensors |= tensors_of(header)
    return tensors


def read_header(stream: IO[bytes], name: str) -> dict[str, Any]:
    """The tensors of a safetensors file as its header describes them; data_offsets count from the file's beginning."""
    prefix = stream.read(8)
    size = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
    if not 0 < size <= _MAX_HEADER:
        raise ValueError(f"{name} is not a safetensors file")
    try:
        header = json.loads(stream.read(size))
    except ValueError as error:
        raise ValueError(f"{name} has a broken header: {error}") from None
    header.pop("__metadata__", None)
    for fields in header.values():
        fields["data_offsets"] = [8 + size + offset for offset in fields["data_offsets"]]
    return dict(header)


def tensors_of(header: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors that a header describes."""
    return {name: Tensor(tuple(fields["shape"]), _BYTES.get(fields["dtype"], 1)) for name, fields in header.items()}


def read_sizes(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Sizes | None:
    """Sizes from a config.json; None for an architecture whose keys are others."""
    config = config.get("text_config") or config

    def find(*names: str) -> int | None:
        return next((config[name] for name in names if isinstance(config.get(name), int)), None)

    layers = find("num_hidden_layers", "n_layer", "num_layers")
    hidden, heads = find("hidden_size", "n_embd", "d_model"), find("num_attention_heads", "n_head")
    vocabulary = find("vocab_size")
    if not (layers and hidden and heads and vocabulary):
        return None
    width = find("head_dim") or hidden // heads
    return Sizes(
        layers=layers,
        hidden=hidden,
        heads=heads,
        queries=heads * width,
        keys=(find("num_key_value_heads", "num_kv_heads") or heads) * width,
        intermediate=find("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size") or 4 * hidden,
        vocabulary=vocabulary,
        kept_in_mlp=_kept_in_mlp(config, tensors),
    )


def _kept_in_mlp(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> int:
    if any("gate_proj" in name or "gate_up_proj" in name for name in tensors):
        return GATED
    function = config.get("hidden_act") or config.get("activation_function")
    return 4 if function in ("gelu_new", "gelu_fast", "gelu_python") else 1  # transformers has these as several steps


# --- the estimate ----------------------------------------------------------------------------------------------------


def estimate(
    model: Model, training: Training, largest: Largest | None, *, processes: int = 1, distributed: str = "auto-ddp"
) -> Memory | None:
    """Memory of one device; None if the weights' shapes are not known.

    largest None, or a model of unknown sizes: activations count as 0.
    """
    if not model.tensors:
        return None
    trained = trained_tensors(model, training)
    trained_bytes, elements = sum(one.bytes for one in trained), sum(one.elements for one in trained)
    frozen = sum(_frozen_bytes(name, tensor, training) for name, tensor in model.tensors.items())
    weights = trained_bytes + (0 if training.trains_all and not training.reference else frozen)
    optimizer = sum(state_bytes(one, training.optim, training.optim_args) for one in trained)
    weights, gradients, optimizer = _divided(
        weights, trained_bytes, optimizer, training, elements, processes, distributed
    )
    activations = 0
    if largest and model.sizes:
        casts = _casts(model.tensors, training) // (model.sizes.layers if training.gradient_checkpointing else 1)
        activations = activation_bytes(model.sizes, training, largest) + casts
    return Memory(weights, gradients, optimizer, activations)


def _trained_bytes(training: Training) -> int:
    """Of one trained weight of the model itself: fp32, unless another type is asked for."""
    return _DTYPE_BYTES.get(training.dtype, 4)


def _frozen_bytes(name: str, tensor: Tensor, training: Training) -> int:
    """Of a weight that is not trained: quantised, or in the type asked for, or in fp32 on a CPU that computes in it,
    or as it is stored."""
    kept = training.quantised
    if kept and _is_linear(name, tensor) and not any(part in kept.skipped for part in name.split(".")):
        return math.ceil(tensor.elements * (kept.bits / 8 + kept.constant_bytes))
    if training.dtype in _DTYPE_BYTES:
        return tensor.elements * _DTYPE_BYTES[training.dtype]
    if training.on_cpu and training.precision == "fp32" and not kept:
        return tensor.elements * 4
    return tensor.bytes


def _is_linear(name: str, tensor: Tensor) -> bool:
    """Whether bitsandbytes would quantise it: a matrix that is neither embedding nor head."""
    return len(tensor.shape) == 2 and not any(part in _EMBEDDINGS + _HEADS for part in name.split("."))


def _divided(
    weights: int, gradients: int, optimizer: int, training: Training, trained: int, processes: int, distributed: str
) -> tuple[int, int, int]:
    """What one process holds of it."""
    if distributed.startswith("auto-deepspeed"):
        if training.precision != "fp32" and training.trains_all and training.dtype == "auto":
            # DeepSpeed trains 16-bit weights and keeps the fp32 ones with the optimizer.
            optimizer += trained * 4
            weights, gradients = weights - trained * 2, gradients // 2
        optimizer = math.ceil(optimizer / processes)
        if distributed.endswith("stage3"):
            weights, gradients = math.ceil(weights / processes), math.ceil(gradients / processes)
        return weights, gradients, optimizer
    if processes > 1:
        gradients *= 2  # DDP's buckets hold them once more while they are exchanged
    return weights, gradients, optimizer


def state_bytes(tensor: Tensor, optim: str, optim_args: str | None = None) -> int:
    """Optimizer state of one trained tensor, by the name that TrainingArguments.optim has.

    torch keeps it in the type of the weight, bitsandbytes in fp32 or in 8 bits with a scale for each 256 values; small
    tensors and embeddings stay in fp32. What is paged counts in full: it is out of the way only when memory is short.
    """
    elements, given = tensor.elements, _optim_args(optim_args)
    if optim == "adafactor":  # the second moment by rows and columns
        if len(tensor.shape) < 2:
            return elements * 4
        return 4 * (math.prod(tensor.shape[:-1]) + math.prod(tensor.shape[:-2]) * tensor.shape[-1])
    moments = 1 if "lion" in optim or optim.startswith(("rmsprop", "adagrad", "sgd")) else 2
    if "8bit" in optim and elements >= 4096 and not tensor.embedding:
        return moments * (elements + 4 * math.ceil(elements / 256))
    if "bit" in optim or "bnb" in optim:
        return moments * elements * 4
    momentum = float(given.get("momentum") or 0) > 0
    if optim == "sgd":
        moments = int(momentum)
    elif optim == "rmsprop":
        moments += momentum + (given.get("centered", "").lower() == "true")
    return moments * elements * tensor.element_bytes


def _optim_args(text: str | None) -> dict[str, str]:
    """key=value, separated by commas; what cannot be read is the optimizer's to refuse."""
    pairs = [part.partition("=") for part in (text or "").replace(" ", "").split(",")]
    return {key: value for key, _, value in pairs if re.fullmatch(r"[\w.+-]+", value)}


# --- adapters --------------------------------------------------------------------------------------------------------


def trained_tensors(model: Model, training: Training) -> list[Tensor]:
    """The weights that are trained: all of the model's, or the adapter's, which are fp32, and modules_to_save.

    Exact for a pretrained adapter and for LORA, IA3, LOHA, LN_TUNING and the prompt adapters without a
    reparameterisation, and to some bytes for ADALORA; LoRA's size stands in for the other kinds, which are as small.
    """
    tensors, peft_type, peft_kwargs = model.tensors, training.peft_type, training.peft_kwargs
    own = _trained_bytes(training)
    if training.adapter is not None:
        return [Tensor(tensor.shape, 4) for tensor in training.adapter.values()]
    if peft_type == "NO_PEFT":
        return [Tensor(tensor.shape, own, _is_embedding(name)) for name, tensor in tensors.items()]
    saved, targets = peft_kwargs.get("modules_to_save") or [], peft_kwargs.get("target_modules")
    copied = {name for name in tensors if any(part in saved for part in name.split("."))}
    shapes: list[tuple[int, ...]] = []
    if peft_type in ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"):
        shapes = _virtual_tokens(tensors, peft_type, peft_kwargs)
    elif peft_type == "LN_TUNING":
        copied |= {name for name in tensors if _is_norm(name) and _chosen(name, targets)}
    else:
        for name, tensor in tensors.items():
            if len(tensor.shape) == 2 and name.endswith(".weight") and _chosen(name, targets):
                shapes += _beside(name, tensor.shape, peft_type, peft_kwargs)
    return [Tensor(tensors[name].shape, own) for name in tensors if name in copied] + [Tensor(one, 4) for one in shapes]


def _beside(name: str, shape: tuple[int, ...], peft_type: str, kwargs: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """What an adapter puts beside one matrix."""
    rows, columns = shape
    if peft_type == "IA3":
        forward = kwargs.get("feedforward_modules") or ("down_proj", "fc_out", "dense_4h_to_h", "wo", "mlp.c_proj")
        return [(columns if _targeted(name.removesuffix(".weight"), forward) else rows,)]
    rank = int(kwargs.get("init_r" if peft_type == "ADALORA" else "r") or (12 if peft_type == "ADALORA" else 8))
    for pattern, other in (kwargs.get("rank_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?{pattern}", name.removesuffix(".weight")):
            rank = int(other)
    shapes: list[tuple[int, ...]] = [(rank, columns), (rows, rank)]
    if peft_type == "ADALORA":
        shapes.append((rank, 1))
    if kwargs.get("use_dora"):
        shapes.append((rows,))
    if peft_type == "LOHA":
        shapes *= 2
    return shapes


def _virtual_tokens(tensors: Mapping[str, Tensor], peft_type: str, kwargs: Mapping[str, Any]) -> list[tuple[int, ...]]:
    count = int(kwargs.get("num_virtual_tokens") or 20)
    hidden = next((one.shape[1] for name, one in tensors.items() if _is_embedding(name) and len(one.shape) == 2), 0)
    if peft_type != "PREFIX_TUNING":
        return [(count, hidden)]
    keys = next((one.shape[0] for name, one in tensors.items() if name.endswith("k_proj.weight")), hidden)
    layers = len({match[1] for name in tensors if (match := re.search(r"\.(\d+)\.", name))})
    return [(count, 2 * layers * keys)]


def _is_embedding(name: str) -> bool:
    return any(part in _EMBEDDINGS for part in name.split("."))


def _is_norm(name: str) -> bool:
    return re.search(r"norm|(?:^|\.)ln_", name) is not None


def _chosen(name: str, targets: str | Sequence[str] | None) -> bool:
    return _targeted(name.rpartition(".")[0], targets or _LORA_DEFAULT_TARGETS)


def _targeted(module: str, targets: str | Sequence[str]) -> bool:
    if targets == "all-linear":
        return not any(part in _EMBEDDINGS + _HEADS for part in module.split("."))
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None
    return any(module == target or module.endswith(f".{target}") for target in targets)


# --- activations -----------------------------------------------------------------------------------------------------


def activation_bytes(sizes: Sizes, training: Training, largest: Largest) -> int:
    """What the backward pass of the largest micro-batch needs, at its beginning, when it is most.

    With gradient checkpointing: the input of every layer, and then the logits, or one layer in full with the gradients
    that its backward pass works on.
    """
    layer, head = _layer_bytes(sizes, training, largest), _head_bytes(sizes, largest)
    if not training.gradient_checkpointing:
        return sizes.layers * layer + head
    inputs = sizes.layers * largest.tokens * sizes.hidden * _stream_bytes(training)
    working = largest.tokens * (3 * sizes.intermediate // 2 + sizes.hidden) * 4
    return inputs + max(layer + working, head)


def _layer_bytes(sizes: Sizes, training: Training, largest: Largest) -> int:
    """One decoder layer: inputs of products whose weights are trained, and of everything that is not linear."""
    element, stream = training.compute_bytes, _stream_bytes(training)
    trained = training.trains_all or training.peft_type not in ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")
    hidden = sizes.hidden
    norms = 2 * hidden * 4  # what they normalise, in fp32
    if training.trains_all:
        norms += 2 * hidden * stream  # and the result, for the gradient of their gain
    attention = (2 * sizes.queries + 2 * sizes.keys) * element  # queries, result, keys and values
    mlp = sizes.kept_in_mlp * sizes.intermediate * element
    if trained:
        # In 16 bits every product of a layer's input (queries, keys, values; gate and what it gates) has a copy of it.
        copies = element == 2 and sizes.kept_in_mlp == GATED
        attention += ((3 if copies else 1) * hidden + sizes.queries) * element
        mlp += ((2 if copies else 1) * hidden + sizes.intermediate) * element
    if training.eager:  # Korthikanti's 5as term: scores, probabilities and their product
        attention += 2 * sizes.heads * largest.length * element
    return largest.tokens * (norms + attention + mlp)


def _head_bytes(sizes: Sizes, largest: Largest) -> int:
    """The loss's probabilities in fp32, their gradients and those of the logits, and the last norm."""
    return largest.tokens * (sizes.vocabulary * 3 * 4 + 2 * sizes.hidden * 4)


def _stream_bytes(training: Training) -> int:
    """Of one element between the layers: it has the type of the embedding's weights."""
    if training.trains_all:
        return _trained_bytes(training)
    return training.compute_bytes


def _casts(tensors: Mapping[str, Tensor], training: Training) -> int:
    """16-bit copies of fp32 weights that autocast makes for the products."""
    if not training.trains_all or training.compute_bytes == 4 or _trained_bytes(training) == 2:
        return 0
    return sum(
        2 * tensor.elements for name, tensor in tensors.items() if len(tensor.shape) == 2 and not _is_embedding(name)
    )

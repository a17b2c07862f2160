"""How the processes of a job share the training: what each distributedType means, and which Accelerate configs say so.

DeepSpeed's stages and FSDP name what is split over the processes. The trainer does so with torch's own means
(docs/adr), so a config may only say what these do. A key beyond the table is refused, never ignored, and none of
them names a file.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from finetune_api.violations import Violation

Split = Literal["nothing", "optimizer", "everything"]


@dataclass(frozen=True)
class Sharding:
    """What is split over the processes. `everything`: weights, gradients and optimizer; `gather_twice`: the weights of
    a block are let go after the forward pass and gathered again for the backward pass. `blocks`: class names of the
    modules that are gathered as one; none for those that the model itself names."""

    split: Split = "nothing"
    gather_twice: bool = True
    blocks: tuple[str, ...] = ()

    @property
    def parameters(self) -> bool:
        return self.split == "everything"


AUTO = {
    "auto-single-process": Sharding(),
    "auto-ddp": Sharding(),
    "auto-deepspeed-stage1": Sharding("optimizer"),
    "auto-deepspeed-stage3": Sharding("everything"),
}
STAGES = {
    0: Sharding(),
    1: Sharding("optimizer"),
    2: Sharding("everything", gather_twice=False),
    3: Sharding("everything"),
}
CLASSES = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}(,[A-Za-z_][A-Za-z0-9_]{0,99}){0,15}")

# Key -> the values that mean what the trainer does.
TOP: dict[str, tuple[Any, ...]] = {
    "compute_environment": ("LOCAL_MACHINE",),
    "debug": (False,),
    "distributed_type": ("NO", "MULTI_CPU", "MULTI_GPU", "FSDP", "DEEPSPEED"),
    "downcast_bf16": ("no", False),
    "enable_cpu_affinity": (False,),
    "gpu_ids": ("all",),
    "machine_rank": (0,),
    "main_training_function": ("main",),
    "rdzv_backend": ("static", "c10d"),
    "same_network": (True,),
}
FSDP: dict[str, tuple[Any, ...]] = {
    "fsdp_version": (2,),
    "fsdp_activation_checkpointing": (False,),
    "fsdp_auto_wrap_policy": ("TRANSFORMER_BASED_WRAP",),
    "fsdp_backward_prefetch": ("BACKWARD_PRE",),
    "fsdp_cpu_ram_efficient_loading": (False,),
    "fsdp_forward_prefetch": (False,),
    "fsdp_offload_params": (False,),
    "fsdp_reshard_after_forward": (True, False, "FULL_SHARD", "SHARD_GRAD_OP"),
    "fsdp_sharding_strategy": ("FULL_SHARD", "SHARD_GRAD_OP"),
    "fsdp_state_dict_type": ("FULL_STATE_DICT",),
    "fsdp_sync_module_states": (True,),
    "fsdp_use_orig_params": (True,),
}
DEEPSPEED: dict[str, tuple[Any, ...]] = {
    "deepspeed_multinode_launcher": ("standard",),
    "offload_optimizer_device": ("none",),
    "offload_param_device": ("none",),
    "zero3_init_flag": (True, False),
    "zero3_save_16bit_model": (True,),
    "zero_stage": tuple(STAGES),
}
INSTEAD = {
    "fsdp_activation_checkpointing": "use training_args.gradient_checkpointing",
    "fsdp_cpu_ram_efficient_loading": "each process reads the model itself and keeps its share",
    "fsdp_offload_params": "weights are not offloaded while training; use quant_conf or more GPUs if memory is short",
    "fsdp_state_dict_type": "checkpoints are always whole, in Hugging Face's format",
    "fsdp_version": "the trainer has FSDP 2 (fully_shard)",
    "offload_optimizer_device": "nothing is offloaded while training; use another optim or more GPUs",
    "offload_param_device": "nothing is offloaded while training; use quant_conf or more GPUs",
    "deepspeed_config_file": "a config may not name files; write its keys here",
    "deepspeed_hostfile": "the operator starts the nodes; use nodes",
    "main_process_ip": "the operator sets it",
    "main_process_port": "the operator sets it",
    "gradient_accumulation_steps": "it follows from batchsize_conf",
    "gradient_clipping": "use training_args.max_grad_norm",
}


def sharding_of(distributed_type: str, custom: Mapping[str, Any] | None, processes: int) -> Sharding:
    """What is split; nothing when one process has it all. The custom config is one that `check_custom` lets pass."""
    if processes == 1:
        return Sharding()
    if distributed_type != "custom-accelerate-config" or custom is None:
        return AUTO.get(distributed_type, Sharding())
    kind = custom.get("distributed_type")
    if kind == "DEEPSPEED":
        return STAGES[_section(custom, "deepspeed_config").get("zero_stage", 2)]
    if kind == "FSDP":
        given = _section(custom, "fsdp_config")
        asked = given.get("fsdp_reshard_after_forward", given.get("fsdp_sharding_strategy", True))
        blocks = given.get("fsdp_transformer_layer_cls_to_wrap")
        return Sharding(
            "everything",
            gather_twice=asked in (True, "FULL_SHARD"),
            blocks=tuple(blocks.split(",")) if isinstance(blocks, str) else (),
        )
    return Sharding()


def check_custom(spec: Mapping[str, Any], processes: int) -> Iterator[Violation]:
    """What a customAccelerateConfig says that the trainer does not do, or that another key says otherwise."""
    custom = spec.get("customAccelerateConfig")
    if not isinstance(custom, Mapping):
        return
    where = ("customAccelerateConfig",)
    if spec.get("distributedType") != "custom-accelerate-config":
        yield Violation(where, "customAccelerateConfig has no effect without distributedType: custom-accelerate-config")
        return
    kind = custom.get("distributed_type")
    if kind is None:
        names = ", ".join(TOP["distributed_type"])
        yield Violation(where, f"customAccelerateConfig needs distributed_type, one of {names}")
    tables = {"fsdp_config": ("FSDP", FSDP), "deepspeed_config": ("DEEPSPEED", DEEPSPEED)}
    follows = _follows(spec, processes)
    for key, value in custom.items():
        if key in tables:
            wanted, table = tables[key]
            if kind != wanted:
                yield Violation((*where, key), f"{key} has no effect with distributed_type {kind}; remove it")
            yield from _check_section((*where, key), value, table)
        elif key in follows:
            expected, source = follows[key]
            if value != expected or type(value) is not type(expected):
                yield Violation((*where, key), f"{key} is {_shown(value)}, but {source} makes it {expected}")
        else:
            yield from _check_value((*where, key), value, TOP)
    if kind == "NO" and processes > 1:
        yield Violation(
            (*where, "distributed_type"), f"distributed_type NO runs one process, but there are {processes}"
        )


def _follows(spec: Mapping[str, Any], processes: int) -> dict[str, tuple[Any, str]]:
    """Keys that say again what spec says elsewhere: they must say the same."""
    arguments = _section(spec, "training_args")
    precision = "bf16" if arguments.get("bf16") is True else "fp16" if arguments.get("fp16") is True else "no"
    nodes = spec.get("nodes")
    return {
        "num_machines": (nodes if isinstance(nodes, int) else 1, "nodes"),
        "num_processes": (processes, "nodes x finetuningGpus"),
        "mixed_precision": (precision, "training_args.bf16 or fp16"),
        "use_cpu": (spec.get("finetuningGpus") == 0, "finetuningGpus"),
    }


def _check_section(where: tuple[str, ...], given: Any, table: dict[str, tuple[Any, ...]]) -> Iterator[Violation]:
    if not isinstance(given, Mapping):
        yield Violation(where, f"{where[-1]} must be a mapping")
        return
    for key, value in given.items():
        if key == "fsdp_transformer_layer_cls_to_wrap" and table is FSDP:
            if not (isinstance(value, str) and CLASSES.fullmatch(value)):
                yield Violation(
                    (*where, key), f"{key} must be names of classes with commas between, as LlamaDecoderLayer"
                )
        elif key in ("gradient_accumulation_steps", "gradient_clipping") and table is DEEPSPEED and value == "auto":
            continue
        else:
            yield from _check_value((*where, str(key)), value, table)


def _check_value(where: tuple[str, ...], value: Any, table: dict[str, tuple[Any, ...]]) -> Iterator[Violation]:
    key = where[-1]
    hint = f": {INSTEAD[key]}" if key in INSTEAD else ""
    if key not in table:
        yield Violation(where, f"{key} of an Accelerate config is not supported{hint or '; remove it'}")
    elif not any(value == one and type(value) is type(one) for one in table[key]):
        known = ", ".join(_shown(one) for one in table[key])
        yield Violation(where, f"{key} must be {known}, not {_shown(value)}{hint}")


def _shown(value: Any) -> str:
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _section(given: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = given.get(key)
    return value if isinstance(value, Mapping) else {}

"""The Accelerate config of each distributedType, as Accelerate's own YAML would say it."""

from typing import Any

LAUNCH_PORT = 29500


def render_accelerate_config(
    distributed_type: str,
    *,
    nodes: int,
    processes_per_node: int,
    precision: str,
    on_cpu: bool,
    accumulation: int,
    max_grad_norm: float,
    custom: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The config as a dictionary; processes are counted over all nodes, as Accelerate counts them.

    Raises ValueError for custom-accelerate-config without a custom config.
    """
    if distributed_type == "custom-accelerate-config":
        if custom is None:
            raise ValueError("distributedType custom-accelerate-config needs customAccelerateConfig")
        return dict(custom)
    config: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "debug": False,
        "distributed_type": _accelerate_name(distributed_type, on_cpu),
        "downcast_bf16": "no",
        "machine_rank": 0,
        "main_training_function": "main",
        "mixed_precision": precision,
        "num_machines": nodes,
        "num_processes": nodes * processes_per_node,
        "rdzv_backend": "static" if nodes == 1 else "c10d",
        "same_network": True,
        "use_cpu": on_cpu,
    }
    if distributed_type.startswith("auto-deepspeed"):
        stage = 3 if distributed_type.endswith("stage3") else 1
        config["deepspeed_config"] = _deepspeed(stage, nodes, accumulation, max_grad_norm)
    return config


def _accelerate_name(distributed_type: str, on_cpu: bool) -> str:
    if distributed_type == "auto-single-process":
        return "NO"
    if distributed_type == "auto-ddp":
        return "MULTI_CPU" if on_cpu else "MULTI_GPU"
    return "DEEPSPEED"


def _deepspeed(stage: int, nodes: int, accumulation: int, max_grad_norm: float) -> dict[str, Any]:
    config: dict[str, Any] = {
        "deepspeed_multinode_launcher": "standard",
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": max_grad_norm,
        "offload_optimizer_device": "none",
        "offload_param_device": "none",
        "zero3_init_flag": stage == 3,
        "zero_stage": stage,
    }
    if stage == 3:
        config["zero3_save_16bit_model"] = True
    if nodes == 1:
        del config["deepspeed_multinode_launcher"]
    return config

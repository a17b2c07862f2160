"""What a job that asks for GPUs or nodes is on a machine that has fewer, or none: the same training, on what there is.

The total batch stays, so steps and losses stay too; only what a CPU cannot compute at all is changed, and said.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

AMD_NODES = Path("/sys/class/kfd/kfd/topology/nodes")
ON_GPUS_ONLY = "flash_attention"  # attention kernels that no CPU has
Notes = list[str]


def fitted(spec: dict[str, Any], gpus: int) -> tuple[dict[str, Any], Notes]:
    """A copy of the spec for a machine with so many GPUs, and what was changed."""
    spec, notes = _on_one_node(spec)
    fewer, more_notes = _on_gpus(spec, gpus)
    if (notes or more_notes) and fewer.pop("customAccelerateConfig", None) is not None:
        del fewer["distributedType"]
        more_notes = [*more_notes, "customAccelerateConfig is for other processes: trained without it, whole on each"]
    return fewer, [*notes, *more_notes]


def _on_one_node(spec: dict[str, Any]) -> tuple[dict[str, Any], Notes]:
    """This machine is one node; its processes are those of one pod."""
    nodes = spec.get("nodes", 1)
    if not isinstance(nodes, int) or nodes <= 1:
        return spec, []
    changed = {key: value for key, value in spec.items() if key not in ("nodes", "minNodes")}
    return changed, [f"this machine is one node: nodes {nodes} -> 1; the total batch stays the same"]


def _on_gpus(spec: dict[str, Any], gpus: int) -> tuple[dict[str, Any], Notes]:
    asked = spec.get("finetuningGpus", 1)
    if not isinstance(asked, int) or asked <= gpus:
        return dict(spec), []
    return _on_cpu(spec, asked) if gpus == 0 else _on_fewer(spec, asked, gpus)


def _on_cpu(spec: dict[str, Any], asked: int) -> tuple[dict[str, Any], Notes]:
    notes = [f"this machine has no GPU: finetuningGpus {asked} -> 0, in one process; the total batch stays the same"]
    changed: dict[str, Any] = {**spec, "finetuningGpus": 0}
    if changed.get("distributedType") == "auto-ddp":
        del changed["distributedType"]
    arguments = dict(spec.get("training_args") or {})
    if arguments.pop("fp16", None):
        notes.append("training_args.fp16 needs a GPU: trained in fp32")
        changed["training_args"] = arguments
    run_conf = dict(spec.get("run_conf") or {})
    model_args = dict(run_conf.get("model_args") or {})
    attention = model_args.get("attn_implementation")
    if isinstance(attention, str) and attention.startswith(ON_GPUS_ONLY):
        notes.append(f"run_conf.model_args.attn_implementation {attention} needs a GPU: the model's usual one is taken")
        del model_args["attn_implementation"]
        changed["run_conf"] = {**run_conf, "model_args": model_args}
    return changed, notes


def _on_fewer(spec: dict[str, Any], asked: int, gpus: int) -> tuple[dict[str, Any], Notes]:
    """As many as there are and the total batch can be spread over."""
    total = (spec.get("batchsize_conf") or {}).get("total_train_batch_size", 1)
    used = next(number for number in range(gpus, 0, -1) if total % number == 0)
    changed: dict[str, Any] = {**spec, "finetuningGpus": used}
    note = (
        f"this machine has {gpus} GPU{'s' if gpus > 1 else ''}: finetuningGpus {asked} -> {used}; the total batch stays"
    )
    return changed, [note]


def gpus_here() -> int:
    """GPUs that a program on this machine may use, without importing torch to ask."""
    found = _nvidia() or _amd()
    for variable in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        if variable in os.environ:
            visible = [one for one in os.environ[variable].split(",") if one.strip() not in ("", "-1")]
            found = min(found, len(visible))
    return found


def _nvidia() -> int:
    tool = shutil.which("nvidia-smi")
    if not tool:
        return len(list(Path("/dev").glob("nvidia[0-9]*")))
    try:
        listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.splitlines())


def _amd() -> int:
    """The kernel's list of compute devices; CPUs are in it too, with a simd_count of 0."""
    count = 0
    for node in AMD_NODES.glob("*/properties"):
        try:
            properties = dict(line.split(maxsplit=1) for line in node.read_text().splitlines() if " " in line)
        except OSError:
            continue
        count += int(properties.get("simd_count", "0")) > 0
    return count

"""The processes of a job as one world: device, precision, gradient reduction, and small agreements between ranks.

Accelerate places the model and wraps it for data parallelism. Agreements (stop now? sums of counts) go over a gloo
group of their own, so that they never wait for the GPU.
"""

import contextlib
import datetime
import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from finetune_trainer.errors import BadConfiguration

# A checkpoint of rank 0 may take long on a slow volume; the watchdog, not this, ends what hangs.
PATIENCE = datetime.timedelta(hours=6)


@dataclass
class World:
    """rank of size processes; `control` is None when there is one process. lockstep: each forward pass needs all
    ranks, since they hold the weights together."""

    rank: int
    local_rank: int
    size: int
    accelerator: Any
    control: Any
    lockstep: bool = False

    @property
    def device(self) -> torch.device:
        return torch.device(self.accelerator.device)

    @property
    def main(self) -> bool:
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return self.sum([float(flag)])[0] > 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over ranks, in double precision."""
        if self.control is None:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, group=self.control)
        return [float(value) for value in tensor]

    def from_main(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.control is None:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def on_main(self, decide: Callable[[], Any]) -> Any:
        """Rank 0's decision, or its error, on every rank."""
        found: tuple[Any, Exception | None] = (None, None)
        if self.main:
            try:
                found = (decide(), None)
            except Exception as error:
                found = (None, error)
        decision, problem = self.from_main(found)
        if problem is not None:
            raise problem
        return decision

    def barrier(self) -> None:
        if self.control is not None:
            dist.barrier(group=self.control)

    def close(self) -> None:
        if self.control is not None and dist.is_initialized():
            dist.destroy_process_group()


def start_world(use_cpu: bool) -> World:
    """Joins the processes that the launcher started (RANK, WORLD_SIZE, MASTER_ADDR…). Raises BadConfiguration."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    gpus = 0 if use_cpu else torch.cuda.device_count()
    if not use_cpu and gpus <= local_rank:
        raise BadConfiguration(
            f"the job asks for GPUs, but this pod sees {gpus}: check gpuResource and that the image's torch "
            f"({torch.__version__}) fits the node's driver, or set finetuningGpus: 0 to train on CPU"
        )
    control = None
    if size > 1:
        if not use_cpu:
            torch.cuda.set_device(local_rank)
        dist.init_process_group("gloo" if use_cpu else "nccl", rank=rank, world_size=size)
        control = dist.new_group(backend="gloo", timeout=PATIENCE)
        if dist.get_world_size() != size:
            raise BadConfiguration(f"{dist.get_world_size()} processes met instead of {size}")
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=use_cpu, mixed_precision="no")
    if accelerator.num_processes != size:
        raise RuntimeError(f"Accelerate sees {accelerator.num_processes} processes, the launcher started {size}")
    return World(rank, local_rank, size, accelerator, control)


def choose_precision(wanted: str, device: torch.device) -> str:
    """fp32, bf16 or fp16: what was asked for, else bf16 where the GPU computes it, fp16 on older ones, fp32 on CPU."""
    if wanted == "fp16" and device.type == "cpu":
        raise BadConfiguration("training_args.fp16 needs a GPU; use bf16 or neither on CPU")
    if wanted == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise BadConfiguration(
            f"training_args.bf16: {torch.cuda.get_device_name(device)} cannot compute in bf16; use fp16, or neither"
        )
    if wanted != "auto":
        return wanted
    if device.type == "cpu":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Mixed precision of the forward pass; weights keep their own type."""
    if precision == "fp32":
        return contextlib.nullcontext()
    context: contextlib.AbstractContextManager[Any] = torch.autocast(
        device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16
    )
    return context


def release_memory() -> None:
    """Gives back what nothing refers to any more, reference cycles included."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def device_name(device: torch.device) -> str:
    """cpu or the GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"

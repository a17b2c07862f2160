"""Batch arithmetic: how a total batch becomes per-device batches and gradient accumulation."""

from dataclasses import dataclass


class BatchError(ValueError):
    """The total batch cannot be spread over the processes; the message says which sizes can."""


@dataclass(frozen=True)
class BatchPlan:
    """per_device * accumulation * world_size is the total batch whenever the arithmetic allows (always, here)."""

    per_device: int
    accumulation: int
    eval_per_device: int


def plan_batch(total: int, max_per_device: int, processes: int, eval_per_device: int | None = None) -> BatchPlan:
    """Spreads a total batch over processes with the largest per-device batch that is at most max_per_device.

    Only accumulations that divide the share of one process exactly are taken: (7, 4, 1) becomes 7 steps of 1.
    """
    if total % processes:
        raise BatchError(not_divisible_message(total, processes))
    share = total // processes
    accumulation = next(
        steps for steps in range(1, share + 1) if share % steps == 0 and share // steps <= max_per_device
    )
    per_device = share // accumulation
    return BatchPlan(per_device, accumulation, eval_per_device or per_device)


def nodes_that_train(granted: int, processes: int, total_batch: int) -> int:
    """Of the nodes that a queue granted, the most over whose processes the total batch can be spread; others idle."""
    fitting = (nodes for nodes in range(granted, 0, -1) if total_batch % (nodes * processes) == 0)
    return next(fitting, granted)


def not_divisible_message(total: int, processes: int) -> str:
    """Names the nearest totals that would work."""
    below = total // processes * processes
    near = f"{below} or {below + processes}" if below else f"{processes}"
    return (
        f"total_train_batch_size {total} cannot be divided by {processes} processes (nodes x finetuningGpus); "
        f"use {near}, or another number of GPUs"
    )

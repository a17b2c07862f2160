"""overrides.auto: per_device_batch. The largest batch per device that fits, tried on the longest examples.

The total batch stays what it is: only sizes that divide a process's share of it come into question, and accumulation
makes up for the rest. Sizes are tried from the largest down, since running out of memory shows within one step.
"""

from collections.abc import Callable, Sequence

import torch

from finetune_trainer.errors import OutOfMemory
from finetune_trainer.train.advice import is_out_of_memory
from finetune_trainer.train.batches import Examples, StepPlan
from finetune_trainer.train.distributed import release_memory
from finetune_trainer.train.stepper import Stepper


def sizes_to_try(total: int, largest: int, processes: int) -> list[int]:
    """The batches per device, at most `largest`, that keep the total; the largest first."""
    share = total // processes
    return [size for size in range(min(largest, share), 0, -1) if share % size == 0]


def largest_batch(
    stepper: Stepper, examples: Examples, sizes: Sequence[int], beat: Callable[[], None] = lambda: None
) -> int:
    """The first of the sizes that fits on every process. Weights and gradients are left as they were, and the
    stepper's optimizer (with a rate of 0) is spent. Raises OutOfMemory if none fits."""
    longest = sorted(range(len(examples)), key=lambda row: (-examples.lengths[row], row))
    problem = ""
    for size in sizes:
        failed = _failure(stepper, examples, longest[:size])
        _tidy(stepper)
        beat()
        if not stepper.world.any(failed is not None):
            return size
        problem = failed or "another process had too little memory"
    raise OutOfMemory(f"overrides.auto: not even a per-device batch of {sizes[-1]} fits ({problem})")


def _failure(stepper: Stepper, examples: Examples, rows: list[int]) -> str | None:
    """What one step on these rows ran out of; None if it passed."""
    plan = StepPlan(
        epoch=0,
        index=0,
        micro_rows=[rows],
        weight=max(1, sum(examples.weights[row] for row in rows)),
        tokens=sum(examples.lengths[row] for row in rows),
        rows=len(rows),
    )
    try:
        _fill_optimizer(stepper)
        stepper.gradients(plan, iter([examples.collate([examples[row] for row in rows])]))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return (str(error).splitlines() or [""])[0][:300]
    return None


def _fill_optimizer(stepper: Stepper) -> None:
    """Makes the optimizer allocate its state, which it does at its first step: a rate of 0 leaves the weights alone."""
    if stepper.optimizer.state:
        return
    for group in stepper.optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    stepper.optimizer.step()


def _tidy(stepper: Stepper) -> None:
    stepper.optimizer.zero_grad(set_to_none=True)
    release_memory()

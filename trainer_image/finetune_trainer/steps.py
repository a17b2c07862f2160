"""How many optimizer steps a job takes: the one arithmetic of the plan, the download pod and the loop."""

import math
from dataclasses import dataclass

from finetune_api.resolve import ResolvedSpec


@dataclass(frozen=True)
class Steps:
    """Optimizer steps of one epoch and in all, and the epochs that these are."""

    per_epoch: int
    total: int
    epochs: float


def count_steps(
    examples: int, total_batch: int, epochs: float | None, max_steps: int, min_update_steps: int | None = None
) -> Steps:
    """A short last batch is a step like any other; max_steps, where positive, wins over epochs.

    min_update_steps: without max_steps, whole epochs until at least so many steps are done (LLMForge's rule), instead
    of `epochs`.
    """
    per_epoch = max(1, math.ceil(examples / total_batch))
    if max_steps > 0:
        return Steps(per_epoch, max_steps, max_steps / per_epoch)
    if min_update_steps is not None:
        epochs = math.ceil(min_update_steps / per_epoch)
    if epochs is None:
        raise ValueError("neither epochs nor steps are given")
    return Steps(per_epoch, max(1, math.ceil(epochs * per_epoch)), epochs)


def plan_steps(resolved: ResolvedSpec, examples: int) -> Steps:
    """The steps of a job with so many training examples."""
    arguments, overrides = resolved.training_args, resolved.spec.overrides
    return count_steps(
        examples,
        resolved.total_batch,
        float(arguments["num_train_epochs"]),
        int(arguments["max_steps"]),
        overrides.min_update_steps if overrides else None,
    )


def warmup_steps(warmup: float, total_steps: int) -> int:
    """Steps of warmup: whole steps, or a share of all steps (rounded up) when below 1."""
    return int(warmup) if warmup >= 1 else math.ceil(round(total_steps * warmup, 6))

"""One optimizer step: gradients summed over micro-batches and processes, clipped, applied.

The training loop and the searches of overrides.auto make the same steps.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from finetune_trainer.train.adapter_steps import AdapterSteps
from finetune_trainer.train.batches import MicroBatch, StepPlan
from finetune_trainer.train.distributed import World, autocast
from finetune_trainer.train.loss import to_device
from finetune_trainer.train.objective import Objective, Sums


@dataclass
class Stepper:
    """What a step needs. `model` may be wrapped for data parallelism; `plain` never is."""

    model: Any
    plain: Any
    objective: Objective
    optimizer: torch.optim.Optimizer
    scaler: Any
    max_grad_norm: float
    world: World
    precision: str

    def __post_init__(self) -> None:
        self._parameters = [one for one in self.plain.parameters() if one.requires_grad]
        self.adapter_steps: AdapterSteps | None = None

    def gradients(
        self,
        plan: StepPlan,
        batches: Iterator[MicroBatch],
        *,
        stop: Callable[[], bool] = lambda: False,
        done: Callable[[Sums], None] = lambda sums: None,
    ) -> torch.Tensor | None:
        """Gradients of the step's loss; this process's share of that loss. None if `stop` ended it between two
        micro-batches, leaving the weights as they were."""
        self.optimizer.zero_grad(set_to_none=True)
        # Data parallelism averages gradients over processes, but the loss is a sum over all of them.
        scale = self.world.size / max(1, plan.weight)
        loss = torch.zeros((), device=self.world.device)
        if self.adapter_steps is not None:
            self.adapter_steps.add_gradient(self.scaler)
        last = len(plan.micro_rows) - 1
        for index, batch in enumerate(batches):
            if index and stop():
                return None
            with self._no_reduction(index < last):
                with autocast(self.world.device, self.precision):
                    sums = self.objective.sums(self.model, to_device(batch, self.world.device), training=True)
                part = sums.loss * scale
                (self.scaler.scale(part) if self.scaler else part).backward()
            loss += part.detach()
            done(sums)
        return loss / self.world.size

    def _no_reduction(self, wanted: bool) -> contextlib.AbstractContextManager[Any]:
        """Gradients are exchanged once a step, with the last micro-batch."""
        model = self.model
        if hasattr(model, "set_requires_gradient_sync"):  # split weights: a state of the model, not a context
            model.set_requires_gradient_sync(not wanted)
        return model.no_sync() if wanted and hasattr(model, "no_sync") else contextlib.nullcontext()

    def apply(self) -> torch.Tensor:
        """Clips and updates the weights; the norm of the gradient before clipping."""
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self.max_grad_norm or math.inf)
        if self.scaler:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        norm = norm.detach()
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # of split gradients
